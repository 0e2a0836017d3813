"""The databases of this installation: which they are, and connections to them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import asyncpg

from babylon_rl.database.errors import (
    MissingMigrationError,
    MissingRoleError,
    NaiveTimestampError,
    UnreachableDatabaseError,
)
from babylon_rl.database.locate import dagster_dsn, resolve_dsn, resolve_rl_dsn
from babylon_rl.database.migrations import require_migrations
from babylon_rl.database.session import connect, create_pool
from babylon_rl.settings import Settings

__all__ = [
    "Databases",
    "MissingMigrationError",
    "MissingRoleError",
    "NaiveTimestampError",
    "UnreachableDatabaseError",
    "connect",
    "create_pool",
    "dagster_dsn",
    "open_databases",
    "resolve_dsn",
    "resolve_rl_dsn",
]


@dataclass(frozen=True)
class Databases:
    """The two sides of the data: one connection twice where they share a database.

    Attributes:
        game: The game's tables and their projections.
        rl: The pipeline's schema `rl`. Never join across the two in SQL.
    """

    game: asyncpg.Connection
    rl: asyncpg.Connection


@asynccontextmanager
async def open_databases(
    settings: Settings, *, role: str | None = None, check: bool = True
) -> AsyncIterator[Databases]:
    """Opens the game's and the pipeline's database, closed at the end.

    Args:
        role: The role to act as in both.
        check: Refuse a database that lacks migrations.

    Raises:
        UnreachableDatabaseError: One cannot be reached.
        MissingMigrationError: `babylon migrate` has not been run for this version of the code.
    """
    game_dsn, rl_dsn = resolve_dsn(settings), resolve_rl_dsn(settings)
    game = await connect(game_dsn, role=role)
    try:
        rl = game if rl_dsn == game_dsn else await connect(rl_dsn, role=role)
        try:
            if check:
                await require_migrations(rl)
            yield Databases(game=game, rl=rl)
        finally:
            if rl is not game:
                await rl.close()
    finally:
        await game.close()
