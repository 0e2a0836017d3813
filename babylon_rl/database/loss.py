"""A database that goes away in the middle of the work: our line instead of the driver's."""

from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg

from babylon_rl.database.errors import LostDatabaseError

LOSSES = (
    asyncpg.PostgresConnectionError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.CannotConnectNowError,
)
"""What a server says, or does not say any more, when it goes away."""
_MAY_BE = (asyncpg.PostgresError, asyncpg.InterfaceError, OSError)
"""Losses if a connection is closed afterwards; else errors of their own."""


@contextmanager
def loss_explained(*connections: asyncpg.Connection, remedy: str) -> Iterator[None]:
    """Turns the loss of a connection into a `LostDatabaseError`; other errors pass."""
    try:
        yield
    except _MAY_BE as problem:
        if not isinstance(problem, LOSSES) and not any(one.is_closed() for one in connections):
            raise
        reason = str(problem).split("\n")[0] or type(problem).__name__
        raise LostDatabaseError(
            f"the database was lost in the middle of the work: {reason}", remedy
        ) from problem
