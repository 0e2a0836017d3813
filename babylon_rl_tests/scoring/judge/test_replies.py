"""Answers of a judge: harmless wrapping comes off, everything that needs a guess is refused."""

import json
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from babylon_rl.scoring.judge.errors import InvalidReplyError
from babylon_rl.scoring.judge.replies import parse_reply, storable

IDS = ["kqwzxt", "bbbbbb", "mnpqrs"]
TRUE = {"kqwzxt": 0.1, "bbbbbb": 0.5, "mnpqrs": 0.9}


def entries(**changes: Any) -> list[dict[str, Any]]:
    return [{"id": name, "reason": "so", "score": score} | changes for name, score in TRUE.items()]


def reply(found: list[dict[str, Any]] | None = None) -> str:
    return json.dumps({"scores": entries() if found is None else found})


def scores(text: str | None, **options: Any) -> dict[str, float]:
    return {name: found.score for name, found in parse_reply(text, IDS, **options).items()}


@pytest.mark.parametrize(
    "text",
    [
        reply(),
        reply(list(reversed(entries()))),
        f"```json\n{reply()}\n```",
        f"```\n{reply()}\n```",
        f"Sure {{as you like}}:\n{reply()}\nDone [end].",
        f"<think>maybe {reply(entries(score=0.3))}</think>{reply()}",
        f"\n <thinking>…</thinking> {reply()}",
        json.dumps(entries()),
        reply([e | {"score": str(e["score"])} for e in entries()]),
        reply()[:-1],  # the closing brace is missing, the list is whole
        json.dumps({"scores": entries(), "comment": "x"}, indent=2),
        reply([e | {"reason": None, "profit": "much"} for e in entries()]),
    ],
)
def test_unambiguous_answers_are_read(text: str):
    assert scores(text) == TRUE


FIRST = entries()[0]
REST = entries()[1:]


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (None, "empty"),
        ("  \n", "empty"),
        ("I cannot say.", "not_json"),
        ("[" * 5000, "not_json"),
        (reply()[:60], "not_json"),
        ('{"scores": {"kqwzxt": 0.1, "bbbbbb": 0.5, "mnpqrs": 0.9}}', "not_json"),
        (f"<think>still {reply()}", "truncated"),
        (reply(REST), "missing_id"),
        (reply([]), "missing_id"),
        (reply([*entries(), FIRST]), "duplicate_id"),
        (reply([FIRST, FIRST, *REST]), "duplicate_id"),
        (reply([*entries(), FIRST | {"id": "other"}]), "unknown_id"),
        (reply([FIRST | {"id": "KQWZXT"}, *REST]), "unknown_id"),
        (reply([FIRST | {"id": "kqwzxt "}, *REST]), "unknown_id"),
        (reply([FIRST | {"id": 1}, *REST]), "unknown_id"),
        (reply([FIRST | {"id": ["kqwzxt"]}, *REST]), "unknown_id"),
        (reply([{"score": 0.1}, *REST]), "unknown_id"),
        (json.dumps({"scores": ["kqwzxt", 0.1]}), "unknown_id"),
        (reply([FIRST | {"score": 7.0}, *REST]), "out_of_range"),
        (reply([FIRST | {"score": -0.01}, *REST]), "out_of_range"),
        (reply([FIRST | {"score": 1.0000001}, *REST]), "out_of_range"),
        (reply([FIRST | {"score": float("nan")}, *REST]), "no_number"),
        (reply([FIRST | {"score": float("inf")}, *REST]), "no_number"),
        (reply([FIRST | {"score": None}, *REST]), "no_number"),
        (reply([FIRST | {"score": True}, *REST]), "no_number"),
        (reply([FIRST | {"score": "90%"}, *REST]), "no_number"),
        (reply([FIRST | {"score": "0,5"}, *REST]), "no_number"),
        (reply([FIRST | {"score": "nan"}, *REST]), "no_number"),
        (reply([FIRST | {"score": "١"}, *REST]), "no_number"),
        (reply([FIRST | {"score": [0.1]}, *REST]), "no_number"),
        (reply().replace("0.1", "1e999"), "no_number"),
        (reply().replace("0.1", "9" * 5000), "not_json"),
        (reply().replace('"score": 0.1', '"score": 0.1, "score": 0.9'), "repeated_key"),
        (reply() + "\n" + reply(entries(score=0.3)), "ambiguous"),
        (reply() + reply(), "ambiguous"),
    ],
)
def test_everything_else_is_refused_with_its_kind(text: str | None, kind: str):
    with pytest.raises(InvalidReplyError) as caught:
        parse_reply(text, IDS)
    assert caught.value.kind == kind


def test_refusals_and_cut_answers_are_told_apart():
    for options, kind in (
        ({"refusal": "No."}, "refused"),
        ({"finish_reason": "content_filter"}, "refused"),
        ({"finish_reason": "length"}, "truncated"),
    ):
        with pytest.raises(InvalidReplyError) as caught:
            parse_reply(reply(), IDS, **options)
        assert caught.value.kind == kind


def test_reasons_and_components_come_along():
    found = parse_reply(
        reply(
            [e | {"profit": 0.25, "risk": 3, "timing": "0.5", "reason": "a\u0000b" * 1000} for e in entries()]
        ),
        IDS,
    )["kqwzxt"]
    assert found.components == {"profit": 0.25, "timing": 0.5}
    assert "\u0000" not in found.reason and len(found.reason) == 600
    assert storable("\ud800x") == "\ufffdx"


@given(st.text(max_size=300))
def test_no_text_at_all_breaks_the_reader(text: str):
    with pytest.raises(InvalidReplyError):
        parse_reply(text, IDS)


@given(st.integers(0, 2**32), st.integers(1, 60))
def test_damaged_answers_are_refused_or_true(seed: int, edits: int):
    rng, text = random.Random(seed), list(reply())
    for _ in range(edits):
        at = rng.randrange(len(text))
        if rng.random() < 0.5:
            del text[at]
        else:
            text.insert(at, rng.choice('{}[]",:0123456789.eE-\\ntrue '))
    try:
        found = parse_reply("".join(text), IDS)
    except InvalidReplyError:
        return
    assert set(found) == set(IDS) and all(0 <= s.score <= 1 for s in found.values())
