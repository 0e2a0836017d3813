"""Every test of this folder runs on two databases: one that our migrations made, and one that the game made.

The game's own has Prisma's tables with their exact types, columns in another order, columns and tables that
the pipeline does not know, and no marker of ours; our migrations then added schema `rl`.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from pathlib import Path

import psycopg2
import pytest

from babylon_rl.database.connection import Databases, connect
from babylon_rl.database.migrations import migrate
from babylon_rl_tests.conftest import Server
from babylon_rl_tests.shared_database import dsn

__all__ = ["dsn"]

PRISMA_TABLES = Path(__file__).with_name("prisma_tables.sql")


def make_foreign(server: Server) -> str:
    """Makes a database as the game's migrations leave it, with schema `rl` beside, and returns its name."""
    name = server.create()
    server.execute(f'ALTER DATABASE "{name}" RESET babylon.server')
    with closing(psycopg2.connect(server.dsn(name))) as connection, connection, connection.cursor() as cursor:
        cursor.execute(PRISMA_TABLES.read_text())
    asyncio.run(migrate(server.dsn(name), embedded=False))
    return name


@pytest.fixture(scope="module", params=["ours", "prisma"])
def file_dsn(server: Server, template: str, request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of a database for all tests of a file."""
    name = server.create(template) if request.param == "ours" else make_foreign(server)
    yield server.dsn(name)
    server.drop(name)


@pytest.fixture
async def db(anyio_backend: str, dsn: str) -> AsyncIterator[Databases]:
    """The pipeline's connections, under the role that the hourly assets have."""
    connection = await connect(dsn, role="babylon_judge")
    yield Databases(game=connection, rl=connection)
    await connection.close()
