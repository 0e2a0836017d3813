"""Tokens of a group as the judge sees it, and as it would be with whole steps, by the tokenizer of gpt-4o."""

import os
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from babylon_rl.scoring.judge.prices import known_price
from babylon_rl.scoring.judge.prompt import build_prompt, input_tokens, output_tokens
from babylon_rl.scoring.judge.redaction import Redactor
from babylon_rl.scoring.judge.rubric import DEFAULT
from babylon_rl.scoring.judge.truth import ground_truth
from babylon_rl.scoring.judge.views import build_views
from parts.judged_windows import make_window, whole_steps


class Tokens(NamedTuple):
    view: int
    """System message, ground truth and 8 episodes of 10 steps."""
    whole: int
    """The whole steps of these episodes."""
    estimate: int
    """What the scorer reserves for the request."""
    usd: float
    """Price of the request with the longest answer, by gpt-4o-mini's list price."""


def count_tokens(text: str) -> int:
    """Counts by o200k_base; litellm carries its file, so nothing is fetched."""
    package = find_spec("litellm")
    assert package is not None and package.origin is not None
    folder = Path(package.origin).parent / "litellm_core_utils" / "tokenizers"
    os.environ.setdefault("TIKTOKEN_CACHE_DIR", str(folder))
    import tiktoken

    return len(tiktoken.get_encoding("o200k_base").encode(text, disallowed_special=()))


def tokens_of_a_group() -> Tokens:
    """Returns the tokens of one group of 8 episodes of 10 steps, each about 3 KB as recorded."""
    window = make_window(1, "2026-10-01T14:00", agents=8, steps=10)
    views = build_views(window.episodes)
    assert window.outcomes is not None
    truth = ground_truth(window.outcomes, Redactor())
    prompt = build_prompt(DEFAULT, truth, [view.body for view in views])
    view = sum(count_tokens(message["content"]) for message in prompt.messages)
    price = known_price("gpt-4o-mini")
    return Tokens(
        view,
        count_tokens(whole_steps(window)),
        input_tokens(DEFAULT, truth, sum(v.tokens for v in views), len(views)),
        price.cost(view, output_tokens(len(views))) if price else 0.0,
    )
