"""The sensors that call somebody: one for runs that failed, one for everything else that is wrong."""

import asyncio
from datetime import UTC, datetime, timedelta

import dagster as dg

from babylon_rl.orchestration.alerts import FAILED_RUN, STUCK, Alert, find_alerts, notify
from babylon_rl.orchestration.partitions import STANDING
from babylon_rl.orchestration.resources import READER, PostgresResource

TRAINING_KIND = {"babylon/kind": "training"}


@dg.run_failure_sensor(
    name="run_failures",
    default_status=STANDING.sensor,
    monitor_all_code_locations=False,
    description="Posts each failed run to the webhook (ALERT_WEBHOOK_URL) with partition and first error. A "
    "job and partition that fail again within ALERT_REPEAT_HOURS are told once.",
)
def run_failures(context: dg.RunFailureSensorContext, postgres: PostgresResource) -> None:
    run = context.dagster_run
    partition = run.tags.get("dagster/partition") or run.tags.get("dagster/asset_partition_range_start", "")
    message = failure_message(context)
    context.log.error(f"{run.job_name} {partition} failed (run {run.run_id}): {message}")
    what = f"{run.job_name} {partition}".strip()
    alert = Alert(FAILED_RUN, what, f"{what} failed: {message}", f"/runs/{run.run_id}")
    asyncio.run(notify(postgres.settings(), [alert]))


@dg.sensor(
    name="alerts",
    minimum_interval_seconds=300,
    default_status=STANDING.sensor,
    description="Looks for trainings that are stuck, a judge's budget that is nearly spent, unreadable rows, "
    "hours without a new row and rejected models; posts each once (rl.alerts keeps them).",
)
def alerts(context: dg.SensorEvaluationContext, postgres: PostgresResource) -> dg.SkipReason:
    settings, now = postgres.settings(), datetime.now(UTC)

    async def read() -> list[Alert]:
        async with postgres.connect(role=READER) as db:
            return await find_alerts(db.rl, settings, now)

    found = asyncio.run(read())
    found += stuck_runs(context.instance, now, timedelta(hours=settings.alert_stuck_hours))
    posted = asyncio.run(notify(settings, found))
    what = "; ".join(f"{alert.kind}: {alert.reason}" for alert in found) or "nothing is wrong"
    return dg.SkipReason(f"{what} ({posted} posted)"[:1000])


def stuck_runs(instance: dg.DagsterInstance, now: datetime, limit: timedelta) -> list[Alert]:
    """Returns the training runs that have been at work for longer than `limit`."""
    started = dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED], tags=TRAINING_KIND)
    return [
        Alert(
            STUCK,
            record.dagster_run.run_id,
            f"The run of {record.dagster_run.job_name} "
            f"{record.dagster_run.tags.get('dagster/partition', '')} has been at work for more than "
            f"{limit.total_seconds() / 3600:g} hours",
            f"/runs/{record.dagster_run.run_id}",
        )
        for record in instance.get_run_records(started)
        if record.start_time and now.timestamp() - record.start_time > limit.total_seconds()
    ]


def failure_message(context: dg.RunFailureSensorContext) -> str:
    """The innermost error of the first failed step, in one line."""
    for event in context.get_step_failure_events():
        error = event.step_failure_data.error
        while error is not None and error.cause is not None:
            error = error.cause
        if error is not None and error.message.strip():
            return f"{event.step_key}: {error.message.strip().splitlines()[0]}"
    return context.failure_event.message or "no message"
