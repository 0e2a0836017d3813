"""Trajectories that end together share a transaction, and a bad one among them harms nobody."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import asyncpg
import pytest

from babylon_rl.database.connection import create_pool
from babylon_rl.recorder import TrajectoryRecorder
from babylon_rl.recorder.errors import (
    InvalidRecordingError,
    NotStoredError,
    TrajectoryIdTakenError,
    UnknownAgentError,
)
from babylon_rl_tests.recorder.test_recorder import CALL, HOLD, STATE

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[2]
START = datetime(2026, 10, 1, 14, tzinfo=UTC)


@pytest.fixture
async def pool(dsn: str, connection: asyncpg.Connection) -> AsyncIterator[asyncpg.Pool]:
    users = [(f"agent-{number}",) for number in range(64)]
    await connection.executemany('INSERT INTO "User" ("id", "updatedAt") VALUES ($1, now())', users)
    async with await create_pool(dsn, min_size=0, max_size=4) as opened:
        yield opened


async def play(recorder: TrajectoryRecorder, agent: str, **start) -> str:
    trajectory = await recorder.start_trajectory(agent, at=START, **start)
    recorder.record_step(trajectory, environment_state=STATE, action=HOLD, llm_calls=[CALL], at=START)
    return trajectory


async def stored(connection: asyncpg.Connection) -> set[str]:
    return {row[0] for row in await connection.fetch('SELECT "trajectoryId" FROM "trajectories"')}


async def test_ends_at_once_share_transactions_and_are_all_there(
    connection: asyncpg.Connection, pool: asyncpg.Pool
) -> None:
    recorder = TrajectoryRecorder(pool)
    for _ in range(2):
        trajectories = [await play(recorder, f"agent-{number}") for number in range(64)]
        ended = await asyncio.gather(*(recorder.end_trajectory(t, at=START) for t in trajectories))
        assert all(ended)
        assert set(trajectories) <= await stored(connection)
    shared = await connection.fetchval(
        'SELECT count(DISTINCT xmin::text) < 64 FROM "trajectories"'  # of 128 trajectories
    )
    assert shared
    assert await connection.fetchval('SELECT count(*) FROM "llm_call_logs"') == 128


async def test_a_bad_one_does_not_harm_its_group(connection: asyncpg.Connection, pool: asyncpg.Pool) -> None:
    recorder = TrajectoryRecorder(pool)
    await connection.execute(
        'INSERT INTO "trajectories" ("id", "trajectoryId", "agentId", "startTime", "endTime", "durationMs",'
        ' "stepsJson", "rewardComponentsJson", "metricsJson", "metadataJson", "totalReward", "episodeLength",'
        """ "finalStatus", "updatedAt") VALUES ('x', 'taken', 'agent-1', now(), now(), 0, '[]', '{}', '{}',"""
        " '{}', 0, 0, 'completed', now())"
    )
    good = [await play(recorder, f"agent-{number}") for number in range(6)]
    stranger = await play(recorder, "nobody")
    taken = await play(recorder, "agent-2", trajectory_id="taken")
    order = [*good[:3], stranger, taken, *good[3:]]
    ended = await asyncio.gather(
        *(recorder.end_trajectory(t, at=START) for t in order), return_exceptions=True
    )
    assert [ended[index] for index in (0, 1, 2, 5, 6, 7)] == [True] * 6
    assert isinstance(ended[3], UnknownAgentError) and "nobody" in str(ended[3])
    assert isinstance(ended[4], TrajectoryIdTakenError)
    assert await stored(connection) == {*good, "taken"}
    await connection.execute("""INSERT INTO "User" ("id", "updatedAt") VALUES ('nobody', now())""")
    assert await recorder.end_trajectory(stranger, at=START) is True  # it has stayed open


async def test_repeats_in_a_group_store_nothing_twice(
    connection: asyncpg.Connection, pool: asyncpg.Pool
) -> None:
    first, second = TrajectoryRecorder(pool), TrajectoryRecorder(pool)
    names = [f"tick-{number}" for number in range(8)]
    for name in names:
        await play(first, "agent-1", trajectory_id=name)
        await play(second, "agent-1", trajectory_id=name)  # as another process after a crash
    assert await asyncio.gather(*(first.end_trajectory(name, at=START) for name in names)) == [True] * 8
    await play(second, "agent-1", trajectory_id="tick-8")
    again = await asyncio.gather(*(second.end_trajectory(n, at=START) for n in [*names, "tick-8"]))
    assert again == [False] * 8 + [True]
    assert await stored(connection) == {*names, "tick-8"}
    assert await connection.fetchval('SELECT count(*) FROM "llm_call_logs"') == 9


async def test_a_lost_server_fails_all_and_a_repeat_stores_them(
    connection: asyncpg.Connection, pool: asyncpg.Pool
) -> None:
    recorder = TrajectoryRecorder(pool)
    trajectories = [await play(recorder, f"agent-{number}") for number in range(12)]
    async with connection.transaction():
        await connection.execute('LOCK TABLE "llm_call_logs" IN ACCESS EXCLUSIVE MODE')
        ends = [asyncio.create_task(recorder.end_trajectory(t, at=START)) for t in trajectories]
        waiting = "FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        while not await connection.fetchval(f"SELECT count(*) {waiting}"):
            await connection.execute("SELECT pg_sleep(0.02), pg_stat_clear_snapshot()")
        # Ends all but this session, and those that come anew, until nobody waits for an answer any more.
        while not all(end.done() for end in ends):
            await connection.execute(f"SELECT pg_terminate_backend(pid) {waiting}")
            await connection.execute("SELECT pg_sleep(0.02), pg_stat_clear_snapshot()")
    assert all(isinstance(end.exception(), NotStoredError) for end in ends)
    assert await stored(connection) == set()
    assert all(await asyncio.gather(*(recorder.end_trajectory(t, at=START) for t in trajectories)))
    assert await stored(connection) == set(trajectories)


async def test_who_gives_up_waiting_does_not_stop_the_others(
    connection: asyncpg.Connection, pool: asyncpg.Pool
) -> None:
    recorder = TrajectoryRecorder(pool)
    trajectories = [await play(recorder, f"agent-{number}") for number in range(4)]
    ends = [asyncio.create_task(recorder.end_trajectory(t, at=START)) for t in trajectories]
    await asyncio.sleep(0)
    ends[0].cancel()
    results = await asyncio.gather(*ends, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError) and results[1:] == [True] * 3
    await recorder.end_trajectory(trajectories[0], at=START)
    assert await stored(connection) == set(trajectories)


async def test_an_id_of_the_caller_s_own_is_used_once(pool: asyncpg.Pool) -> None:
    recorder = TrajectoryRecorder(pool)
    assert await play(recorder, "agent-1", trajectory_id="mine") == "mine"
    with pytest.raises(InvalidRecordingError, match="mine"):
        await recorder.start_trajectory("agent-1", trajectory_id="mine")
    await recorder.end_trajectory("mine", at=START)
    for name in ("mine", ""):
        with pytest.raises(InvalidRecordingError, match="id of its own"):
            await recorder.start_trajectory("agent-1", trajectory_id=name)


@pytest.mark.long
def test_nothing_acknowledged_is_lost_when_client_or_server_is_killed() -> None:
    command = [sys.executable, "benchmarks/recorder.py", "--only", "crash", "--quick", "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    assert (figures["lost_acknowledged"], figures["duplicates"], figures["incomplete"]) == (0, 0, 0)
    assert figures["acknowledged"] > 0 and figures["kills"] == 2
