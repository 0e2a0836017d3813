"""`window_readiness`: requests the windows that became ready, and says what the others wait for."""

import asyncio
from datetime import UTC, datetime, timedelta

import dagster as dg

from babylon_rl.orchestration.assets.recorded_rows import observation
from babylon_rl.orchestration.claims import claimed_partitions, used_run_keys
from babylon_rl.orchestration.jobs import hourly_job
from babylon_rl.orchestration.partitions import STANDING, hourly
from babylon_rl.orchestration.readiness import (
    WindowFacts,
    judge_window,
    late_windows,
    newest_complete_window,
    read_windows,
    recorded_span,
)
from babylon_rl.orchestration.resources import JUDGE, PostgresResource
from babylon_rl.orchestration.ticks import MAX_WINDOWS, Cursor, plan_tick
from babylon_rl.records.reader import refresh_window_rows
from babylon_rl.windows import day_of, window_id_at, window_range, windows_between

SILENCE = timedelta(hours=24)
"""How long after the newest row empty windows are still requested."""
QUERY_SECONDS = 45.0
"""Dagster gives a sensor 60 seconds; a slow database should end the tick with its own name on it."""


@dg.sensor(
    job=hourly_job,
    minimum_interval_seconds=60,
    default_status=STANDING.sensor,
    description="Requests the hourly assets of each window that is over and has enough agents, of a thin or "
    "empty one after its deadline, and again when late rows arrive or its orders' horizon has passed. "
    "Each tick says which window waits for what.",
)
def window_readiness(context: dg.SensorEvaluationContext, postgres: PostgresResource) -> dg.SensorResult:
    now = datetime.now(UTC)
    cursor = Cursor.load(context.cursor)
    facts = asyncio.run(asyncio.wait_for(_read(postgres, cursor, now), QUERY_SECONDS))
    if not facts:
        return dg.SensorResult(skip_reason=dg.SkipReason("no complete window with recorded rows yet"))
    claimed = claimed_partitions(
        context.instance, _repository(context), dg.AssetKey("trajectories"), hourly
    ) & {f.window_id for f in facts}
    verdicts = [judge_window(window, now, postgres.settings()) for window in facts]
    keys = [v.run_key for v in verdicts if v.requested]
    plan = plan_tick(verdicts, cursor, now, claimed=claimed, used_keys=used_run_keys(context.instance, keys))
    return dg.SensorResult(
        run_requests=[
            dg.RunRequest(
                run_key=v.run_key, partition_key=v.facts.window_id, tags={"babylon/reason": v.reason}
            )
            for v in plan.requests
        ],
        skip_reason=None if plan.requests else dg.SkipReason(plan.reason),
        cursor=plan.cursor.dump(),
        # Staleness counts from an observation made before the materialization.
        asset_events=[observation(v.facts) for v in plan.requests if v.facts.taken != v.facts.fingerprint],
    )


async def _read(postgres: PostgresResource, cursor: Cursor, now: datetime) -> list[WindowFacts]:
    async with postgres.connect(role=JUDGE) as db:
        since = datetime.fromisoformat(cursor.seen_at) if cursor.seen_at else None
        await refresh_window_rows(db.game, db.rl)
        span = await recorded_span(db.rl)
        if span is None:
            return []
        settings = postgres.settings()
        # From midnight on, so that the first recorded day becomes complete like any other.
        first = cursor.watermark or max(f"{day_of(span[0])}T00:00", settings.first_partition)
        # Hours in which nobody played are materialized too, but not for ever after the game has ended.
        silent = window_id_at(window_range(span[1])[0] + SILENCE)
        last = min(newest_complete_window(now, settings), silent)
        if first > last:
            return []
        late = await late_windows(db.rl, since, first) if since else []
        window_ids = windows_between(window_range(first)[0], window_range(last)[1])[:MAX_WINDOWS]
        also = {w for w in (*cursor.pending, *late) if w >= settings.first_partition}
        return await read_windows(db.rl, first, window_ids[-1], also)


def _repository(context: dg.SensorEvaluationContext) -> dg.RepositoryDefinition:
    if context.repository_def is None:
        raise dg.DagsterInvariantViolationError("the sensor runs outside of a repository")
    return context.repository_def
