"""Streaming a window on a real database: bounded portions, one order, one snapshot, news noted."""

import asyncio
import json
import tracemalloc

import pytest

from babylon_rl.database.connection import Databases, connect
from babylon_rl.orchestration.window_steps import freeze_window
from babylon_rl.records.reader import WindowStream, read_window, refresh_window_rows
from babylon_rl.records.store import ArtifactStore
from babylon_rl.records.trajectory import from_records, to_records
from babylon_rl_tests.game_rows import WINDOW, add_trajectory, at, call, step

pytestmark = pytest.mark.anyio


async def refresh(connection) -> int:
    return await refresh_window_rows(connection, connection)


async def streamed(connection, **options) -> tuple[WindowStream, list[list]]:
    stream = WindowStream(connection, connection, WINDOW, **options)
    return stream, [batch async for batch in stream]


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr("babylon_rl.records.game_rows.READ_AT_ONCE", 3)


@pytest.fixture
async def window(connection, small):
    for agent in "cab":
        for minute in (30, 10, 20):
            await add_trajectory(
                connection, agent, [step(llmCalls=[call()])], startTime=at(minute), endTime=at(minute + 1)
            )
    await refresh(connection)
    return connection


@pytest.mark.parametrize("view", ["full", "lean"])
async def test_portions_come_in_the_order_of_agent_and_start(window, view):
    stream, batches = await streamed(window, view=view)
    assert [len(batch) for batch in batches] == [3, 3, 3] and not stream.reordered
    found = [(t.agent_id, t.start_time) for batch in batches for t in batch]
    assert found == sorted(found)
    assert stream.read.fingerprint == (await read_window(window, window, WINDOW)).fingerprint


async def test_rows_that_moved_meanwhile_come_last_and_are_noted(window):
    await window.execute('UPDATE "trajectories" SET "finalPnL" = 3 WHERE "agentId" = \'a\'')
    stream, batches = await streamed(window)
    assert stream.reordered and sum(map(len, batches)) == 9
    assert [t.agent_id for t in batches[-1]] == ["a", "a", "a"]
    assert all(t.final_pnl == 3 for t in batches[-1])
    known = await window.fetchval("SELECT fingerprint FROM rl.recorded_windows")
    assert known == stream.read.fingerprint
    again, _ = await streamed(window)
    assert not again.reordered and again.read.fingerprint == known


async def test_a_snapshot_is_the_same_file_whether_rows_moved_or_not(window, tmp_path, settings):
    store, db = ArtifactStore(tmp_path), Databases(window, window)
    # Another version of the same content, so that the rows come out of order.
    await window.execute('UPDATE "trajectories" SET "aiJudgeReward" = 0.5 WHERE "agentId" = \'a\'')
    moved = await freeze_window(db, store, WINDOW, settings)
    still = await freeze_window(db, store, WINDOW, settings)
    assert moved.snapshot == still.snapshot and moved.read == still.read
    whole = await read_window(window, window, WINDOW)
    assert to_records(from_records(store.get(still.snapshot.uri))) == to_records(whole.trajectories)


async def test_all_portions_are_of_one_moment(window, dsn):
    """A transaction that commits between two portions is seen by none of them or by all."""
    other = await connect(dsn)
    try:
        stream, levels = WindowStream(window, window, WINDOW), []
        async for batch in stream:
            levels += [t.final_pnl for t in batch]
            await other.execute('UPDATE "trajectories" SET "finalPnL" = coalesce("finalPnL", 0) + 1')
        assert set(levels) == {0.0} and len(levels) == 9
    finally:
        await other.close()


async def test_a_row_that_leaves_the_window_or_the_game_is_accounted_for(window):
    rows = await window.fetch('SELECT "trajectoryId" FROM "trajectories" ORDER BY 1')
    gone, moved, broken = (row["trajectoryId"] for row in rows[:3])
    await window.execute('DELETE FROM "trajectories" WHERE "trajectoryId" = $1', gone)
    await window.execute(
        'UPDATE "trajectories" SET "windowId" = \'2026-10-01T15:00\' WHERE "trajectoryId" = $1', moved
    )
    await window.execute('UPDATE "trajectories" SET "stepsJson" = \'[\' WHERE "trajectoryId" = $1', broken)
    stream, batches = await streamed(window)
    assert sum(map(len, batches)) == 6
    assert stream.read.excluded == {"deleted": 1}
    assert [q.trajectory_id for q in stream.read.quarantined] == [broken]
    states = await window.fetch("SELECT window_id, rows, unreadable FROM rl.recorded_windows ORDER BY 1")
    assert [tuple(row) for row in states] == [(WINDOW, 6, 1), ("2026-10-01T15:00", 1, 0)]
    assert await refresh(window) == 0


async def test_a_large_window_needs_the_memory_of_a_portion(connection, monkeypatch):
    text = json.dumps([step(i, llmCalls=[call(userPrompt="p" * 10_000)]) for i in range(10)])
    for number in range(60):
        await add_trajectory(connection, f"agent-{number:02}", text)
    await refresh(connection)
    monkeypatch.setattr("babylon_rl.records.game_rows.BYTES_AT_ONCE", 500_000)

    async def peak(keep: bool) -> int:
        tracemalloc.start()
        kept = []
        async for batch in WindowStream(connection, connection, WINDOW):
            kept += batch if keep else []
        _, highest = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return highest

    assert await peak(False) < 0.5 * await peak(True)


async def test_streams_and_feeds_at_once_leave_one_truth(connection, dsn):
    for number in range(30):
        await add_trajectory(connection, f"agent-{number % 7}", startTime=at(number), endTime=at(number + 1))
    others = [await connect(dsn) for _ in range(3)]
    try:
        for _ in range(3):
            await connection.execute('UPDATE "trajectories" SET "finalPnL" = random()')
            await asyncio.gather(
                *(refresh(other) for other in others[:2]), read_window(others[2], others[2], WINDOW)
            )
        stream, _ = await streamed(connection)
        summary = await connection.fetchrow("SELECT rows, agents, fingerprint FROM rl.recorded_windows")
        assert tuple(summary) == (30, 7, stream.read.fingerprint)
    finally:
        for other in others:
            await other.close()
