"""Answers of a judge that means well and writes badly: `fuzz(n, scores, id_key)` is always the same.

The scores are what the judge means for each id. Kinds that only change the form keep that meaning; the others
damage it, and a reader must refuse them.
"""

import json
import random
from collections.abc import Callable
from typing import Any

Entries = list[dict[str, Any]]


def fuzz(number: int, scores: dict[str, float], id_key: str) -> tuple[str | None, str]:
    """Returns text and finish reason of answer `number`."""
    rng = random.Random(number)
    return KINDS[kind_of(number)](rng, _entries(scores, id_key), id_key)


def kind_of(number: int) -> str:
    """Returns the name of what is done to answer `number`; all kinds are equally frequent."""
    names = list(KINDS)
    return names[number % len(names)]


def _entries(scores: dict[str, float], id_key: str) -> Entries:
    return [
        {id_key: name, "explanation": "so", "reason": "so", "score": score} for name, score in scores.items()
    ]


def _text(entries: Entries) -> str:
    return json.dumps({"scores": entries})


def _shuffled(rng: random.Random, entries: Entries) -> Entries:
    return rng.sample(entries, len(entries))


def _one(rng: random.Random, entries: Entries, **changes: Any) -> Entries:
    at = rng.randrange(len(entries))
    return [entry | changes if i == at else entry for i, entry in enumerate(entries)]


def _all(entries: Entries, change: Callable[[float], Any]) -> Entries:
    return [entry | {"score": change(entry["score"])} for entry in entries]


def _twice(rng: random.Random, entries: Entries) -> Entries:
    """One id twice, with another's score, and that other one missing: the count is right."""
    first, second = rng.sample(range(len(entries)), 2)
    return [
        entry | {key: entries[second][key] for key in entry if key in ("id", "trajectory_id")}
        if i == first
        else entry
        for i, entry in enumerate(entries)
    ]


def _best_first(entries: Entries, key: str) -> Entries:
    return sorted(entries, key=lambda entry: (-entry["score"], str(entry[key])))


def _damaged(rng: random.Random, text: str) -> str:
    """A few characters replaced, but no digit: nobody could tell a score of 0.97 that was 0.973."""
    letters = list(text)
    places = [i for i, letter in enumerate(letters) if letter not in "0123456789."]
    for place in rng.sample(places, rng.randint(1, 6)):
        letters[place] = rng.choice('{}[]",: ')
    return "".join(letters)


STOP = "stop"
KINDS: dict[str, Callable[[random.Random, Entries, str], tuple[str | None, str]]] = {
    "as asked": lambda r, e, k: (_text(e), STOP),
    "reordered": lambda r, e, k: (_text(_shuffled(r, e)), STOP),
    "reversed": lambda r, e, k: (_text(e[::-1]), STOP),
    "best first": lambda r, e, k: (_text(_best_first(e, k)), STOP),
    "fenced": lambda r, e, k: (f"```json\n{_text(_shuffled(r, e))}\n```", STOP),
    "prose around": lambda r, e, k: (f"My judgment:\n{_text(_shuffled(r, e))}\nGood luck {{all}}.", STOP),
    "thoughts before": lambda r, e, k: (f"<think>{{hm}}</think>{_text(_shuffled(r, e))}", STOP),
    "draft in thoughts": lambda r, e, k: (f"<think>{_text(_all(e, lambda s: 0.5))}</think>{_text(e)}", STOP),
    "draft and answer": lambda r, e, k: (_text(_all(e, lambda s: 0.5)) + "\n" + _text(e), STOP),
    "numbers as text": lambda r, e, k: (_text(_all(_shuffled(r, e), str)), STOP),
    "percent": lambda r, e, k: (_text(_all(e, lambda s: f"{s:.0%}")), STOP),
    "scale of 100": lambda r, e, k: (_text(_all(e, lambda s: round(100 * s + 1, 3))), STOP),
    "one too high": lambda r, e, k: (_text(_one(r, e, score=7.0)), STOP),
    "one negative": lambda r, e, k: (_text(_one(r, e, score=-3.0)), STOP),
    "one not a number": lambda r, e, k: (_text(_one(r, e, score=float("nan"))), STOP),
    "one infinite": lambda r, e, k: (_text(_one(r, e, score=float("inf"))), STOP),
    "one null": lambda r, e, k: (_text(_one(r, e, score=None)), STOP),
    "one true": lambda r, e, k: (_text(_one(r, e, score=True)), STOP),
    "one in words": lambda r, e, k: (_text(_one(r, e, score="high")), STOP),
    "one without score": lambda r, e, k: (_text([{k: e[0][k]}, *e[1:]]), STOP),
    "one missing": lambda r, e, k: (_text(_shuffled(r, e)[1:]), STOP),
    "one too many": lambda r, e, k: (_text([*e, {**e[0], k: "extra", "score": 0.5}]), STOP),
    "one id twice": lambda r, e, k: (_text(_twice(r, e)), STOP),
    "one entry twice": lambda r, e, k: (_text([*_shuffled(r, e), e[0]]), STOP),
    "one id in capitals": lambda r, e, k: (
        _text(_one(r, _shuffled(r, e), **{k: "A" + str(e[0][k]).upper()})),
        STOP,
    ),
    "ids as positions": lambda r, e, k: (_text([x | {k: i} for i, x in enumerate(_shuffled(r, e))]), STOP),
    "ids left out": lambda r, e, k: (_text([{"score": x["score"]} for x in _shuffled(r, e)]), STOP),
    "a field twice": lambda r, e, k: (_text(e).replace('"score": ', '"score": 0.99, "score": ', 1), STOP),
    "cut": lambda r, e, k: (_text(e)[: r.randrange(5, len(_text(e)))], STOP),
    "cut and said so": lambda r, e, k: (_text(e)[: r.randrange(5, len(_text(e)))], "length"),
    "damaged": lambda r, e, k: (_damaged(r, _text(_shuffled(r, e))), STOP),
    "empty": lambda r, e, k: ("", STOP),
    "refused": lambda r, e, k: ("I'm sorry, I can't help with that.", STOP),
    "null": lambda r, e, k: (None, STOP),
    "other object": lambda r, e, k: (json.dumps({"verdict": dict.fromkeys(("a", "b"), 1)}), STOP),
    "bare list": lambda r, e, k: (json.dumps(_shuffled(r, e)), STOP),
}
