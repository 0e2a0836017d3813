"""The night's comparison on a real database: what the feed cannot see makes its window due again."""

import asyncio
from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest

from babylon_rl.database.connection import connect
from babylon_rl.definitions import defs
from babylon_rl.orchestration.upkeep import upkeep_job
from babylon_rl.records.reader import refresh_window_rows
from babylon_rl.settings import Settings
from babylon_rl.windows import window_id_at
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
