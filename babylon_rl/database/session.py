"""Opening connections: in UTC, with aware datetimes, under a role if one is named, with errors that help."""

from typing import Any

import asyncpg

from babylon_rl.database.codecs import set_codecs
from babylon_rl.database.dsn import Address
from babylon_rl.database.errors import MissingRoleError, UnreachableDatabaseError

CONNECT_TIMEOUT = 15.0
COMMAND_TIMEOUT = 300.0

_REMEDY = (
    "Check that the server runs and that DATABASE_URL (RL_DATABASE_URL) is right; `babylon doctor` helps."
)


async def connect(dsn: str, *, role: str | None = None, **options: Any) -> asyncpg.Connection:
    """Opens one connection: TimeZone UTC, aware datetimes, jsonb as Python values.

    Args:
        dsn: A `postgresql://` address; Prisma's own parameters (`schema`, `pgbouncer`, …) are understood.
        role: The role to act as (`babylon_reader`, `babylon_judge`, `babylon_trainer`, `babylon_gateway`).
        options: For `asyncpg.connect`; `timeout` and `command_timeout` in seconds.

    Raises:
        UnreachableDatabaseError: No connection; the message holds no password.
        MissingRoleError: The role does not exist or may not be taken.
    """
    address = Address.parse(dsn)
    try:
        connection = await asyncpg.connect(address.dsn, **_arguments(address, options))
    except _CONNECTION_ERRORS as problem:
        raise _unreachable(address, problem) from None
    try:
        await _prepare(connection, role)
    except BaseException:
        await connection.close()
        raise
    return connection


async def create_pool(dsn: str, *, role: str | None = None, **options: Any) -> asyncpg.Pool:
    """Opens a pool whose connections are as those of `connect`; `min_size` defaults to 1, `max_size` to 10.

    Raises:
        UnreachableDatabaseError: Its first connection cannot be made.
        MissingRoleError: The role does not exist or may not be taken.
    """
    address = Address.parse(dsn)

    async def prepare(connection: asyncpg.Connection) -> None:
        await _prepare(connection, role)

    arguments: dict[str, Any] = {"min_size": 1, "max_size": 10} | _arguments(address, options)
    try:
        return await asyncpg.create_pool(address.dsn, init=prepare, **arguments)
    except _CONNECTION_ERRORS as problem:
        raise _unreachable(address, problem) from None


_CONNECTION_ERRORS = (OSError, TimeoutError, ValueError, asyncpg.InterfaceError, asyncpg.PostgresError)


def _arguments(address: Address, options: dict[str, Any]) -> dict[str, Any]:
    session = {"timezone": "UTC", "application_name": "babylon_rl"}
    if address.schema not in (None, "public"):
        session["search_path"] = f'"{address.schema}", public'
    arguments: dict[str, Any] = {
        "timeout": CONNECT_TIMEOUT,
        "command_timeout": COMMAND_TIMEOUT,
        "server_settings": session | options.pop("server_settings", {}),
    }
    if address.pooled:
        # Behind a transaction-pooling bouncer the next statement may meet a server that never prepared it.
        arguments["statement_cache_size"] = 0
    return arguments | options


async def _prepare(connection: asyncpg.Connection, role: str | None) -> None:
    await set_codecs(connection)
    if role is None:
        return
    quoted = '"' + role.replace('"', '""') + '"'
    try:
        await connection.execute(f"SET ROLE {quoted}")
    except (asyncpg.InvalidParameterValueError, asyncpg.UndefinedObjectError):
        raise MissingRoleError(
            f"The database role {role} does not exist",
            f"Run `babylon migrate`, or ask an administrator for: CREATE ROLE {quoted}",
        ) from None
    except asyncpg.InsufficientPrivilegeError:
        raise MissingRoleError(
            f"This user may not act as the database role {role}",
            f"Ask an administrator for: GRANT {quoted} TO the user of DATABASE_URL",
        ) from None


def _unreachable(address: Address, problem: BaseException) -> UnreachableDatabaseError:
    if isinstance(problem, TimeoutError):
        reason = "no answer in time"
    elif isinstance(problem, OSError):
        reason = problem.strerror or "no connection"
    elif isinstance(problem, asyncpg.PostgresError):
        reason = str(problem).split("\n")[0]
    else:
        # The driver's own complaints about an address may quote it.
        reason = f"the address is not understood ({type(problem).__name__})"
    return UnreachableDatabaseError(f"The {address.description} cannot be reached: {reason}", _REMEDY)
