"""`nightly_upkeep`: finds what no minute-by-minute feed can find.

Rows that were loaded with an old date, old rows that were changed or deleted, players that became test users,
prices and resolutions that arrived late. What it finds makes windows stale; the sensor then requests them.
"""

import asyncio

import dagster as dg

from babylon_rl.orchestration.partitions import STANDING
from babylon_rl.orchestration.resources import JUDGE, PostgresResource
from babylon_rl.outcomes.sync import SyncReport, sync_recent_windows
from babylon_rl.records.reader import reconcile_window_rows

LEAST_HOURS = 48
"""Hours of outcomes looked at again, unless BACKFILL_HOURS says more: last night's run may have failed."""


@dg.op(description="Compares every row of the game with what is known of it.")
def reconcile_rows(context: dg.OpExecutionContext, postgres: PostgresResource) -> int:
    async def reconcile() -> int:
        async with postgres.connect(role=JUDGE) as db:
            return await reconcile_window_rows(db.game, db.rl)

    differing = asyncio.run(reconcile())
    context.log.info(f"{differing} rows differed from what was known of them")
    return differing


@dg.op(
    ins={"start": dg.In(dg.Nothing)},
    description="Derives the outcomes of the last days anew and values orders whose time has come.",
)
def sync_outcomes(context: dg.OpExecutionContext, postgres: PostgresResource) -> None:
    settings = postgres.settings()

    async def sync() -> SyncReport:
        async with postgres.connect(role=JUDGE) as db:
            return await sync_recent_windows(
                db.game,
                db.rl,
                hours=max(LEAST_HOURS, settings.backfill_hours),
                delay=settings.window_delay,
                horizon=settings.training_horizon,
                project_to_game=settings.project_to_game,
            )

    report = asyncio.run(sync())
    context.log.info(
        f"{len(report.windows)} windows synced, {len(report.changed)} changed, {len(report.stale)} of them "
        f"scored before: {', '.join(report.stale) or 'none'}; {len(report.credited)} valued again"
    )


@dg.job(
    description="Compares all recorded rows and the last days' outcomes with the game's database.",
    tags={"babylon/kind": "upkeep"},
)
def upkeep_job() -> None:
    sync_outcomes(start=reconcile_rows())


nightly_upkeep = dg.ScheduleDefinition(
    name="nightly_upkeep",
    job=upkeep_job,
    cron_schedule="30 1 * * *",
    execution_timezone="UTC",
    default_status=STANDING.schedule,
    description="Rows and prices that arrived too late or too old for the feed, once a night.",
)
