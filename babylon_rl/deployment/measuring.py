"""From served calls and settled orders to the figures of an experiment, window by window and in order.

A window is measured once: when the horizon of its orders has passed (settlement lag) and their values are
final. An agent counts with the version that the gateway recorded for it; what the fallback served, what was
mixed, or went otherwise than assigned is left out of P&L and counted as such. A window whose orders never
become final is lost for everybody after a while, so that it does not hold up those after it.
"""

import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import numpy as np

from babylon_rl.deployment.assignment import Assignment, draw
from babylon_rl.deployment.experiment import METRICS, START_EQUITY, Metric, Panel
from babylon_rl.outcomes.order_value import DELAY, HORIZONS
from babylon_rl.windows import WINDOW_LENGTH, window_id_at, window_range

log = logging.getLogger(__name__)

HORIZON = "1h"
LAG = WINDOW_LENGTH + HORIZONS[HORIZON] + DELAY + timedelta(minutes=1)
"""From a window's start until its orders can be final."""
PATIENCE = timedelta(hours=12)
"""After that lag, how long a window may wait for its orders' values before it is lost."""
AT_ONCE = 24
"""Windows that one look measures."""

Value = Callable[[str], Awaitable[None]]
"""Values a window's orders anew."""

_LAST = "SELECT max(window_id) FROM rl.rollout_windows WHERE rollout_id = $1"
_USED = """
SELECT agent_id, version, variant, rollout_id, sum(calls)::int AS calls, sum(fallbacks)::int AS fallbacks,
       sum(errors)::int AS errors, sum(latency_ms * calls) / sum(calls) AS latency_ms
  FROM rl.call_usage
 WHERE window_id = $1 AND agent_id <> '' AND (verified OR $2) GROUP BY 1, 2, 3, 4 ORDER BY 1
"""
_RECORDED = "SELECT DISTINCT agent_id FROM rl.window_rows WHERE window_id = $1 AND excluded IS NULL"
_VALUES = """
SELECT agent_id, coalesce(sum(value), 0) AS pnl, count(value)::int AS orders,
       count(*) FILTER (WHERE value > 0)::int AS wins, bool_and(matured) AS matured
  FROM rl.order_value WHERE window_id = $1 AND horizon = $2 GROUP BY 1
"""
_SETTLED = """
SELECT outcomes_status = 'settled' AND outcomes_at >= $2 FROM rl.window_state WHERE window_id = $1
"""
_WINDOW = """
INSERT INTO rl.rollout_windows (rollout_id, window_id, status, reason, agents, left_out)
VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING
"""
_VALUE = """
INSERT INTO rl.rollout_values (rollout_id, window_id, agent_id, arm, left_out, pnl, orders, wins, calls,
                               failures, latency_ms)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) ON CONFLICT DO NOTHING
"""
_PANEL = """
SELECT window_id, agent_id, arm, left_out, pnl, orders, wins, calls, failures, latency_ms
  FROM rl.rollout_values WHERE rollout_id = $1
"""
_REWARDS = """
SELECT DISTINCT ON (score.window_id, score.agent_id) score.window_id, score.agent_id, score.reward,
       (score.components ->> 'invalid')::float8 AS invalid
  FROM rl.scores AS score JOIN rl.rollout_values AS value USING (window_id, agent_id)
 WHERE value.rollout_id = $1 ORDER BY score.window_id, score.agent_id, score.scored_at DESC
"""


async def measure(
    rl: asyncpg.Connection,
    assignment: Assignment,
    now: datetime,
    *,
    trust_unverified: bool = False,
    value: Value | None = None,
) -> int:
    """Measures the windows that can be measured now, in order; returns how many are new.

    Args:
        now: By the database's clock.
        trust_unverified: Whether callers without a key of their own count: where nobody has one.
        value: Values a window's orders; None waits for the pipeline to do so.
    """
    last: str | None = await rl.fetchval(_LAST, assignment.rollout_id)
    start = datetime.fromtimestamp(assignment.origin, UTC)
    if last is not None:
        start = window_range(last)[1]
    done = 0
    while done < AT_ONCE and now >= start + LAG:
        window_id = window_id_at(start)
        if not await _measure_window(rl, assignment, window_id, now, trust_unverified, value):
            break
        start += WINDOW_LENGTH
        done += 1
    return done


async def _measure_window(
    rl: asyncpg.Connection,
    assignment: Assignment,
    window_id: str,
    now: datetime,
    trust_unverified: bool,
    value: Value | None,
) -> bool:
    """Whether the window is done with."""
    start, _ = window_range(window_id)
    served = _by_agent(await rl.fetch(_USED, window_id, trust_unverified))
    orders: dict[str, Any] = {}
    if served:
        if value is not None:
            await value(window_id)
        settled = value is not None or await rl.fetchval(
            _SETTLED, window_id, start + LAG - timedelta(minutes=1)
        )
        orders = {row["agent_id"]: row for row in await rl.fetch(_VALUES, window_id, HORIZON)}
        waiting = [agent for agent in served if agent in orders and not orders[agent]["matured"]]
        if not settled or waiting:
            if now < start + LAG + PATIENCE:
                return False
            why = (
                "its orders were not valued"
                if not settled
                else f"orders of {len(waiting)} agents are not final"
            )
            log.warning("window %s is lost for rollout %d: %s", window_id, assignment.rollout_id, why)
            await rl.execute(_WINDOW, assignment.rollout_id, window_id, "lost", why, 0, {})
            return True
    recorded = {row["agent_id"] for row in await rl.fetch(_RECORDED, window_id)}
    rows, left_out = [], Counter[str]()
    for agent, calls in served.items():
        arm = assignment.arm(agent, start.timestamp())
        reason = _left_out(calls, assignment, arm) or (None if agent in recorded else "not recorded")
        if reason is not None:
            left_out[reason] += 1
        mine = orders.get(agent)
        count = sum(row["calls"] for row in calls)
        failures = sum(row["fallbacks"] + row["errors"] for row in calls)
        latency = sum(row["latency_ms"] * row["calls"] for row in calls) / count
        figures = (mine["pnl"], mine["orders"], mine["wins"]) if mine else (0.0, 0, 0)
        rows.append(
            (assignment.rollout_id, window_id, agent, arm, reason, *figures, count, failures, latency)
        )
    async with rl.transaction():
        agents = len(rows) - sum(left_out.values())
        await rl.execute(
            _WINDOW,
            assignment.rollout_id,
            window_id,
            "measured",
            None,
            agents,
            dict(sorted(left_out.items())),
        )
        await rl.executemany(_VALUE, rows)
    return True


def _by_agent(rows: Sequence[asyncpg.Record]) -> dict[str, list[asyncpg.Record]]:
    found: dict[str, list[asyncpg.Record]] = {}
    for row in rows:
        found.setdefault(row["agent_id"], []).append(row)
    return found


def _left_out(calls: Sequence[asyncpg.Record], assignment: Assignment, arm: str) -> str | None:
    """Why an agent's window does not count; None where it does."""
    if any(row["fallbacks"] for row in calls):
        return "fallback"
    if len(calls) > 1:
        return "mixed"
    (only,) = calls
    version = assignment.version if arm == "candidate" else assignment.incumbent
    expected = (arm, version, assignment.rollout_id)
    if (only["variant"], only["version"], only["rollout_id"]) != expected:
        return "not as assigned"
    return "failed" if only["errors"] == only["calls"] else None


async def read_panel(rl: asyncpg.Connection, assignment: Assignment) -> Panel:
    """Everything that was measured, as arrays for `experiment.judge`."""
    rows = await rl.fetch(_PANEL, assignment.rollout_id)
    last: str | None = await rl.fetchval(_LAST, assignment.rollout_id)
    origin = datetime.fromtimestamp(assignment.origin, UTC)
    count = 0 if last is None else (window_range(last)[1] - origin) // WINDOW_LENGTH
    agents = {agent: number for number, agent in enumerate(sorted({row["agent_id"] for row in rows}))}
    shape = (len(agents), count)
    values: dict[Metric, Any] = {name: np.full(shape, np.nan) for name in METRICS}
    candidate = np.zeros(shape, dtype=np.bool_)
    left_out: Counter[str] = Counter()
    place = {}
    for row in rows:
        at = agents[row["agent_id"]], (window_range(row["window_id"])[0] - origin) // WINDOW_LENGTH
        candidate[at] = row["arm"] == "candidate"
        # What took the fallback, or mixed its versions, still tells how often calls failed.
        if row["left_out"] in (None, "fallback", "failed"):
            values["failures"][at] = row["failures"] / row["calls"]
        if row["left_out"] is not None:
            left_out[row["left_out"]] += 1
            continue
        place[row["window_id"], row["agent_id"]] = at
        values["pnl"][at] = min(START_EQUITY, max(-START_EQUITY, row["pnl"]))
        values["latency_ms"][at] = row["latency_ms"]
        if row["orders"]:
            values["win_rate"][at] = row["wins"] / row["orders"]
    for row in await rl.fetch(_REWARDS, assignment.rollout_id):
        at = place.get((row["window_id"], row["agent_id"]))
        if at is not None:
            values["reward"][at] = row["reward"]
            if row["invalid"] is not None:
                values["invalid"][at] = -row["invalid"]
    pairs = count // (2 * assignment.block_windows)
    starts = assignment.origin + np.arange(pairs) * assignment.pair_seconds
    draws = np.array([[draw(agent, assignment.salt, pair) for pair in range(pairs)] for agent in agents])
    return Panel(
        values=values,
        candidate=candidate,
        draws=draws.reshape(len(agents), pairs),
        percentages=np.array([assignment.percentage_at(at) for at in starts], dtype=np.float64),
        block_windows=assignment.block_windows,
        left_out=dict(sorted(left_out.items())),
    )
