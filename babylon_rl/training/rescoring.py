"""Calls that were recorded without log-probabilities, read again by the checkpoint that answered them.

A recorder that keeps texts alone loses what off-policy learning needs. Where the call names a version whose
checkpoint is on this disk, nothing is lost: prompt and answer are rendered as the engine rendered them, one
pass without gradient gives the probability of each token, and the call is then like any other, with positive
and negative advantages. Answers that are known as text only get the tokens that the tokenizer makes of it,
with the end of the turn: seldom, the model had spelled the same text with others.

What was sampled otherwise than at temperature 1 from the whole distribution stays as it is. So does a call
that does not say its temperature: recorders that keep no log-probabilities rarely sample at 1, and wrong
probabilities are worse than none.
"""

import asyncio
import logging
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote, urlparse

import asyncpg
import msgspec

from babylon_rl.policy.chat import ChatRequest
from babylon_rl.policy.engine import EmbeddedEngine
from babylon_rl.policy.errors import CheckpointError, PromptTooLongError
from babylon_rl.records.steps import LlmCall
from babylon_rl.scoring.groups import SCORED, Member, ScoredGroup
from babylon_rl.settings import get_settings
from babylon_rl.training.conversion import text_tokens
from babylon_rl.training.shared_prompts import number_prompts
from babylon_rl.training.token_logprobs import REFERENCE_ROWS, reference_logprobs

log = logging.getLogger(__name__)

RESCORED, NOT_OURS, NOT_HELD = "rescored", "not_ours", "checkpoint_not_held"
OTHER_SAMPLING, CUT, EMPTY_ANSWER = "other_sampling", "cut", "empty_answer"
OTHER_TEMPLATE, UNREADABLE, TOO_LONG = "other_chat_template", "unreadable_prompt", "prompt_too_long"

_MODELS = """
SELECT version, storage_path, coalesce(manifest ->> 'backend', 'embedded') = 'embedded' AS embedded
  FROM rl.models WHERE status IN ('ready', 'deployed', 'archived')
"""

Row = tuple[list[int], list[int]]
"""Token ids of a prompt and of its answer."""


async def rescore(
    rl: asyncpg.Connection, groups: Sequence[ScoredGroup]
) -> tuple[list[ScoredGroup], Counter[str]]:
    """Give calls of scored windows the log-probabilities that nobody recorded, where that can be done.

    Returns:
        The groups, and all calls that came without log-probabilities by what became of them: ``rescored``, or
        why not.
    """
    found: Counter[str] = Counter()
    lacking = [
        call
        for group in groups
        if group.status == SCORED
        for member in group.members
        for call in member.calls
        if not call.has_tokens
    ]
    ours = {row["version"]: row for row in await rl.fetch(_MODELS)} if lacking else {}
    waiting: dict[str, list[LlmCall]] = defaultdict(list)
    for call in lacking:
        version = str(call.policy_version)
        if reason := NOT_OURS if version not in ours else _why_not(call):
            found[reason] += 1
        else:
            waiting[version].append(call)
    renewed: dict[int, LlmCall] = {}
    for version, calls in sorted(waiting.items()):
        results = await asyncio.to_thread(_read, _folder(ours[version]), version, calls)
        for call, result in zip(calls, results, strict=True):
            found[RESCORED if isinstance(result, LlmCall) else result] += 1
            if isinstance(result, LlmCall):
                renewed[id(call)] = result
    return [_renewed(group, renewed) for group in groups], found


def _why_not(call: LlmCall) -> str | None:
    """What the call itself says against it."""
    if call.temperature != 1 or call.top_p not in (None, 1):
        return OTHER_SAMPLING
    if call.finish_reason not in (None, "stop"):
        return CUT
    return None if call.response.strip() else EMPTY_ANSWER


def _folder(model: asyncpg.Record) -> Path | None:
    """Where an embedded checkpoint lies on this disk; one that was copied away lies where it was made."""
    if not model["embedded"]:
        return None
    address = urlparse(model["storage_path"] or "")
    stored = Path(unquote(address.path))
    if address.scheme == "file" and stored.is_dir():
        return stored
    made = get_settings().home / "checkpoints" / stored.name
    return made if stored.name and made.is_dir() else None


def _read(path: Path | None, version: str, calls: Sequence[LlmCall]) -> list[LlmCall | str]:
    """Each call with its log-probabilities under a checkpoint, or why it has none."""
    if path is None:
        return [NOT_HELD] * len(calls)
    try:
        engine = EmbeddedEngine.load(path, version)
    except CheckpointError as problem:
        log.warning("calls of %s are not scored again: %s", version, problem)
        return [NOT_HELD] * len(calls)
    rows = [_row(engine, call) for call in calls]
    logprobs = iter(answer_logprobs(engine, [row for row in rows if not isinstance(row, str)]))
    return [
        row if isinstance(row, str) else _filled(call, row, next(logprobs))
        for call, row in zip(calls, rows, strict=True)
    ]


def _row(engine: EmbeddedEngine, call: LlmCall) -> Row | str:
    """Tokens as the engine would have had them, or why it cannot have given this answer to this prompt."""
    from jinja2 import TemplateError

    if call.chat_template_hash not in (None, engine.chat_template_hash):
        return OTHER_TEMPLATE
    answer = _answer(engine, call)
    if call.finish_reason is None and _seems_cut(engine, call, answer):
        return CUT
    messages = call.chat_messages()
    if not all(isinstance(message.get(key), str) for message in messages for key in ("role", "content")):
        return UNREADABLE
    try:
        return engine.encode(ChatRequest(messages, max_tokens=len(answer))), answer
    except PromptTooLongError:
        return TOO_LONG
    except TemplateError:
        return UNREADABLE


def _answer(engine: EmbeddedEngine, call: LlmCall) -> list[int]:
    """The recorded ids where they say what was answered (up to a stop text), else the text's own."""
    ids, size = call.token_ids, engine.model.config.vocab_size
    if ids and all(0 <= token < size for token in ids) and engine.text(ids).startswith(call.response):
        return ids
    return text_tokens(call.response, engine.tokenizer)


def _seems_cut(engine: EmbeddedEngine, call: LlmCall, answer: Sequence[int]) -> bool:
    """Whether an answer whose end nobody recorded has no end, or one that its limit leaves no room for."""
    over = call.max_tokens is not None and len(answer) > call.max_tokens
    return over or answer[-1] != engine.tokenizer.eos_token_id


def answer_logprobs(engine: EmbeddedEngine, rows: Sequence[Row]) -> list[list[float]]:
    """Log-probability of each answer token, row by row; memory is bounded by one batch of rows."""
    # Equal prompts side by side: they are read once. Equal lengths too: less padding.
    order = sorted(range(len(rows)), key=lambda number: (len(rows[number][0]), rows[number]))
    found: dict[int, list[float]] = {}
    for first in range(0, len(order), REFERENCE_ROWS):
        chosen = order[first : first + REFERENCE_ROWS]
        found.update(zip(chosen, _batch_logprobs(engine, [rows[number] for number in chosen]), strict=True))
    return [found[number] for number in range(len(rows))]


def _batch_logprobs(engine: EmbeddedEngine, rows: Sequence[Row]) -> list[list[float]]:
    import torch

    tokens = torch.zeros(
        (len(rows), max(len(prompt) + len(answer) for prompt, answer in rows)), dtype=torch.long
    )
    answers = torch.zeros_like(tokens, dtype=torch.bool)
    for row, (prompt, answer) in enumerate(rows):
        end = len(prompt) + len(answer)
        tokens[row, :end] = torch.tensor([*prompt, *answer])
        answers[row, len(prompt) : end] = True
    packed = {"tokens": tokens, "assistant_mask": answers, "prompts": number_prompts(tokens, answers)}
    before = reference_logprobs(engine.model, packed)
    return [
        before[row, len(prompt) - 1 : len(prompt) + len(answer) - 1].tolist()
        for row, (prompt, answer) in enumerate(rows)
    ]


def _filled(call: LlmCall, row: Row, logprobs: list[float]) -> LlmCall:
    return msgspec.structs.replace(call, prompt_token_ids=row[0], token_ids=row[1], logprobs=logprobs)


def _renewed(group: ScoredGroup, renewed: dict[int, LlmCall]) -> ScoredGroup:
    """The group with the calls that have log-probabilities now; their members can be trained."""

    def member(old: Member) -> Member:
        calls = [renewed.get(id(call), call) for call in old.calls]
        if all(new is call for new, call in zip(calls, old.calls, strict=True)):
            return old
        return msgspec.structs.replace(old, calls=calls, trainable=True)

    return msgspec.structs.replace(group, members=[member(old) for old in group.members])
