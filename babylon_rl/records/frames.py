"""Recorded data as pandas frames, for notebooks.

    async with open_databases(get_settings()) as db:
        windows = await windows_frame(db.rl)
        steps = await steps_frame(db.game, db.rl, "2026-10-01T00:00", "2026-10-01T23:00")
        steps.groupby("agent_id")["action_type"].value_counts()

Each frame has one row per thing, columns in snake_case, and moments with the time zone UTC. In a notebook,
`await` works at the top level.
"""

from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import asyncpg

from babylon_rl import windows
from babylon_rl.records.reader import read_window
from babylon_rl.records.steps import Step
from babylon_rl.records.trajectory import RecordedTrajectory

if TYPE_CHECKING:
    import pandas as pd

FIRST, LAST = "0001-01-01T00:00", "9999-12-31T23:00"
"""All windows."""

_WINDOWS = """
SELECT window_id, seen.rows, seen.agents, seen.test_rows, seen.unreadable, seen.quality, seen.seen_at,
       state.episodes, state.snapshot_status, state.outcomes_status, state.group_status, state.group_reason,
       state.scorer, state.reward_mean, state.reward_std, state.pnl_mean, state.pnl_spearman,
       state.pnl_variance_share
  FROM rl.recorded_windows AS seen FULL JOIN rl.window_state AS state USING (window_id)
 WHERE window_id BETWEEN $1 AND $2 ORDER BY window_id
"""
_SCORES = """
SELECT score.window_id, score.agent_id, score.scorer, score.reward, score.advantage, score.components,
       score.scored_at, score.group_sha256 = state.group_sha256 AS is_current
  FROM rl.scores AS score LEFT JOIN rl.window_state AS state USING (window_id)
 WHERE window_id BETWEEN $1 AND $2 ORDER BY score.window_id, score.agent_id, score.scored_at
"""
_ORDERS = """
SELECT order_id, horizon, agent_id, window_id, kind, instrument, side, size, opened_at, value, matured,
       liquidated, closed_at, held, valued_at
  FROM rl.order_value WHERE window_id BETWEEN $1 AND $2 ORDER BY opened_at, order_id, horizon
"""
_SELECTED = """
SELECT DISTINCT window_id FROM rl.window_rows WHERE window_id BETWEEN $1 AND $2 ORDER BY window_id
"""


async def windows_frame(rl: asyncpg.Connection, first: str = FIRST, last: str = LAST) -> "pd.DataFrame":
    """One row per window: what is recorded, and the verdicts on it. `first` and `last` are included."""
    return await _query(rl, _WINDOWS, first, last)


async def scores_frame(rl: asyncpg.Connection, first: str = FIRST, last: str = LAST) -> "pd.DataFrame":
    """One row per agent, window and scoring; the parts of the reward are columns `component_…`."""
    frame = await _query(rl, _SCORES, first, last)
    import pandas as pd

    parts = pd.json_normalize(list(frame.pop("components")) if len(frame) else [])
    return frame.join(parts.add_prefix("component_"))


async def orders_frame(rl: asyncpg.Connection, first: str = FIRST, last: str = LAST) -> "pd.DataFrame":
    """One row per order and horizon, with its value in USD."""
    return await _query(rl, _ORDERS, first, last)


async def trajectories_frame(
    game: asyncpg.Connection, rl: asyncpg.Connection, first: str, last: str, *, test_users: bool = False
) -> "pd.DataFrame":
    """One row per recorded row that counts, without its steps."""
    return _frame([_trajectory(t) async for t in _read(game, rl, first, last, test_users)])


async def steps_frame(
    game: asyncpg.Connection, rl: asyncpg.Connection, first: str, last: str, *, test_users: bool = False
) -> "pd.DataFrame":
    """One row per step: the state before it, in USD, and the action."""
    read = _read(game, rl, first, last, test_users)
    return _frame([_step(t, step) async for t in read for step in t.steps])


async def calls_frame(
    game: asyncpg.Connection, rl: asyncpg.Connection, first: str, last: str, *, test_users: bool = False
) -> "pd.DataFrame":
    """One row per LLM call, prompts included."""
    read = _read(game, rl, first, last, test_users)
    return _frame([row async for t in read for step in t.steps for row in _calls(t, step)])


async def _read(
    game: asyncpg.Connection, rl: asyncpg.Connection, first: str, last: str, test_users: bool
) -> AsyncIterator[RecordedTrajectory]:
    for window_id in (first, last):
        windows.parse_window(window_id)
    for row in await rl.fetch(_SELECTED, first, last):
        read = await read_window(game, rl, row["window_id"], include_test_users=test_users)
        for trajectory in read.trajectories:
            yield trajectory


def _trajectory(row: RecordedTrajectory) -> dict[str, Any]:
    names = ("trajectory_id", "agent_id", "window_id", "scenario_id", "start_time", "end_time")
    known = {name: getattr(row, name) for name in (*names, "final_pnl", "final_balance", "final_status")}
    calls = sum(len(step.llm_calls) for step in row.steps)
    return known | {"steps": len(row.steps), "llm_calls": calls}


def _step(row: RecordedTrajectory, step: Step) -> dict[str, Any]:
    state, action = step.environment_state, step.action
    return {
        "trajectory_id": row.trajectory_id,
        "agent_id": row.agent_id,
        "window_id": row.window_id,
        "step": step.step_number,
        "time": _moment(step.timestamp),
        "balance": state.agent_balance,
        "pnl": state.agent_pnl,
        "equity": state.equity,
        "open_positions": state.open_positions,
        "action_type": action.action_type,
        "success": action.success,
        "error": action.error,
        "parameters": action.parameters,
        "llm_calls": len(step.llm_calls),
    }


def _calls(row: RecordedTrajectory, step: Step) -> Iterator[dict[str, Any]]:
    for number, call in enumerate(step.llm_calls):
        yield {
            "trajectory_id": row.trajectory_id,
            "agent_id": row.agent_id,
            "window_id": row.window_id,
            "step": step.step_number,
            "call": number,
            "time": _moment(call.timestamp or step.timestamp),
            "model": call.model,
            "policy_version": call.policy_version,
            "purpose": call.purpose,
            "system_prompt": call.system_prompt,
            "user_prompt": call.user_prompt,
            "response": call.response,
            "temperature": call.temperature,
            "latency_ms": call.latency_ms,
            "prompt_tokens": call.prompt_tokens,
            "completion_tokens": call.completion_tokens,
            "trainable": call.has_tokens,
        }


def _moment(milliseconds: float | None) -> datetime | None:
    return None if milliseconds is None else datetime.fromtimestamp(milliseconds / 1000, UTC)


async def _query(rl: asyncpg.Connection, query: str, *arguments: object) -> "pd.DataFrame":
    statement = await rl.prepare(query)
    rows = await statement.fetch(*arguments)
    import pandas as pd

    columns = [attribute.name for attribute in statement.get_attributes()]
    return pd.DataFrame([tuple(row) for row in rows], columns=pd.Index(columns))


def _frame(rows: list[dict[str, Any]]) -> "pd.DataFrame":
    import pandas as pd

    return pd.DataFrame(rows)
