"""Roles: the hidden answers are the judge's alone, and each role writes only what is its own."""

import asyncpg
import pytest

from babylon_rl.database.connection import connect
from babylon_rl_tests.shared_database import file_dsn

pytestmark = pytest.mark.anyio

__all__ = ["file_dsn"]

HIDDEN = [
    'SELECT "outcome" FROM "Question"',
    'SELECT "resolvedOutcome" FROM "Question"',
    'SELECT * FROM "Question"',
    'SELECT "id" FROM "Question" WHERE "outcome"',
    'SELECT "pointsToward" FROM "WorldEvent"',
    'SELECT * FROM "market_outcomes"',
    'SELECT "metadataJson" FROM "trajectories"',
    'SELECT "aiJudgeReasoning" FROM "trajectories"',
    'SELECT "reasoning" FROM "reward_judgments"',
    "SELECT * FROM rl.outcomes",
    "SELECT * FROM rl.market_resolutions",
]
OPEN = [
    'SELECT "id", "text", "status", "resolutionDate" FROM "Question"',
    'SELECT "id", "description", "visibility" FROM "WorldEvent"',
    'SELECT "id", "virtualBalance"::float8, "isAgent" FROM "User"',
    'SELECT * FROM "StockPrice"',
    'SELECT * FROM "PerpPosition"',
    'SELECT "id", "stepsJson", "finalPnL" FROM "trajectories"',
    'SELECT "overallScore" FROM "reward_judgments"',
    "SELECT * FROM rl.window_rows",
    "SELECT * FROM rl.order_value",
    "SELECT * FROM rl.self_hosted_training_status",
    "SELECT * FROM rl.models",
]


async def allowed(dsn: str, role: str, statement: str) -> bool:
    connection = await connect(dsn, role=role)
    transaction = connection.transaction()
    await transaction.start()
    try:
        await connection.execute(statement)
    except asyncpg.InsufficientPrivilegeError:
        return False
    finally:
        await transaction.rollback()
        await connection.close()
    return True


@pytest.mark.parametrize("role", ["babylon_reader", "babylon_trainer", "babylon_gateway"])
async def test_hidden_answers_are_denied(file_dsn: str, role: str) -> None:
    assert [statement for statement in HIDDEN if await allowed(file_dsn, role, statement)] == []


async def test_the_judge_reads_everything(file_dsn: str) -> None:
    assert [text for text in HIDDEN + OPEN if not await allowed(file_dsn, "babylon_judge", text)] == []


@pytest.mark.parametrize("role", ["babylon_reader", "babylon_trainer"])
async def test_the_rest_is_readable(file_dsn: str, role: str) -> None:
    assert [text for text in OPEN if not await allowed(file_dsn, role, text)] == []


@pytest.mark.parametrize(
    "statement",
    [
        'SELECT "agentSystem" FROM "User"',
        'SELECT "walletAddress" FROM "User"',
        'UPDATE "trajectories" SET "stepsJson" = \'[]\'',
        'UPDATE "User" SET "virtualBalance" = 0',
        'DELETE FROM "Market"',
        "INSERT INTO rl.migrations VALUES ('x')",
        "CREATE TABLE rl.mine (a int)",
    ],
)
@pytest.mark.parametrize("role", ["babylon_reader", "babylon_judge", "babylon_trainer", "babylon_gateway"])
async def test_nobody_touches_what_is_the_game_s(file_dsn: str, role: str, statement: str) -> None:
    assert not await allowed(file_dsn, role, statement)


WRITES = {
    'UPDATE "trajectories" SET "aiJudgeReward" = 0.5': {"babylon_judge"},
    'UPDATE "trajectories" SET "usedInTraining" = true': {"babylon_trainer"},
    "INSERT INTO rl.outcomes (window_id, outcomes, sha256) VALUES ('w', '{}', 'x')": {"babylon_judge"},
    "INSERT INTO rl.market_resolutions (market_id, outcome) VALUES ('m', 'YES')": {"babylon_judge"},
    "INSERT INTO rl.window_state (window_id) VALUES ('w')": {"babylon_judge"},
    "INSERT INTO rl.training_batches (batch_sha256, day, status) VALUES ('b', now(), 'empty')": {
        "babylon_trainer"
    },
    "INSERT INTO rl.models (version, model_id, base_model) VALUES ('v0.0.0', 'm', 'b')": {"babylon_trainer"},
    "INSERT INTO rl.deployments (version, role, percentage) VALUES ('v0.0.0', 'active', 100)": {
        "babylon_trainer",
        "babylon_gateway",  # it takes a bad model back by itself
    },
}


@pytest.mark.parametrize("statement", WRITES)
async def test_each_role_writes_only_its_own(file_dsn: str, statement: str) -> None:
    for role in ("babylon_reader", "babylon_judge", "babylon_trainer", "babylon_gateway"):
        assert await allowed(file_dsn, role, statement) == (role in WRITES[statement]), role


async def test_one_open_deployment_per_role(connection: asyncpg.Connection) -> None:
    insert = "INSERT INTO rl.deployments (version, role, percentage) VALUES ('v0.0.0', 'active', 100)"
    await connection.execute(insert)
    with pytest.raises(asyncpg.UniqueViolationError):
        await connection.execute(insert)
    await connection.execute("UPDATE rl.deployments SET ended_at = now()")
    await connection.execute(insert)
