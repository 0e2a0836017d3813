"""Schema drift: what a changed game table means for us, from nothing to refused rows."""

import asyncpg
import pytest

from babylon_rl.database.drift import prisma_tables, schema_drift
from babylon_rl.database.game_tables import GAME_COLUMNS

pytestmark = pytest.mark.anyio


def test_the_contract_knows_every_column_that_is_used() -> None:
    tables = prisma_tables()
    for table, columns in GAME_COLUMNS.items():
        assert set(columns) <= tables[table].keys(), table
    assert tables["trajectories"]["windowId"].type == "varchar(50)"
    assert tables["User"]["virtualBalance"].type == "decimal(18,2)" and tables["User"]["updatedAt"].required


async def test_our_own_tables_do_not_drift(connection: asyncpg.Connection) -> None:
    assert await schema_drift(connection) == []


@pytest.mark.parametrize(
    ("change", "level", "where", "says"),
    [
        ('DROP TABLE "reward_judgments"', "bad", '"reward_judgments"', "is missing"),
        ('DROP TABLE "SystemSettings"', "note", '"SystemSettings"', "is missing"),
        ('ALTER TABLE "Market" DROP COLUMN "resolution"', "bad", '"Market"."resolution"', "is missing"),
        ('ALTER TABLE "User" DROP COLUMN "walletAddress"', "note", '"User"."walletAddress"', "is missing"),
        (
            'ALTER TABLE "trajectories" ALTER COLUMN "windowId" TYPE TEXT',
            "note",
            '"trajectories"."windowId"',
            "is text, not varchar(50)",
        ),
        (
            'ALTER TABLE "trajectories" ALTER COLUMN "createdAt" TYPE TIMESTAMPTZ',
            "bad",
            '"trajectories"."createdAt"',
            "is timestampwithtimezone, not timestamp(3)",
        ),
        (
            """ALTER TABLE "Question" ALTER COLUMN "outcome" TYPE TEXT""",
            "bad",
            '"Question"."outcome"',
            "is text, not boolean",
        ),
        (
            'ALTER TABLE "trajectories" ADD COLUMN "season" TEXT NOT NULL',
            "bad",
            '"trajectories"."season"',
            "our rows are refused",
        ),
        (
            'ALTER TABLE "trajectories" ALTER COLUMN "batchId" SET NOT NULL',
            "note",
            '"trajectories"."batchId"',
            "must not be null any more",
        ),
    ],
)
async def test_a_change_is_named_with_what_it_means(
    connection: asyncpg.Connection, change: str, level: str, where: str, says: str
) -> None:
    await connection.execute(change)
    (drift,) = await schema_drift(connection)
    assert (drift.level, drift.where) == (level, where) and says in drift.text


async def test_what_only_the_game_uses_is_no_drift(connection: asyncpg.Connection) -> None:
    await connection.execute(
        """
        ALTER TABLE "trajectories" ADD COLUMN "season" TEXT NOT NULL DEFAULT 'one', ADD COLUMN "note" TEXT;
        ALTER TABLE "User" ADD COLUMN "favourite" TEXT NOT NULL;
        CREATE TABLE "Season" ("id" TEXT PRIMARY KEY)
        """
    )
    assert await schema_drift(connection) == []
