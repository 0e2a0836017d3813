"""The leak scan: does a message that will be trained tell what its author could not have known?

The policy must never see the hidden answer of a question, the outcomes of a window or anything a judge wrote.
The scan looks for the names under which the game and this project keep them, for statements of a
prediction's answer beside the question or the market's id, and for the same in other words (`paraphrases`).
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from babylon_rl.outcomes.window_outcomes import UNRESOLVED, WindowOutcomes
from babylon_rl.policy.chat import Message
from babylon_rl.training.paraphrases import Paraphrases

MARKERS = (
    "ground truth",
    "agent did not know",
    "pointstoward",
    "resolvedoutcome",
    "resolved_outcome",
    "trueprobabilities",
    "actualoutcomes",
    "futureoutcomes",
    "gameknowledge",
    "market_outcomes",
    "aijudgereward",
    "predictioncorrect",
    "perpcorrect",
    "sentimentattrade",
)
"""Names of hidden things, in lower case; none of them belongs into a prompt."""

NEARBY_CHARACTERS = 120
"""An answer this close to its question is a statement of the outcome."""

EXCERPT = 200
"""Characters of a leaking sentence that are reported."""

DISTINCTIVE = 8
"""Shorter ids ("7", "BTC-1") occur in ordinary text, so they count only after the word market or question."""

_ANSWER = r"(?:outcome|resolve[sd]?(?:\s+to)?|answer|result)\W{0,5}(?:is|was|will be|=)?\W{0,5}"


_STATED = re.compile(f"{_ANSWER}(?:YES|NO)\\b", re.IGNORECASE)
"""Without it no message states any answer, which spares the search for each market."""


@dataclass(frozen=True)
class Leak:
    """One finding."""

    window_id: str
    agent_id: str
    kind: str
    """``marker``, ``answer``, ``paraphrase`` of an answer, or ``price`` at the end of the window."""
    excerpt: str


def scan(
    window_id: str, agent_id: str, conversations: Iterable[Sequence[Message]], outcomes: WindowOutcomes | None
) -> list[Leak]:
    """Look through the messages of one episode.

    Args:
        outcomes: the window's ground truth; without it only the markers are looked for.
    """
    patterns = _patterns(outcomes)
    paraphrases = _prepared(outcomes) if outcomes else None
    known: dict[str, list[tuple[str, str]]] = {}
    found = []
    for messages in conversations:
        for message in messages:
            text = message["content"]
            if text not in known:  # the calls of an episode repeat their system prompt
                known[text] = _findings(text, patterns, paraphrases)
            found += [Leak(window_id, agent_id, kind, excerpt) for kind, excerpt in known[text]]
    return found


_latest: list[tuple[WindowOutcomes, Paraphrases]] = []


def _prepared(outcomes: WindowOutcomes) -> Paraphrases:
    """Scans come episode by episode of one window: what the window knows is prepared once."""
    if not _latest or _latest[0][0] is not outcomes:
        _latest[:] = [(outcomes, Paraphrases(outcomes))]
    return _latest[0][1]


def _findings(
    text: str, patterns: Sequence[tuple[str, re.Pattern[str]]], paraphrases: Paraphrases | None
) -> list[tuple[str, str]]:
    found = []
    stated = _STATED.search(text)
    for kind, pattern in patterns:
        if (kind == "marker" or stated) and (match := pattern.search(text)):
            found.append((kind, text[max(0, match.start() - 20) : match.end() + 20]))
    if paraphrases is not None and not any(kind == "answer" for kind, _ in found):
        found += [(kind, sentence[:EXCERPT]) for kind, sentence in paraphrases.find(text)]
    return found


def _patterns(outcomes: WindowOutcomes | None) -> list[tuple[str, re.Pattern[str]]]:
    markers = re.compile("|".join(map(re.escape, MARKERS)), re.IGNORECASE)
    patterns = [("marker", markers)]
    for market in outcomes.predictions if outcomes else ():
        if market.outcome == UNRESOLVED:
            continue
        names = "|".join(
            pattern for pattern in (_named(market.question), _identified(market.market_id)) if pattern
        )
        if not names:
            continue
        gap, answer = f"[\\s\\S]{{0,{NEARBY_CHARACTERS}}}", f"{_ANSWER}{market.outcome}\\b"
        patterns.append(
            ("answer", re.compile(f"(?:{names}){gap}{answer}|{answer}{gap}(?:{names})", re.IGNORECASE))
        )
    return patterns


def _named(question: str) -> str:
    """Pattern of a question's text: whole words only, so that a short one is not found inside others."""
    start, end = (
        (r"(?<!\w)" if question[:1].isalnum() else ""),
        (r"(?!\w)" if question[-1:].isalnum() else ""),
    )
    return f"{start}{re.escape(question)}{end}" if question.strip() else ""


def _identified(market_id: str) -> str:
    """Pattern of a market's id, never as part of a longer one."""
    if not market_id:
        return ""
    whole = rf"(?<![\w-]){re.escape(market_id)}(?![\w-])"
    named = r"(?:market|question)(?:[\s_]*id)?[\s\"':=#]{0,5}"
    return whole if len(market_id) >= DISTINCTIVE else named + re.escape(market_id) + r"(?![\w-])"
