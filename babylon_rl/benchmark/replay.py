"""Decision replay: what another policy would have made of recorded prompts, priced against the recorded path.

A model that talks to the real game cannot be gated in a toy market. It is asked what it would have answered
to prompts that agents really got, and so is the incumbent; both orders are priced at their horizon by the
pricer, and the difference is paired per decision. It is a one-step counterfactual of a small trader: the
prompt's account and the prices are those that were, whatever the answer.

Decisions of neighbouring hours share their market, so the interval's unit is a block of hours, not a
decision. Returns are on the equity of the moment, clipped to `DECISION_BOUND` on both sides.
"""

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

import numpy as np

from babylon_rl.benchmark.answers import Reading, Wanted, read_answer
from babylon_rl.benchmark.statistics import (
    Interval,
    UnusableSampleError,
    paired_interval,
    studentised_interval,
)
from babylon_rl.errors import BabylonError
from babylon_rl.policy.chat import ChatAnswer, ChatRequest, Message, Policy
from babylon_rl.policy.errors import PromptTooLongError
from babylon_rl.simulation.trader import Invalid
from babylon_rl.windows import parse_window

DECISION_BOUND = 0.2
"""Most that one decision may count, as a share of equity; fixed before any replay."""
BLOCK_HOURS = {"1h": 2, "24h": 48}
"""Twice the horizon: orders of one block share prices only with those at the next one's edge."""
CHUNK = 256
"""Prompts per call of a policy, and between two reports of progress."""


class NothingToReplayError(BabylonError):
    """No recorded decision may judge these models."""


@dataclass(frozen=True)
class RecordedDecision:
    """A prompt that an agent got, with what is needed to ask it again and to price the answer."""

    id: str
    """Trajectory and step."""
    window_id: str
    agent_id: str
    at: datetime
    equity: float
    """USD; the balance where the writer recorded no equity."""
    messages: Sequence[Message] = field(repr=False)
    temperature: float = 1.0
    max_tokens: int = 300
    tokens: int = 0
    """Of the prompt; counted by the writer, else a quarter of its characters."""

    def request(self) -> ChatRequest:
        """The same seed for every policy, so that equal policies give equal answers."""
        seed = int.from_bytes(hashlib.sha256(self.id.encode()).digest()[:6], "big")
        return ChatRequest(self.messages, self.temperature, self.max_tokens, seed)


@dataclass(frozen=True)
class Answered:
    """What a policy answered to one decision, and what came of it."""

    reading: Reading
    value: float
    """USD after fees; 0 for what was no order, was refused, or has no price."""
    outcome: str
    """`order`, `hold`, `invalid`, `refused` (cannot be paid) or `unpriced` (unknown market, no path)."""


@dataclass(frozen=True)
class Side:
    """One policy's answers in figures."""

    version: str
    return_mean: float
    value_mean: float
    """USD per decision."""
    orders: int
    wins: int
    holds: int
    invalid: int
    refused: int
    unpriced: int


@dataclass(frozen=True)
class Replay:
    """Candidate against incumbent.

    Attributes:
        difference: Return on equity per decision, candidate minus incumbent, over blocks of hours.
        decisions: Pairs that count; `unanswerable` prompts exceeded a model's context.
        asymptotic: The same by Student's t with Hall's correction: narrower on few blocks, blind to a rare
            loss that happens to be missing; shown beside, nothing follows from it.
        changed: Share of decisions on which the two asked for something different.
        per_block: Mean difference of each block, in time order.
    """

    candidate: Side
    incumbent: Side
    difference: Interval
    asymptotic: Interval | None
    decisions: int
    blocks: int
    changed: float
    unanswerable: int = 0
    clipped: int = 0
    per_block: Sequence[float] = field(default=(), repr=False)

    @property
    def finding(self) -> str:
        """`better`, `worse` or `undecided` by the interval; no model is promoted on it."""
        if self.difference.low > 0:
            return "better"
        return "worse" if self.difference.high < 0 else "undecided"

    def to_dict(self) -> dict[str, Any]:
        """Plain values for storage."""
        return asdict(self) | {"finding": self.finding}


async def ask(
    policy: Policy, decisions: Sequence[RecordedDecision], on_progress: Callable[[int], None] | None = None
) -> list[ChatAnswer | None]:
    """Every decision's answer in order; None where the prompt exceeds the model's context.

    Args:
        on_progress: Called with the number of answers since the last call.
    """
    answers: list[ChatAnswer | None] = []
    for first in range(0, len(decisions), CHUNK):
        requests = [decision.request() for decision in decisions[first : first + CHUNK]]
        try:
            answers += await policy.complete(requests)
        except PromptTooLongError:
            for request in requests:
                try:
                    answers += await policy.complete([request])
                except PromptTooLongError:
                    answers.append(None)
        if on_progress is not None:
            on_progress(len(requests))
    return answers


def read(
    decision: RecordedDecision, answer: ChatAnswer | None, instruments: Mapping[str, str] | None = None
) -> Reading:
    """What an answer asks for; `instruments` gives the market id of a question that is quoted instead."""
    reading = read_answer(answer.content) if answer is not None else Invalid("no answer")
    if isinstance(reading, Wanted) and instruments:
        known = instruments.get(" ".join(reading.instrument.lower().split()))
        if known is not None:
            return Wanted(reading.kind, known, reading.side, reading.size, reading.leverage)
    return reading


def settle(decision: RecordedDecision, reading: Reading, value: float | None) -> Answered:
    """What came of a reading whose order the pricer valued at `value` (None: it has no price)."""
    if isinstance(reading, Invalid):
        return Answered(reading, 0.0, "invalid")
    if not isinstance(reading, Wanted):
        return Answered(reading, 0.0, "hold")
    if reading.cost > decision.equity:
        return Answered(reading, 0.0, "refused")
    if value is None or not math.isfinite(value):
        return Answered(reading, 0.0, "unpriced")
    return Answered(reading, value, "order")


def compare(
    decisions: Sequence[RecordedDecision],
    answered: Mapping[str, Sequence[Answered]],
    candidate: str,
    incumbent: str,
    *,
    unanswerable: int = 0,
    horizon: str = "1h",
    alpha: float = 0.05,
) -> Replay:
    """The paired comparison of two policies on the same decisions.

    Raises:
        NothingToReplayError: No decision, or all in one block.
    """
    first, second = answered[candidate], answered[incumbent]
    equity = np.array([max(decision.equity, 1.0) for decision in decisions])
    raw = [np.array([one.value for one in side]) / equity for side in (first, second)]
    returns = [np.clip(side, -DECISION_BOUND, DECISION_BOUND) for side in raw]
    blocks: dict[int, list[float]] = {}
    for decision, mine, others in zip(decisions, *returns, strict=True):
        hour = int(parse_window(decision.window_id).timestamp()) // 3600
        blocks.setdefault(hour // BLOCK_HOURS[horizon], []).append(float(mine - others))
    means = [float(np.mean(blocks[block])) for block in sorted(blocks)]
    try:
        interval = paired_interval(means, -2 * DECISION_BOUND, 2 * DECISION_BOUND, alpha)
    except UnusableSampleError as problem:
        raise NothingToReplayError("there is no decision to compare", problem.remedy) from None
    differ = sum(one.reading != other.reading for one, other in zip(first, second, strict=True))
    return Replay(
        candidate=_side(candidate, first, returns[0]),
        incumbent=_side(incumbent, second, returns[1]),
        difference=interval,
        asymptotic=studentised_interval(means, alpha) if len(means) > 1 else None,
        decisions=len(decisions),
        blocks=len(means),
        changed=differ / len(decisions),
        unanswerable=unanswerable,
        clipped=sum(int((np.abs(side) > DECISION_BOUND).sum()) for side in raw),
        per_block=means,
    )


def _side(version: str, answered: Sequence[Answered], returns: np.ndarray) -> Side:
    def count(outcome: str) -> int:
        return sum(one.outcome == outcome for one in answered)

    return Side(
        version=version,
        return_mean=float(returns.mean()),
        value_mean=float(np.mean([one.value for one in answered])),
        orders=count("order"),
        wins=sum(one.outcome == "order" and one.value > 0 for one in answered),
        holds=count("hold"),
        invalid=count("invalid"),
        refused=count("refused"),
        unpriced=count("unpriced"),
    )
