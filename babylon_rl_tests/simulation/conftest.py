"""The tiny base model, worlds that it has played, and policies that say what a test wants to hear."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from datetime import date
from typing import Any

import asyncpg
import pytest
from hypothesis import settings

from babylon_rl.database.connection import connect
from babylon_rl.policy.chat import ChatAnswer, ChatRequest, Policy
from babylon_rl.policy.engine import EmbeddedEngine
from babylon_rl.simulation.world import ensure_world, simulate_day
from babylon_rl_tests.shared_database import dsn, file_dsn

__all__ = ["dsn", "file_dsn"]

# A busy machine is not a slow function.
settings.register_profile("untimed", deadline=None, derandomize=True)
settings.load_profile("untimed")

START_DAY = date(2026, 10, 1)
SEED = 7
AGENTS = 8

_TABLES = """
SELECT tablename FROM pg_tables
 WHERE schemaname = 'public' AND tablename <> '_prisma_migrations' ORDER BY tablename
"""


class Puppet:
    """A policy whose answers are a function of the request."""

    version = "puppet"

    def __init__(self, reply: Callable[[ChatRequest], str]) -> None:
        self.reply = reply
        self.asked: list[ChatRequest] = []

    async def complete(self, requests: Sequence[ChatRequest]) -> list[ChatAnswer]:
        self.asked += requests
        return [
            ChatAnswer(self.reply(request), "stop", [1, 2], [3], [-0.5], self.version, "puppet", "x", "none")
            for request in requests
        ]


def holding() -> Puppet:
    """A policy that never trades."""
    return Puppet(lambda request: "HOLD")


async def simulate(dsn: str, policy: Policy, days: int, **parameters: Any) -> None:
    """Simulates the next `days` days of a world, found or made on a connection of its own."""
    game = await connect(dsn)
    try:
        world = await ensure_world(
            game, game, **({"seed": SEED, "agents": AGENTS, "start_day": START_DAY} | parameters)
        )
        for _ in range(days):
            await simulate_day(game, game, policy, world, world.next_day)
    finally:
        await game.close()


async def one(game: asyncpg.Connection, query: str, *arguments: Any) -> asyncpg.Record:
    """The only row of a query."""
    [row] = await game.fetch(query, *arguments)
    return row


async def everything(game: asyncpg.Connection) -> dict[str, list[str]]:
    """All rows of the game's tables, as text."""
    return {
        row["tablename"]: [
            r[0] for r in await game.fetch(f'SELECT t::text FROM "{row["tablename"]}" t ORDER BY t."id"')
        ]
        for row in await game.fetch(_TABLES)
    }


@pytest.fixture(scope="session")
def engine(base_engine: EmbeddedEngine) -> EmbeddedEngine:
    """The tiny base model."""
    return base_engine


@pytest.fixture(scope="session")
def played_dsn(server, template: str, engine: EmbeddedEngine) -> Iterator[str]:
    """A database with two days of the base model; for reading."""
    name = server.create(template)
    asyncio.run(simulate(server.dsn(name), engine, days=2))
    yield server.dsn(name)
    server.drop(name)


@pytest.fixture
async def played(anyio_backend: str, played_dsn: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection to the two days, whose changes are undone."""
    connection = await connect(played_dsn)
    undo = connection.transaction()
    await undo.start()
    yield connection
    await undo.rollback()
    await connection.close()
