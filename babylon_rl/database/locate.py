"""Which databases this installation uses: the configured ones, or the embedded server, started on demand."""

import asyncio
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from babylon_rl.database.embedded import DAGSTER_DATABASE, GAME_DATABASE, EmbeddedServer, ensure_server
from babylon_rl.database.migrations import migrate
from babylon_rl.settings import Settings

_migrated: set[tuple[Path, int]] = set()


def resolve_dsn(settings: Settings) -> str:
    """The game's database: DATABASE_URL, else the embedded server, running and migrated.

    Raises:
        EmbeddedServerError: It cannot be started.
        MigrationError: It cannot be migrated.
    """
    if settings.database_url is not None:
        return settings.database_url.get_secret_value()
    server = ensure_server(settings.home)
    _migrate_once(server)
    return server.dsn(GAME_DATABASE)


def resolve_rl_dsn(settings: Settings) -> str:
    """The database with schema `rl`: RL_DATABASE_URL, else the game's."""
    if settings.rl_database_url is not None:
        return settings.rl_database_url.get_secret_value()
    return resolve_dsn(settings)


def dagster_dsn(settings: Settings) -> str:
    """Dagster's own storage: DAGSTER_PG, else database `dagster` of the embedded server, running."""
    if settings.dagster_pg is not None:
        return settings.dagster_pg.get_secret_value()
    return ensure_server(settings.home).dsn(DAGSTER_DATABASE)


def _migrate_once(server: EmbeddedServer) -> None:
    # The server and its data are ours, so a new version of the code may bring them up to date by itself. The
    # process id is part of the key: after a restart the folder may hold another database.
    key = (server.data, server.pid)
    if key not in _migrated:
        _run(migrate(server.dsn(GAME_DATABASE), embedded=True))
        _migrated.add(key)


def _run(work: Coroutine[Any, Any, Any]) -> Any:
    """Runs a coroutine to its end, also where this thread already runs an event loop."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(max_workers=1) as pool:
        return pool.submit(asyncio.run, work).result()
