"""The night's comparison on a real database: what the feed cannot see makes its window due again."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest

from babylon_rl.database.connection import connect
from babylon_rl.definitions import defs
from babylon_rl.orchestration.resources import PostgresResource
from babylon_rl.orchestration.sensors import window_readiness
from babylon_rl.orchestration.ticks import Cursor
from babylon_rl.orchestration.upkeep import upkeep_job
from babylon_rl.records.reader import refresh_window_rows
from babylon_rl.settings import Settings
from babylon_rl.windows import day_of, window_id_at, window_range, windows_between
from babylon_rl_tests.orchestration.recorded import record_window

WINDOW = window_id_at(datetime.now(UTC) - timedelta(hours=5))


@pytest.fixture
def recorded(settings: Settings, dsn: str) -> str:
    """A window that was fed, taken and settled, one of whose rows was then changed and dated far back."""

    async def write() -> None:
        game = await connect(dsn)
        await record_window(game, WINDOW, ["agent-a", "agent-b"])
        await refresh_window_rows(game, game)
        await game.execute("UPDATE rl.recorded_windows SET taken = fingerprint, settled = true")
        changed = 'UPDATE "trajectories" SET "finalPnL" = 5, "createdAt" = $2 WHERE "agentId" = $1'
        await game.execute(changed, "agent-a", datetime(2020, 1, 1, tzinfo=UTC))
        await refresh_window_rows(game, game)
        assert not await game.fetchval("SELECT due FROM rl.recorded_windows")
        await game.close()

    asyncio.run(write())
    return dsn


def test_the_night_finds_rows_that_the_feed_cannot_see(recorded: str):
    with dg.instance_for_test() as instance:
        result = defs.resolve_job_def("upkeep_job").execute_in_process(instance=instance)
    assert result.success and result.output_for_node("reconcile_rows") == 1

    async def read() -> tuple[bool, int, int | None]:
        rl = await connect(recorded)
        row = await rl.fetchrow("SELECT due, rows FROM rl.recorded_windows")
        outcomes = await rl.fetchval("SELECT count(*) FROM rl.outcomes WHERE window_id = $1", WINDOW)
        await rl.close()
        assert row is not None
        return row["due"], row["rows"], outcomes

    assert asyncio.run(read()) == (True, 2, 1)


def test_the_night_is_scheduled():
    schedule = next(s for s in defs.schedules or [] if s.name == "nightly_upkeep")
    assert isinstance(schedule, dg.ScheduleDefinition)
    assert (schedule.cron_schedule, schedule.execution_timezone) == ("30 1 * * *", "UTC")
    assert schedule.job_name == upkeep_job.name


@pytest.mark.long
def test_rows_of_finished_windows_that_came_days_late_are_found_and_all_requested(
    settings: Settings, dsn: str
):
    """More windows than one tick requests, scored when they were empty, with rows dated as they are."""
    now = datetime.now(UTC)
    finished = windows_between(now - timedelta(hours=120), now - timedelta(hours=94))
    since_then = windows_between(window_range(f"{day_of(finished[0])}T00:00")[0], now)

    async def finish() -> None:
        game = await connect(dsn)
        await record_window(game, WINDOW, ["agent-a"])
        await refresh_window_rows(game, game)
        await game.executemany(
            "INSERT INTO rl.window_state (window_id, group_status, episodes) VALUES ($1, 'empty', 0)",
            [(window_id,) for window_id in since_then],
        )
        await game.close()

    async def come_late() -> None:
        game = await connect(dsn)
        for window_id in finished:
            await record_window(game, window_id, ["agent-a", "agent-b", "agent-c"])
        assert await refresh_window_rows(game, game) == 0  # the feed cannot see them
        await game.close()

    asyncio.run(finish())
    with dg.instance_for_test() as instance:
        first = _tick(instance, None)
        asyncio.run(come_late())
        assert not [
            r for r in _tick(instance, first.cursor).run_requests or [] if r.partition_key in finished
        ]
        assert defs.resolve_job_def("upkeep_job").execute_in_process(instance=instance).success
        found, cursor = [], first.cursor
        for _ in range(3):
            # A tick that began before the rows were found and ended after it moves the cursor's clock on.
            cursor = replace(Cursor.load(cursor), seen_at=datetime.now(UTC).isoformat()).dump()
            result = _tick(instance, cursor)
            found += [request.partition_key for request in result.run_requests or []]
            cursor = result.cursor
            _pretend_runs(instance, result)
    assert sorted(found) == finished


def _tick(instance: dg.DagsterInstance, cursor: str | None) -> dg.SensorResult:
    with dg.build_sensor_context(
        instance=instance,
        cursor=cursor,
        repository_def=defs.get_repository_def(),
        resources={"postgres": PostgresResource()},
    ) as context:
        result = window_readiness(context)
    assert isinstance(result, dg.SensorResult)
    return result


def _pretend_runs(instance: dg.DagsterInstance, result: dg.SensorResult) -> None:
    job = defs.resolve_job_def("hourly_job")
    for request in result.run_requests or []:
        tags = {"dagster/run_key": request.run_key or "", "dagster/partition": request.partition_key or ""}
        instance.create_run_for_job(job, status=dg.DagsterRunStatus.SUCCESS, tags=tags)
