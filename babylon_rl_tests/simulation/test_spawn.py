"""Test agents: ranges of the seed, users that exist, same rows for the same seed, only where we may write."""

import json
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from babylon_rl.records.reader import read_window, refresh_window_rows
from babylon_rl.simulation.genesis import ForeignDatabaseError
from babylon_rl.simulation.spawn import SpawnError, spawn

pytestmark = pytest.mark.anyio

UNTIL = datetime(2026, 10, 2, 14, 20, tzinfo=UTC)


async def run(
    connection: asyncpg.Connection, agents: int = 5, minutes: float = 5, seed: int = 7, until=UNTIL
):
    duration = timedelta(minutes=minutes)
    return await spawn(connection, agents=agents, duration=duration, seed=seed, until=until)


async def test_the_rows_have_the_ranges_of_the_seed(connection: asyncpg.Connection) -> None:
    spawned = await run(connection, agents=40)
    rows = await connection.fetch('SELECT * FROM "trajectories"')
    assert len(rows) == len(spawned) == 40
    actions, successes = 0, 0
    for row in rows:
        steps = json.loads(row["stepsJson"])
        assert row["windowId"] == row["scenarioId"] == "2026-10-02T14:00"
        assert 10 <= len(steps) == row["episodeLength"] <= 19
        assert -200 <= row["finalPnL"] <= 600 and row["finalBalance"] == 10_000 + row["finalPnL"]
        assert UNTIL - timedelta(minutes=5) == row["startTime"] < row["endTime"] <= UNTIL
        for step in steps:
            state, action, (call,) = step["environmentState"], step["action"], step["llmCalls"]
            assert 10_000 <= state["agentBalance"] <= 11_000 and -500 <= state["agentPnL"] <= 1000
            assert state["openPositions"] in range(5) and -0.5 <= step["reward"] <= 0.5
            (access,) = step["providerAccesses"]
            assert access["providerName"] == "market_data" and 100 <= access["data"]["price"] <= 150
            assert action["actionType"] == f"{call['response']}_SHARES"
            assert action["parameters"] == {"ticker": "$BTC", "shares": 10}
            actions, successes = actions + 1, successes + action["success"]
    assert 0.7 < successes / actions < 0.9
    users = await connection.fetch('SELECT "isTest", "isAgent" FROM "User"')
    assert len(users) == 40 and all(user["isTest"] and user["isAgent"] for user in users)


async def test_a_span_over_the_hour_has_a_trajectory_in_each(connection: asyncpg.Connection) -> None:
    spawned = await run(connection, agents=2, minutes=30)
    assert [s.window_id for s in spawned] == ["2026-10-02T13:00", "2026-10-02T14:00"] * 2
    query = """SELECT count(*) FROM "trajectories" WHERE date_trunc('hour', "startTime")
               <> date_trunc('hour', "endTime")"""
    assert await connection.fetchval(query) == 0


async def test_the_same_seed_makes_the_same_rows_once(connection: asyncpg.Connection) -> None:
    assert len(await run(connection)) == 5
    query = """SELECT "trajectoryId", "stepsJson", "finalPnL" FROM "trajectories" ORDER BY 1"""
    first = await connection.fetch(query)
    assert await run(connection) == []
    assert await connection.fetch(query) == first
    await connection.execute('DELETE FROM "trajectories"; DELETE FROM "llm_call_logs"')
    await run(connection)
    assert await connection.fetch(query) == first
    assert len(await run(connection, seed=8)) == 5


async def test_they_are_test_users_to_the_reader(connection: asyncpg.Connection) -> None:
    await run(connection)
    await refresh_window_rows(connection, connection)
    window = "2026-10-02T14:00"
    assert (await read_window(connection, connection, window)).excluded == {"test_user": 5}
    read = await read_window(connection, connection, window, include_test_users=True)
    assert len(read.agents) == 5 and not read.quarantined


async def test_only_a_database_of_ours_gets_them(connection: asyncpg.Connection) -> None:
    await connection.execute(
        """INSERT INTO "User" ("id", "updatedAt", "isTest") VALUES ('test-agent-2', now(), false)"""
    )
    with pytest.raises(SpawnError, match="test-agent-2"):
        await run(connection)
    await connection.execute("DELETE FROM rl.installation")
    with pytest.raises(ForeignDatabaseError):
        await run(connection)
    assert await connection.fetchval('SELECT count(*) FROM "trajectories"') == 0
