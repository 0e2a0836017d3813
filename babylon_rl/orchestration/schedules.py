"""`daily_training`: trains the oldest day that is not trained, as soon as all of its windows are resolved."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import dagster as dg

from babylon_rl.orchestration.claims import UNFINISHED, run_partitions
from babylon_rl.orchestration.jobs import DAILY_ASSETS, daily_job
from babylon_rl.orchestration.partitions import STANDING, daily
from babylon_rl.orchestration.readiness import DayFacts, partitions_of_day, read_days
from babylon_rl.orchestration.resources import READER, PostgresResource
from babylon_rl.settings import Settings

MAX_ATTEMPTS = 3
LAST_ASSET = dg.AssetKey(DAILY_ASSETS[-1])


@dataclass(frozen=True)
class DayRuns:
    """The runs of a day so far: the unfinished one's id, and how many failed."""

    unfinished: str | None = None
    failed: int = 0


@dg.schedule(
    # Hourly, not once: a day whose last window resolves at 07:40 is trained at 08:00, not a day later.
    cron_schedule="0 3-23 * * *",
    job=daily_job,
    execution_timezone="UTC",
    default_status=STANDING.schedule,
    description="Takes the oldest untrained day whose 24 windows are all resolved, one per tick, "
    "or says why not.",
)
def daily_training(
    context: dg.ScheduleEvaluationContext, postgres: PostgresResource
) -> dg.RunRequest | dg.SkipReason:
    now = context.scheduled_execution_time or datetime.now(UTC)
    days = asyncio.run(_days(postgres))
    trained = context.instance.get_materialized_partitions(LAST_ASSET)
    day = oldest_untrained(days, trained, now)
    if day is None:
        return dg.SkipReason(f"every day before today is trained ({len(trained)} days)")
    return request_day(day, runs_of_day(context.instance, day.day), postgres.settings())


def oldest_untrained(days: Sequence[DayFacts], trained: set[str], now: datetime) -> DayFacts | None:
    """Returns the first day before today (UTC) that has windows and was not trained."""
    today = f"{now.astimezone(UTC):%Y-%m-%d}"
    return next((d for d in days if d.day < today and d.day not in trained), None)


def request_day(day: DayFacts, runs: DayRuns, settings: Settings) -> dg.RunRequest | dg.SkipReason:
    """Requests a day, or says what it waits for."""
    if not day.complete(settings):
        windows = len(partitions_of_day(day.day, settings))
        return dg.SkipReason(f"{day.day} waits: {day.resolved} of {windows} windows are resolved")
    if runs.unfinished:
        return dg.SkipReason(f"{day.day} is being trained by run {runs.unfinished}")
    if runs.failed >= MAX_ATTEMPTS:
        return dg.SkipReason(
            f"{day.day} failed {runs.failed} times and holds back the days after it: read its last run, "
            "remove the cause, and re-execute it"
        )
    return dg.RunRequest(
        run_key=f"{day.day}:{runs.failed + 1}",
        partition_key=day.day,
        tags={"babylon/attempt": str(runs.failed + 1)},
    )


def runs_of_day(instance: dg.DagsterInstance, day: str) -> DayRuns:
    """Looks up what Dagster already tried for a day."""
    runs = [
        r for r in instance.get_runs(dg.RunsFilter(statuses=UNFINISHED)) if day in run_partitions(r, daily)
    ]
    failed = instance.get_runs(
        dg.RunsFilter(
            job_name=daily_job.name,
            statuses=[dg.DagsterRunStatus.FAILURE],
            tags={"dagster/partition": day},
        )
    )
    return DayRuns(runs[0].run_id if runs else None, len(failed))


async def _days(postgres: PostgresResource) -> list[DayFacts]:
    async with postgres.connect(role=READER) as db:
        return await read_days(db.rl)
