"""Who used which model, by the hour: `rl.call_usage`, rolled up from the captured calls.

What is rolled up is found by when it was stored, so a call that waited in a gateway's spool is not missed; an
hour with news is counted anew as a whole, so nothing counts twice.
"""

from datetime import datetime, timedelta

import asyncpg
import msgspec

OVERLAP = timedelta(minutes=2)
"""Rows may become visible later than their `stored_at` says: a transaction takes its time."""

_SINCE = "SELECT stored_until FROM rl.call_usage_state"
_HOURS = """
SELECT DISTINCT date_trunc('hour', started_at) AS hour FROM rl.llm_calls
 WHERE ($1::timestamptz IS NULL OR stored_at > $1) ORDER BY 1
"""
_FORGET = "DELETE FROM rl.call_usage WHERE window_id = $1"
_COUNT = """
INSERT INTO rl.call_usage (window_id, agent_id, verified, version, variant, rollout_id, calls, fallbacks,
                           errors, latency_ms)
SELECT $1, coalesce(agent_id, ''), agent_verified, coalesce(version, ''), coalesce(variant, ''),
       coalesce(rollout_id, 0), count(*), count(*) FILTER (WHERE fallback),
       count(*) FILTER (WHERE status >= 500), avg(latency_ms)
  FROM rl.llm_calls WHERE started_at >= $2 AND started_at < $2::timestamptz + interval '1 hour'
 GROUP BY 2, 3, 4, 5, 6
"""
_ADVANCE = """
INSERT INTO rl.call_usage_state (stored_until) VALUES ($1)
ON CONFLICT (only_row) DO UPDATE SET stored_until = excluded.stored_until
"""
_LOCK = "SELECT pg_advisory_xact_lock(hashtext('babylon_rl'), hashtext('rl.call_usage'))"
_MODELS = """
SELECT version, count(DISTINCT agent_id) FILTER (WHERE agent_id <> '' AND window_id >= $1) AS agents_using,
       sum(calls)::bigint AS inferences
  FROM rl.call_usage GROUP BY version
"""


class ModelUsage(msgspec.Struct, frozen=True):
    """How much a model is used, from the captured calls."""

    version: str
    agents_using: int
    """Agents that it answered in the last 24 hours."""
    inferences: int
    """Calls that it answered since capture began."""


async def roll_up(rl: asyncpg.Connection) -> int:
    """Brings `rl.call_usage` up to date; returns the number of hours that were counted anew."""
    async with rl.transaction():
        await rl.execute(_LOCK)
        now: datetime = await rl.fetchval("SELECT now()")  # type: ignore[assignment]
        since: datetime | None = await rl.fetchval(_SINCE)
        hours = [row["hour"] for row in await rl.fetch(_HOURS, since)]
        for hour in hours:
            window_id = f"{hour:%Y-%m-%dT%H}:00"
            await rl.execute(_FORGET, window_id)
            await rl.execute(_COUNT, window_id, hour)
        await rl.execute(_ADVANCE, now - OVERLAP)
    return len(hours)


async def model_usage(rl: asyncpg.Connection) -> dict[str, ModelUsage]:
    """`agentsUsing` and `totalInferences` by version, as of the last `roll_up`."""
    now: datetime = await rl.fetchval("SELECT now()")  # type: ignore[assignment]
    rows = await rl.fetch(_MODELS, f"{now - timedelta(hours=24):%Y-%m-%dT%H}:00")
    return {
        row["version"]: ModelUsage(row["version"], row["agents_using"], row["inferences"]) for row in rows
    }
