"""The feed of `rl.window_rows` on a real database: every row in one window, and only news is news."""

import asyncio
import json
from datetime import timedelta

import pytest

from babylon_rl import windows
from babylon_rl.database.connection import connect
from babylon_rl.records.reader import BEGINNING, OVERLAP, WindowRead, read_window, refresh_window_rows
from babylon_rl.records.trajectory import to_records
from babylon_rl_tests.game_rows import START, WINDOW, add_trajectory, add_user, at, step

pytestmark = pytest.mark.anyio


async def read(connection, window_id: str = WINDOW, **options) -> WindowRead:
    return await read_window(connection, connection, window_id, **options)


async def refresh(connection, **options) -> int:
    return await refresh_window_rows(connection, connection, **options)


async def known(connection) -> dict[str, str]:
    rows = await connection.fetch("SELECT trajectory_id, window_id FROM rl.window_rows")
    return {row["trajectory_id"]: row["window_id"] for row in rows}


async def held(connection) -> dict[str, str]:
    rows = await connection.fetch("SELECT trajectory_id, reason FROM rl.quarantine WHERE released_at IS NULL")
    return {row["trajectory_id"]: row["reason"] for row in rows}


@pytest.mark.parametrize(
    ("window", "scenario", "expected"),
    [
        (None, WINDOW, WINDOW),
        (None, None, WINDOW),
        (None, "free text", WINDOW),
        ("", "", WINDOW),
        ("2026-10-01T15:00", "2026-10-01T13:00", "2026-10-01T15:00"),
        ("2026-10-01T09:00:00.000Z", None, "2026-10-01T09:00"),
        ("2026-10-01T09:00Z", "2026-10-01T13:00", "2026-10-01T09:00"),
        (None, "2026-10-01T14:00-extra", WINDOW),
        ("2026-10-01T1%", "2026-10-01T1_:00", WINDOW),
        ("2026-10-01T09:30", "benchmark-7", WINDOW),
    ],
)
async def test_each_row_is_in_one_window(connection, window, scenario, expected):
    trajectory = await add_trajectory(connection, windowId=window, scenarioId=scenario)
    assert await refresh(connection) == 1
    assert await known(connection) == {trajectory: expected}
    counts = {w: len((await read(connection, w)).trajectories) for w in windows.windows_of_day("2026-10-01")}
    assert counts[expected] == 1 and sum(counts.values()) == 1


@pytest.mark.parametrize("zone", ["America/New_York", "Asia/Kolkata"])
async def test_the_host_zone_moves_no_row(connection, zone, monkeypatch):
    monkeypatch.setenv("TZ", zone)
    await add_trajectory(connection, windowId=None, scenarioId=None, startTime=at(0), endTime=at(1))
    await add_trajectory(connection, windowId=None, scenarioId=None, startTime=at(-0.001), endTime=at(1))
    await refresh(connection)
    assert sorted((await known(connection)).values()) == ["2026-10-01T13:00", WINDOW]


async def test_our_own_and_the_games_later_writes_are_no_news(connection):
    await add_trajectory(connection, steps=[step(reward=0), step(1, reward=None)])
    await refresh(connection)
    snapshot = to_records((await read(connection)).trajectories)
    seen = await connection.fetchval("SELECT seen_at FROM rl.window_rows")
    # The judge's columns, the batch, and the game's own overwriting of every step's reward.
    await connection.execute(
        'UPDATE "trajectories" SET "aiJudgeReward" = 0.7, "trainedInBatch" = \'b\', "usedInTraining" = true,'
        ' "totalReward" = 3, "stepsJson" = $1, "updatedAt" = $2',
        json.dumps([step(reward=-1.5), step(1, reward=1)]),
        at(30),
    )
    assert await refresh(connection) == 0
    assert await connection.fetchval("SELECT seen_at FROM rl.window_rows") == seen
    assert to_records((await read(connection)).trajectories) == snapshot


@pytest.mark.parametrize(
    "change",
    [
        {"stepsJson": json.dumps([step(action={"actionType": "BUY"})])},
        {"finalPnL": 5.0},
        {"agentId": "agent-2"},
        {"windowId": "2026-10-01T15:00"},
        {"isEvaluation": True},
    ],
)
async def test_a_change_of_what_the_recorder_owns_is_news(connection, change):
    await add_user(connection, "agent-2")
    await add_trajectory(connection)
    await refresh(connection)
    ((column, value),) = change.items()
    await connection.execute(f'UPDATE "trajectories" SET "{column}" = $1, "updatedAt" = $2', value, at(30))
    assert await refresh(connection) == 1
    assert await refresh(connection) == 0


async def test_a_row_that_moved_is_read_in_its_new_window_only(connection):
    moved = await add_trajectory(connection)
    await refresh(connection)
    await connection.execute('UPDATE "trajectories" SET "windowId" = \'2026-10-01T15:00\'')
    assert (await read(connection)).trajectories == []
    assert await known(connection) == {moved: "2026-10-01T15:00"}
    assert len((await read(connection, "2026-10-01T15:00")).trajectories) == 1


async def test_rows_committed_late_are_found(connection, dsn):
    await add_trajectory(connection, createdAt=at(30))
    await refresh(connection)
    late = await connect(dsn)
    try:
        transaction = late.transaction()
        await transaction.start()
        await add_trajectory(late, "late", createdAt=at(20), windowId=None, scenarioId=None)
        assert await refresh(connection) == 0
        await transaction.commit()
    finally:
        await late.close()
    assert await refresh(connection) == 1
    assert await refresh(connection, since=at(600)) == 0


async def test_rows_from_before_the_overlap_need_a_reconciliation(connection):
    await add_trajectory(connection, createdAt=at(0))
    await refresh(connection)
    await add_trajectory(connection, createdAt=START - OVERLAP - timedelta(minutes=1))
    assert await refresh(connection) == 0
    assert await refresh(connection, since=BEGINNING) == 1


async def test_a_row_dated_into_the_future_hides_nothing(connection):
    await add_trajectory(connection, createdAt=START.replace(year=2099))
    await refresh(connection)
    now = await connection.fetchval("SELECT now()")
    await add_trajectory(connection, "other", createdAt=now)
    assert await refresh(connection) == 1


async def test_two_feeds_at_once_do_not_disturb_each_other(connection, dsn):
    for agent in range(40):
        await add_trajectory(connection, f"agent-{agent:02}")
    other = await connect(dsn)
    try:
        await asyncio.gather(refresh(connection), refresh_window_rows(other, other))
    finally:
        await other.close()
    assert len(await known(connection)) == 40


async def test_a_long_list_is_read_in_pages(connection, monkeypatch):
    monkeypatch.setattr("babylon_rl.records.game_rows.LISTED_AT_ONCE", 3)
    monkeypatch.setattr("babylon_rl.records.game_rows.READ_AT_ONCE", 2)
    for agent in range(10):
        await add_trajectory(connection, f"agent-{agent}")
    assert await refresh(connection) == 10
    assert len((await read(connection)).agents) == 10


async def test_a_game_that_shows_its_rows_as_a_view(server, template):
    """A view has no row versions; then `updatedAt` says where to look."""
    name = server.create(template)
    connection = await connect(server.dsn(name))
    try:
        row = await add_trajectory(connection)
        await connection.execute(
            'ALTER TABLE "trajectories" RENAME TO "all_trajectories";'
            'CREATE VIEW "trajectories" AS SELECT * FROM "all_trajectories"'
        )
        assert await refresh(connection) == 1
        assert await refresh(connection) == 0
        changed = 'UPDATE "all_trajectories" SET "finalPnL" = 5, "updatedAt" = "updatedAt" + $1'
        await connection.execute(changed, timedelta(seconds=1))
        assert [t.trajectory_id for t in (await read(connection)).trajectories] == [row]
        assert (await read(connection)).trajectories[0].final_pnl == 5
        assert await refresh(connection) == 0, "reading it wrote it down"
    finally:
        await connection.close()
        server.drop(name)


async def test_what_an_older_version_knew_is_completed_without_being_news(connection):
    """Rows that were fed before there were summaries: the first refresh looks at all of them."""
    await add_trajectory(connection, createdAt=START - timedelta(days=9))
    await refresh(connection)
    await connection.execute(
        "DELETE FROM rl.recorded_windows; UPDATE rl.window_rows SET row_version = NULL, player = NULL,"
        " content = NULL, bytes = NULL, quality = NULL, seen_at = seen_at - interval '1 day'"
    )
    assert await refresh(connection) == 0
    summary = await connection.fetchrow(
        "SELECT rows, seen_at < now() - interval '23 hours' AS old FROM rl.recorded_windows"
    )
    assert tuple(summary) == (1, True)
