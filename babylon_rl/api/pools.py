"""The databases of the admin process: pools that only read, and a connection that may write when one must."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

import asyncpg

from babylon_rl.database.connection import (
    Databases,
    create_pool,
    open_databases,
    resolve_dsn,
    resolve_rl_dsn,
)
from babylon_rl.settings import Settings

READER, TRAINER = "babylon_reader", "babylon_trainer"
LARGEST = 4
SECONDS = 20.0
ADDRESS_SECONDS = 30.0


class Pools:
    """Opened on first use, so that a database which comes later is found."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._pools: dict[str, asyncpg.Pool] = {}
        self._found: tuple[str, str] | None = None
        self._found_at = 0.0

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[Databases]:
        """Connections of the role `babylon_reader`."""
        game, rl = await self._addresses()
        # A pool lends proxies, which do what connections do.
        async with (await self._pool(game)).acquire() as lent:
            connection = cast(asyncpg.Connection, lent)
            if rl == game:
                yield Databases(connection, connection)
                return
            async with (await self._pool(rl)).acquire() as other:
                yield Databases(connection, cast(asyncpg.Connection, other))

    @asynccontextmanager
    async def writing(self, role: str | None = TRAINER) -> AsyncIterator[Databases]:
        """Connections of their own, of the role `babylon_trainer` or another."""
        async with open_databases(self._settings, role=role) as databases:
            yield databases

    async def close(self) -> None:
        for pool in self._pools.values():
            pool.terminate()
        self._pools.clear()

    async def _addresses(self) -> tuple[str, str]:
        """Of the game and of `rl`; whether the embedded server runs is not asked each time."""
        now = time.monotonic()
        if self._found is None or now - self._found_at > ADDRESS_SECONDS:
            self._found = await asyncio.to_thread(
                lambda: (resolve_dsn(self._settings), resolve_rl_dsn(self._settings))
            )
            self._found_at = now
        return self._found

    async def _pool(self, dsn: str) -> asyncpg.Pool:
        if dsn not in self._pools:
            made = await create_pool(dsn, role=READER, min_size=0, max_size=LARGEST, command_timeout=SECONDS)
            if dsn in self._pools:  # two first requests at once
                await made.close()
            else:
                self._pools[dsn] = made
        return self._pools[dsn]
