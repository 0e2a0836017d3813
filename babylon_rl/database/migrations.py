"""The migration runner: applies `migrations/*.sql` once each, in one transaction, and keeps their hashes."""

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path

import asyncpg

from babylon_rl.database.errors import ChangedMigrationError, MigrationError, MissingMigrationError
from babylon_rl.database.game_tables import require_game_tables
from babylon_rl.database.session import connect

logger = logging.getLogger(__name__)

FOLDER = Path(__file__).resolve().parents[2] / "migrations"
GRANTS = "005_add_roles"
MINIMUM_VERSION = 15

_LOCK = 7_231_954_106_238_417  # any number that no other program locks
_EMBEDDED_SERVER = "SELECT current_setting('babylon.server', true) = 'embedded'"
_RECORD = """
    INSERT INTO rl.migrations (name, sha256) VALUES ($1, $2)
    ON CONFLICT (name) DO UPDATE SET sha256 = excluded.sha256
"""


@dataclass(frozen=True)
class Migration:
    """One file: its name in the ledger, its SQL and the hash of that."""

    name: str
    sql: str
    sha256: str


def available(*, embedded: bool) -> list[Migration]:
    """The migrations of this version of the code in the order in which they are applied.

    Args:
        embedded: Include the game's tables, first, so that the roles' grants find them.

    Raises:
        MigrationError: The folder `migrations` is not beside the package.
    """
    numbered = sorted(FOLDER.glob("[0-9][0-9][0-9]_*.sql"))
    if not numbered:
        raise MigrationError(
            f"There are no migrations in {FOLDER}",
            "Install babylon_rl from its repository with `pip install --editable .`.",
        )
    return [_read(path) for path in (sorted(FOLDER.glob("embedded/*.sql")) if embedded else []) + numbered]


async def migrate(
    dsn: str, *, embedded: bool, dry_run: bool = False, game_dsn: str | None = None
) -> list[str]:
    """Brings schema `rl` up to date and verifies the game's tables (or makes them, with `embedded`).

    Everything happens in one transaction under an advisory lock: several processes may call it at once, and a
    failure leaves nothing behind. A second run does nothing.

    Args:
        dsn: The database of schema `rl`.
        embedded: Also make the game's tables; refused on a server that is not ours.
        dry_run: Check everything and only say what would be applied.
        game_dsn: The game's database where it is another one; verified, and granted to the roles.

    Returns:
        The names applied, or with `dry_run` to be applied, in order.

    Raises:
        UnreachableDatabaseError: A database cannot be reached.
        ChangedMigrationError: A file differs from what was applied under its name.
        MissingGameTablesError: Tables or columns of the game are missing.
        MigrationError: Refused, or the server rejected a statement.
    """
    connection = await connect(dsn)
    connection.add_log_listener(_pass_on_notice)
    try:
        await _require_version(connection)
        if game_dsn not in (None, dsn):
            await _prepare_game(game_dsn, dry_run=dry_run)
        async with connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock($1)", _LOCK)
            if embedded:
                await _refuse_foreign(connection)
            elif game_dsn in (None, dsn):
                await require_game_tables(connection)
            pending = await _pending(connection, embedded=embedded)
            if not dry_run:
                for migration in pending:
                    await _apply(connection, migration)
        return [migration.name for migration in pending]
    finally:
        await connection.close()


async def require_migrations(rl: asyncpg.Connection) -> None:
    """Raises MissingMigrationError where `rl` lacks a migration of this version of the code."""
    ledger = await _ledger(rl)
    missing = [migration.name for migration in available(embedded=False) if migration.name not in ledger]
    if missing:
        raise MissingMigrationError(
            f"The database lacks the migration{'s' * (len(missing) > 1)} {', '.join(missing)}",
            "Run `babylon migrate`.",
        )


def _read(path: Path) -> Migration:
    content = path.read_bytes()
    name = str(path.relative_to(FOLDER).with_suffix(""))
    return Migration(name, content.decode(), hashlib.sha256(content).hexdigest())


async def _ledger(rl: asyncpg.Connection) -> dict[str, str | None]:
    """Applied names with their hashes; None for a file that was applied by psql."""
    if await rl.fetchval("SELECT to_regclass('rl.migrations') IS NULL"):
        return {}
    return dict(await rl.fetch("SELECT name, sha256 FROM rl.migrations"))


async def _pending(rl: asyncpg.Connection, *, embedded: bool) -> list[Migration]:
    ledger = await _ledger(rl)
    pending = []
    for migration in available(embedded=embedded):
        applied = ledger.get(migration.name)
        if applied is None:  # new, or applied by psql: the files are idempotent, so it is applied and hashed
            pending.append(migration)
        elif applied != migration.sha256:
            raise ChangedMigrationError(
                f"{migration.name}.sql differs from what was applied to this database",
                "Restore the file and put the change into a new one with the next number.",
            )
    return pending


async def _apply(rl: asyncpg.Connection, migration: Migration) -> None:
    try:
        await rl.execute(migration.sql)
        await rl.execute(_RECORD, migration.name, migration.sha256)
    except asyncpg.InsufficientPrivilegeError as problem:
        raise MigrationError(
            f"{migration.name}.sql was refused: {problem}",
            "Run `babylon migrate` as a user that may create a schema in this database.",
        ) from problem
    except asyncpg.PostgresError as problem:
        raise MigrationError(
            f"{migration.name}.sql failed: {problem}", problem.as_dict().get("hint") or "Nothing was changed."
        ) from problem


async def _refuse_foreign(connection: asyncpg.Connection) -> None:
    if not await connection.fetchval(_EMBEDDED_SERVER):
        raise MigrationError(
            "The game's tables are made only on the embedded server, and this server is another one",
            "Run `babylon migrate` without --embedded; the game's Prisma migrations make its tables.",
        )
    if await connection.fetchval("SELECT to_regclass('_prisma_migrations') IS NOT NULL"):
        raise MigrationError(
            "This database is managed by Prisma (_prisma_migrations exists)",
            "Run `babylon migrate` without --embedded.",
        )


async def _require_version(connection: asyncpg.Connection) -> None:
    version = connection.get_server_version()
    if version.major < MINIMUM_VERSION:
        raise MigrationError(
            f"The server runs PostgreSQL {version.major}, and {MINIMUM_VERSION} or newer is needed",
            "Upgrade it, or set RL_DATABASE_URL to a newer server.",
        )


async def _prepare_game(game_dsn: str, *, dry_run: bool) -> None:
    game = await connect(game_dsn)
    game.add_log_listener(_pass_on_notice)
    try:
        await require_game_tables(game)
        if not dry_run:
            try:
                async with game.transaction():
                    await game.execute(_read(FOLDER / f"{GRANTS}.sql").sql)
            except asyncpg.InsufficientPrivilegeError as problem:
                logger.warning("the roles may not read the game's tables: %s", problem)
    finally:
        await game.close()


def _pass_on_notice(connection: object, message: object) -> None:
    # "00000": raised by our own files; the server's "already exists, skipping" have codes of their own.
    if getattr(message, "sqlstate", None) == "00000":
        logger.warning("%s", message)
