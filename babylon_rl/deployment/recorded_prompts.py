"""Recorded prompts, to be answered anew: which ones there are, and what another answer would have come to."""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

import asyncpg

from babylon_rl.benchmark.answers import Reading, Wanted
from babylon_rl.benchmark.replay import Answered, RecordedDecision, read, settle
from babylon_rl.database.connection import Databases
from babylon_rl.outcomes.pricing import HypotheticalOrder, value_hypothetical
from babylon_rl.policy.chat import ChatAnswer
from babylon_rl.records.reader import read_window
from babylon_rl.records.steps import LlmCall, Step
from babylon_rl.records.trajectory import RecordedTrajectory
from babylon_rl.windows import window_range

CHARACTERS_PER_TOKEN = 4
DEFAULT_ANSWER_TOKENS = 300
NO_MESSAGES, NO_TIME, NO_EQUITY = "no_messages", "no_time", "no_equity"
"""Why a call that chose an action cannot be asked again."""

_QUESTIONS = """
SELECT lower(regexp_replace(trim("question"), '\\s+', ' ', 'g')) AS question, min("id") AS id
  FROM "Market" GROUP BY 1 HAVING count(*) = 1
"""


async def recorded_decisions(
    db: Databases, window_id: str, left_out: Counter[str] | None = None
) -> list[RecordedDecision]:
    """The prompts of a window's recorded rows whose call chose an action.

    Args:
        left_out: Counts those that cannot be asked again, by reason.
    """
    rows = (await read_window(db.game, db.rl, window_id)).trajectories
    counted = Counter[str]() if left_out is None else left_out
    return [one for row in rows for one in _decisions(window_id, row, counted)]


async def settle_answers(
    game: asyncpg.Connection,
    decisions: Sequence[RecordedDecision],
    answers: Sequence[ChatAnswer | None],
    *,
    horizon: str = "1h",
    now: datetime | None = None,
) -> list[Answered]:
    """What each answer would have come to, had it been given to the decision beside it."""
    questions = {row["question"]: row["id"] for row in await game.fetch(_QUESTIONS)}
    readings = [read(one, answer, questions) for one, answer in zip(decisions, answers, strict=True)]
    values = await _values(game, decisions, readings, horizon, now)
    return [
        settle(one, reading, value) for one, reading, value in zip(decisions, readings, values, strict=True)
    ]


async def _values(
    game: asyncpg.Connection,
    decisions: Sequence[RecordedDecision],
    readings: Sequence[Reading],
    horizon: str,
    now: datetime | None,
) -> list[float | None]:
    orders = [
        HypotheticalOrder(
            order_id=str(number),
            agent_id=decision.agent_id,
            kind=reading.kind,
            instrument=reading.instrument,
            side=reading.side,
            size=reading.size,
            leverage=reading.leverage,
            at=decision.at,
        )
        for number, (decision, reading) in enumerate(zip(decisions, readings, strict=True))
        if isinstance(reading, Wanted)
    ]
    values: Mapping[str, float | None] = {
        value.order_id: value.value if value.matured else None
        for value in await value_hypothetical(game, orders, now)
        if value.horizon == horizon
    }
    return [values.get(str(number)) for number in range(len(decisions))]


def _decisions(window_id: str, row: RecordedTrajectory, left_out: Counter[str]) -> list[RecordedDecision]:
    found = []
    for step in row.steps:
        if (call := _deciding_call(step)) is None:
            continue
        messages = call.chat_messages()
        state = step.environment_state
        equity = state.equity if state.equity is not None else state.agent_balance
        if not messages or step.timestamp is None:
            left_out[NO_TIME if messages else NO_MESSAGES] += 1
            continue
        if equity is None or not equity > 0:
            left_out[NO_EQUITY] += 1
            continue
        plain = [{"role": str(m["role"]), "content": str(m["content"])} for m in messages]
        found.append(
            RecordedDecision(
                id=f"{row.trajectory_id}/{step.step_number}",
                window_id=window_id,
                agent_id=row.agent_id,
                at=_moment(window_id, step.timestamp),
                equity=float(equity),
                messages=plain,
                temperature=1.0 if call.temperature is None else float(call.temperature),
                max_tokens=call.max_tokens or DEFAULT_ANSWER_TOKENS,
                tokens=call.prompt_tokens or sum(len(m["content"]) for m in plain) // CHARACTERS_PER_TOKEN,
            )
        )
    return found


def _deciding_call(step: Step) -> LlmCall | None:
    """The call that chose the step's action."""
    deciding = [call for call in step.llm_calls if call.purpose == "action"]
    return deciding[-1] if deciding else None


def _moment(window_id: str, milliseconds: float) -> datetime:
    """The step's time; a writer's clock that left the window counts as the window's nearest end."""
    start, end = window_range(window_id)
    moment = datetime.fromtimestamp(milliseconds / 1000, tz=start.tzinfo)
    return min(max(moment, start), end - timedelta(milliseconds=1))
