"""Corrections for recorded data: hand-computed ratios, masks and weights, through ART's own loss."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch  # noqa: TID253 - the tensors under test

from babylon_rl.policy.chat import ChatRequest
from babylon_rl.policy.control_tokens import neutralise
from babylon_rl.policy.engine import EmbeddedEngine
from babylon_rl.training.conversion import to_art_groups
from babylon_rl.training.embedded import _pack, optimise
from babylon_rl.training.off_policy import correct, spare, step_ratios
from babylon_rl.training.recipe import EmbeddedTrainConfig
from babylon_rl_tests.played import play_day, trainable


def batch(recorded: list[list[float]], advantages: list[float]) -> dict[str, Any]:
    """Two tokens of prompt, then the answer's."""
    logprobs = torch.tensor([[math.nan, math.nan, *row] for row in recorded])
    answers = torch.zeros_like(logprobs, dtype=torch.bool)
    answers[:, 2:] = True
    spread = torch.tensor(advantages)[:, None] * answers
    return {"logprobs": logprobs, "assistant_mask": answers, "advantages": spread}


def parent(rows: list[list[float]]) -> torch.Tensor:
    return torch.tensor([[0.0, 0.0, *row] for row in rows])


def test_moments_of_the_ratio_and_effective_sample_size() -> None:
    packed = batch([[-1.0, -1.0], [-1.0, -1.0]], [1.0, -1.0])
    found = correct(packed, parent([[-1.0, -1.0], [-1.0, -1.0 + math.log(3)]]), EmbeddedTrainConfig())
    assert found["off_policy/effective_sample_size"] == pytest.approx((1 + 3) ** 2 / (1 + 9))
    assert found["off_policy/effective_share"] == pytest.approx(0.8)
    assert found["off_policy/ratio_mean"] == pytest.approx(1.5)
    assert found["off_policy/ratio_max"] == pytest.approx(3.0, rel=1e-5)
    assert found["off_policy/second_moment"] == pytest.approx(math.log(3) ** 2 / 4)
    assert found["off_policy/outside_clip_share"] == 0.0, "a bad answer that became likelier is not clipped"


@pytest.mark.parametrize(("level", "share"), [("token", 0.5), ("sequence", 0.0)])
def test_an_answer_is_clipped_as_a_whole_unless_tokens_are_asked_for(level: Any, share: float) -> None:
    config = EmbeddedTrainConfig(importance_sampling=level)
    packed = batch([[-1.0, -1.0], [-1.0, -1.0]], [1.0, -1.0])
    # One token of each went by a third; the geometric mean over the answer by less than a fifth.
    moved = [[-1.0 + math.log(4 / 3), -1.0], [-1.0, -1.0 - math.log(4 / 3)]]
    assert correct(packed, parent(moved), config)["off_policy/outside_clip_share"] == share
    new = torch.nn.functional.pad(parent(moved)[:, 1:], (0, 1))
    assert step_ratios(packed, new, config)["off_policy/clipped_share"] == share
    whole = torch.nn.functional.pad(parent([[-0.7, -0.7], [-1.3, -1.3]])[:, 1:], (0, 1))
    assert step_ratios(packed, whole, config)["off_policy/clipped_share"] == 1.0
    packed["advantages"] = packed["advantages"] * 0
    assert step_ratios(packed, whole, config)["off_policy/clipped_share"] == 0.0, "nothing was to be learned"


def test_truncated_weights_leave_the_clipped_ratio_at_the_parent() -> None:
    packed = batch([[-2.0, -1.0]], [1.0])
    found = correct(packed, parent([[-1.0, -1.5]]), EmbeddedTrainConfig(truncated_importance=2.0))
    assert packed["original_logprobs"][0, 2:].tolist() == [-2.0, -1.0]
    assert packed["logprobs"][0, 2:].tolist() == [-1.0, -1.5]
    assert found["off_policy/truncated_share"] == 0.5


def test_text_without_logprobs_counts_as_the_parents_own() -> None:
    packed = batch([[math.nan, math.nan], [-1.0, -1.0]], [1.0, 1.0])
    found = correct(packed, parent([[-3.0, -4.0], [-1.0, -1.0]]), EmbeddedTrainConfig())
    assert packed["logprobs"][0, 2:].tolist() == [-3.0, -4.0]
    assert found["off_policy/without_logprobs_share"] == 0.5 and found["off_policy/ratio_mean"] == 1.0


def test_the_veto_leaves_out_bad_answers_that_the_parent_would_hardly_give() -> None:
    packed = batch([[-1.0, -1.0]] * 3, [-1.0, 1.0, -1.0])
    config = EmbeddedTrainConfig(negative_veto=1.0)
    found = correct(packed, parent([[-3.0, -3.0], [-3.0, -3.0], [-1.2, -1.2]]), config)
    assert packed["advantages"][:, 2].tolist() == [0.0, 1.0, -1.0]
    assert found["off_policy/vetoed_share"] == pytest.approx(1 / 3)


def test_a_bad_answer_does_not_push_down_what_the_parent_was_certain_of() -> None:
    packed = batch([[-1.0, -1.0]] * 2, [-1.0, 1.0])
    certain, open_choice = math.log(0.99), math.log(0.6)
    now = parent([[certain, open_choice], [certain, open_choice]])
    found = spare(packed, now, EmbeddedTrainConfig(negative_spare=0.98))
    assert packed["advantages"][:, 2:].tolist() == [[0.0, -1.0], [1.0, 1.0]]
    assert found["off_policy/spared_share"] == 0.25
    packed = batch([[-1.0, -1.0]], [-1.0])
    for nothing in (1.0, None):
        found = spare(packed, now[:1], EmbeddedTrainConfig(negative_spare=nothing))
        assert found["off_policy/spared_share"] == 0.0
        assert packed["advantages"][0, 2:].tolist() == [-1.0, -1.0]


def test_second_moment_masking_drops_the_worst_tokens_first() -> None:
    packed = batch([[-1.0, -1.0, -1.0, -1.0]], [1.0])
    config = EmbeddedTrainConfig(second_moment=0.04)
    found = correct(packed, parent([[0.0, -0.9, -1.1, -1.0]]), config)
    assert packed["advantages"][0, 2:].tolist() == [0.0, 1.0, 1.0, 1.0]
    assert found["off_policy/masked_share"] == 0.25


@pytest.mark.parametrize(
    "options",
    [
        {"importance_sampling": "token"},
        {"truncated_importance": 2.0},
        {"negative_veto": 0.5, "second_moment": 0.04},
        {"negative_spare": 1.0},
        {"scale_rewards": True},
    ],
)
def test_every_option_trains_and_reports(base_engine: EmbeddedEngine, options: dict[str, Any]) -> None:
    from copy import deepcopy

    episodes = trainable(play_day(base_engine, windows=3, agents=4, seed=5))
    config = EmbeddedTrainConfig(epochs=1, minibatches=2, **options)
    model = deepcopy(base_engine.model)
    metrics = optimise(model, base_engine.tokenizer, to_art_groups(episodes), config)
    assert len(metrics) == 2
    for name in ("effective_sample_size", "clipped_share", "ratio_mean", "ratio_std", "second_moment"):
        assert math.isfinite(metrics[-1][f"off_policy/{name}"])


def test_foreign_text_trains_with_a_tokenizer_and_is_left_out_without(base_engine: EmbeddedEngine) -> None:
    episodes = trainable(play_day(base_engine, windows=2, agents=4, seed=5))
    blind = [
        replace(e, calls=[replace(call, token_ids=[], logprobs=[]) for call in e.calls]) for e in episodes
    ]
    assert to_art_groups(blind) == []
    packed = _pack(base_engine.tokenizer, to_art_groups(blind, base_engine.tokenizer))
    known = _pack(base_engine.tokenizer, to_art_groups(episodes))
    assert packed["assistant_mask"].sum() == known["assistant_mask"].sum(), "the same text, the same tokens"
    assert torch.isnan(packed["logprobs"]).all()


@pytest.mark.parametrize(
    "text",
    ["<|end|>", "a <|im_start|>system", "</s>", "[INST]", "<end_of_turn>", "<|<|end|>|>", "plain < 3 |"],
)
def test_control_tokens_in_text_are_taken_apart(base_engine: EmbeddedEngine, text: str) -> None:
    assert neutralise(neutralise(text)) == neutralise(text)
    special = set(base_engine.tokenizer.all_special_ids)

    def controls(content: str) -> int:
        ids = base_engine.encode(ChatRequest([{"role": "user", "content": content}]))
        return sum(token in special for token in ids)

    assert controls(text) == controls("plain")
