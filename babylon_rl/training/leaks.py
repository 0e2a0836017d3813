"""The leak scan: does a message that will be trained tell what its author could not have known?

The policy must never see the hidden answer of a question, the outcomes of a window or anything a judge wrote.
The scan looks for the names under which the game and this project keep them, and for statements of a
prediction's answer.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from babylon_rl.outcomes.window_outcomes import UNRESOLVED, WindowOutcomes
from babylon_rl.policy.chat import Message

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

_ANSWER = r"(?:outcome|resolve[sd]?(?:\s+to)?|answer|result)\W{0,5}(?:is|was|will be|=)?\W{0,5}"


@dataclass(frozen=True)
class Leak:
    """One finding."""

    window_id: str
    agent_id: str
    kind: str
    """``marker`` or ``answer``."""
    excerpt: str


def scan(
    window_id: str, agent_id: str, conversations: Iterable[Sequence[Message]], outcomes: WindowOutcomes | None
) -> list[Leak]:
    """Look through the messages of one episode.

    Args:
        outcomes: the window's ground truth; without it only the markers are looked for.
    """
    patterns = _patterns(outcomes)
    found = []
    for messages in conversations:
        for message in messages:
            for kind, pattern in patterns:
                if match := pattern.search(message["content"]):
                    excerpt = message["content"][max(0, match.start() - 20) : match.end() + 20]
                    found.append(Leak(window_id, agent_id, kind, excerpt))
    return found


def _patterns(outcomes: WindowOutcomes | None) -> list[tuple[str, re.Pattern[str]]]:
    markers = re.compile("|".join(map(re.escape, MARKERS)), re.IGNORECASE)
    patterns = [("marker", markers)]
    for market in outcomes.predictions if outcomes else ():
        if market.outcome == UNRESOLVED:
            continue
        names = "|".join(re.escape(name) for name in (market.question, market.market_id) if name)
        gap, answer = f"[\\s\\S]{{0,{NEARBY_CHARACTERS}}}", f"{_ANSWER}{market.outcome}\\b"
        patterns.append(
            ("answer", re.compile(f"(?:{names}){gap}{answer}|{answer}{gap}(?:{names})", re.IGNORECASE))
        )
    return patterns
