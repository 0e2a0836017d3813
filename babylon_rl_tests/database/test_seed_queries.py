"""The three SQL queries of the seed documents run as printed with search_path=rl."""

import asyncpg
import pytest

from babylon_rl.database.connection import connect
from babylon_rl.database.migrations import migrate
from babylon_rl.records.reader import refresh_window_rows
from babylon_rl_tests.game_rows import START, WINDOW, add_trajectory

pytestmark = pytest.mark.anyio

# Seed 000, "Check database".
MODELS = """
   SELECT version, status, createdAt 
   FROM trained_models 
   ORDER BY createdAt DESC 
   LIMIT 5;
"""  # noqa: W291
# Seed 001, "No windows found".
SCENARIOS = """
SELECT "scenarioId", COUNT(*) 
FROM trajectories 
WHERE "stepsJson" IS NOT NULL 
GROUP BY "scenarioId" 
ORDER BY COUNT(*) DESC;
"""  # noqa: W291
# Seed 002, "After Test Data Generation".
WINDOWS = """
SELECT 
  window_id,
  COUNT(DISTINCT agent_id) as agents,
  AVG(final_pnl) as avg_pnl
FROM trajectories
WHERE window_id IS NOT NULL
GROUP BY window_id
ORDER BY window_id DESC
LIMIT 5;
"""  # noqa: W291


@pytest.fixture
async def as_printed(dsn: str, connection: asyncpg.Connection):
    for agent, pnl in (("agent-1", 10.0), ("agent-2", 20.0), ("agent-2", float("nan"))):
        await add_trajectory(connection, agent, finalPnL=pnl)
    await add_trajectory(connection, "agent-3", windowId=None, scenarioId="training", finalPnL=60.0)
    await refresh_window_rows(connection, connection)
    for number in range(6):
        await connection.execute(
            "INSERT INTO rl.models (version, model_id, base_model, status, created_at)"
            " VALUES ($1, $1, 'tiny', 'ready', $2)",
            f"v0.0.{number}",
            START.replace(minute=number),
        )
    only_rl = await connect(dsn, server_settings={"search_path": "rl"})
    yield only_rl
    await only_rl.close()


async def test_the_newest_models(as_printed: asyncpg.Connection) -> None:
    rows = await as_printed.fetch(MODELS)
    assert [row["version"] for row in rows] == [f"v0.0.{number}" for number in (5, 4, 3, 2, 1)]
    assert rows[0]["createdat"] == START.replace(minute=5) and rows[0]["status"] == "ready"


async def test_rows_by_scenario(as_printed: asyncpg.Connection) -> None:
    assert [tuple(row) for row in await as_printed.fetch(SCENARIOS)] == [(WINDOW, 3), ("training", 1)]


async def test_agents_by_window(as_printed: asyncpg.Connection) -> None:
    # The row without windowId belongs to the hour of its start; a P&L that is no number does not count.
    assert [tuple(row) for row in await as_printed.fetch(WINDOWS)] == [(WINDOW, 3, 30.0)]


async def test_the_game_can_still_change_its_columns(connection: asyncpg.Connection) -> None:
    await connection.execute('ALTER TABLE "trajectories" ALTER COLUMN "windowId" TYPE TEXT')
    await connection.execute('ALTER TABLE "trajectories" DROP COLUMN "tradesExecuted"')
    await connection.execute('DROP TABLE "reward_judgments", "trajectories"')


async def test_a_reader_s_role_may_use_them(dsn: str, connection: asyncpg.Connection) -> None:
    await add_trajectory(connection)
    reader = await connect(dsn, role="babylon_reader", server_settings={"search_path": "rl"})
    assert len(await reader.fetch(WINDOWS)) == 1
    await reader.fetch(MODELS)
    await reader.close()


async def test_a_window_is_found_by_the_game_s_index(connection: asyncpg.Connection) -> None:
    await connection.execute("SET enable_seqscan = off")
    plan = await connection.fetch("""EXPLAIN SELECT * FROM rl.trajectories WHERE "trajectoryId" = 'x'""")
    assert any("trajectories_trajectoryId_key" in row[0] for row in plan)


async def test_apart_from_the_game_there_are_only_the_models(empty_dsn: str, dsn: str) -> None:
    await migrate(empty_dsn, embedded=False, game_dsn=dsn)
    apart = await connect(empty_dsn, server_settings={"search_path": "rl"})
    assert await apart.fetch(MODELS) == []
    assert await apart.fetchval("SELECT to_regclass('rl.trajectories') IS NULL")
    await apart.close()
