"""What counts as an answer of the judge: exactly one valid score for each name that was asked for.

Harmless wrapping is taken off (a fence, a remark around, thoughts before it, numbers in quotation marks).
Whatever would need a guess is refused, and asked for again: nothing here clamps, rounds, fills in, or goes by
position.
"""

import json
import math
import re
from collections.abc import Sequence
from typing import Any

import msgspec

from babylon_rl.scoring.judge.errors import InvalidReplyError
from babylon_rl.scoring.judge.rubric import CRITERIA

LONGEST_REPLY = 400_000
LONGEST_REASON = 600
MOST_BRACKETS = 500
"""Places of a reply at which a JSON document is looked for."""

_THOUGHTS = re.compile(r"\A\s*<(think|thinking|reasoning)>.*?</\1>", re.DOTALL | re.IGNORECASE)
_OPEN_THOUGHTS = re.compile(r"\A\s*<(?:think|thinking|reasoning)>", re.IGNORECASE)
_QUOTED_NUMBER = re.compile(r"\s*(?:0?\.\d+|0|1|0\.|1\.0*)\s*", re.ASCII)
_OPENING = re.compile(r"[{\[]")
_UNSTORABLE = re.compile("[\u0000\ud800-\udfff]")


class EpisodeScore(msgspec.Struct, frozen=True):
    """What the judge said of one episode."""

    score: float
    """From 0 to 1."""
    reason: str
    components: dict[str, float] = msgspec.field(default_factory=dict)
    """By criterion, from 0 to 1; those that were missing or invalid are left out."""


def parse_reply(
    text: str | None, ids: Sequence[str], *, finish_reason: str | None = None, refusal: str | None = None
) -> dict[str, EpisodeScore]:
    """Returns the scores by name.

    Raises:
        InvalidReplyError: Not exactly one finite score from 0 to 1 for each of `ids`.
    """
    if refusal or finish_reason == "content_filter":
        raise InvalidReplyError("refused", (refusal or "content filter")[:200])
    if text is None or not text.strip():
        raise InvalidReplyError("empty", "no text")
    if finish_reason == "length":
        raise InvalidReplyError("truncated", f"stopped by the token limit after {len(text)} characters")
    if len(text) > LONGEST_REPLY:
        raise InvalidReplyError("too_long", f"{len(text)} characters")
    entries = _entries(_thoughts_off(text))
    found: dict[str, EpisodeScore] = {}
    for entry in entries:
        name = entry.get("id") if isinstance(entry, dict) else None
        if not isinstance(name, str) or name not in ids:
            raise InvalidReplyError("unknown_id", f"{str(name)[:40]!r} was not asked for")
        if name in found:
            raise InvalidReplyError("duplicate_id", f"{name} occurs twice")
        found[name] = EpisodeScore(_score(entry), _reason(entry), _components(entry))
    if missing := [name for name in ids if name not in found]:
        raise InvalidReplyError("missing_id", f"{len(missing)} of {len(ids)} episodes have no score")
    return found


def storable(text: str) -> str:
    """Returns a text that PostgreSQL and UTF-8 can hold, of bounded length."""
    return _UNSTORABLE.sub("\ufffd", text)[:LONGEST_REASON]


def _thoughts_off(text: str) -> str:
    rest = _THOUGHTS.sub("", text, count=1)
    if _OPEN_THOUGHTS.match(rest):
        raise InvalidReplyError("truncated", "thoughts without an answer")
    return rest


def _entries(text: str) -> list[Any]:
    """The list of the one document in a text that has scores; drafts beside it would make it ambiguous."""
    answers = [document for document in _documents(text) if _has_scores(document)]
    if len(answers) > 1:
        raise InvalidReplyError("ambiguous", f"{len(answers)} answers in one reply")
    if not answers:
        raise InvalidReplyError("not_json", "no JSON object with scores")
    answer = answers[0]
    return answer["scores"] if isinstance(answer, dict) else answer


def _has_scores(document: Any) -> bool:
    if isinstance(document, dict):
        return isinstance(document.get("scores"), list)
    return isinstance(document, list) and any(isinstance(e, dict) and "score" in e for e in document)


def _documents(text: str) -> list[Any]:
    """All JSON objects and arrays of a text that are not inside of another one."""
    decoder = json.JSONDecoder(object_pairs_hook=_no_repeated_keys)
    documents, at = [], 0
    for _ in range(MOST_BRACKETS):
        opening = _OPENING.search(text, at)
        if opening is None:
            return documents
        try:
            document, at = decoder.raw_decode(text, opening.start())
        except (ValueError, RecursionError):  # ValueError also for integers of thousands of digits
            at = opening.start() + 1
            continue
        documents.append(document)
    raise InvalidReplyError("not_json", "too many brackets that open nothing")


def _no_repeated_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        raise InvalidReplyError("repeated_key", "an entry has a field twice")
    return document


def _score(entry: dict[str, Any]) -> float:
    number = _number(entry.get("score"))
    if number is None:
        raise InvalidReplyError("no_number", f"score of {entry['id']} is {str(entry.get('score'))[:40]!r}")
    if not 0.0 <= number <= 1.0:
        raise InvalidReplyError("out_of_range", f"score of {entry['id']} is {number:g}")
    return number


def _number(value: Any) -> float | None:
    """A finite number, also in quotation marks; True is none."""
    if isinstance(value, bool):
        return None
    if isinstance(value, str) and _QUOTED_NUMBER.fullmatch(value):
        value = float(value)
    if not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _components(entry: dict[str, Any]) -> dict[str, float]:
    rated = {name: _number(entry.get(name)) for name in CRITERIA}
    return {name: number for name, number in rated.items() if number is not None and 0 <= number <= 1}


def _reason(entry: dict[str, Any]) -> str:
    reason = entry.get("reason")
    return storable(reason) if isinstance(reason, str) else ""
