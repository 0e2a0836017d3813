"""Migrations: once each, all or nothing, also through psql, and never where they do not belong."""

import shutil
import subprocess
from pathlib import Path

import asyncpg
import pytest

from babylon_rl.database import migrations
from babylon_rl.database.binaries import bin_folder
from babylon_rl.database.connection import connect
from babylon_rl.database.errors import (
    ChangedMigrationError,
    MigrationError,
    MissingGameTablesError,
    MissingMigrationError,
)
from babylon_rl.database.migrations import FOLDER, available, migrate, require_migrations
from babylon_rl_tests.conftest import Server

pytestmark = pytest.mark.anyio

NAMES = [migration.name for migration in available(embedded=True)]


def psql(dsn: str, file: Path) -> subprocess.CompletedProcess[str]:
    command = [bin_folder() / "psql", dsn, "-X", "-q", "-v", "ON_ERROR_STOP=1", "-f", file]
    return subprocess.run(command, capture_output=True, text=True)


async def run(dsn: str, *statements: str) -> None:
    connection = await connect(dsn)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


async def relations(dsn: str) -> int:
    connection = await connect(dsn)
    try:
        found = await connection.fetch(
            "SELECT 1 FROM pg_class WHERE relnamespace::regnamespace::text IN ('rl', 'public')"
        )
        return len(found)
    finally:
        await connection.close()


def test_the_seeds_names_are_kept() -> None:
    assert NAMES[:3] == ["embedded/game_tables", "001_add_rl_training_tables", "002_add_self_hosted_tables"]


async def test_each_file_is_applied_once(empty_dsn: str) -> None:
    assert await migrate(empty_dsn, embedded=True) == NAMES
    assert await migrate(empty_dsn, embedded=True) == []
    # The tables are those that we require of the game, so the check that production gets passes here.
    assert await migrate(empty_dsn, embedded=False) == []
    connection = await connect(empty_dsn)
    assert await connection.fetchval("SELECT kind FROM rl.installation") == "embedded"
    await require_migrations(connection)
    await connection.close()


async def test_a_dry_run_changes_nothing(empty_dsn: str) -> None:
    assert await migrate(empty_dsn, embedded=True, dry_run=True) == NAMES
    assert await relations(empty_dsn) == 0


async def test_every_file_also_runs_under_psql_and_twice(empty_dsn: str) -> None:
    for _ in range(2):
        for name in NAMES:
            done = psql(empty_dsn, FOLDER / f"{name}.sql")
            assert done.returncode == 0, done.stderr
    # What psql applied counts, and the runner then learns the hashes.
    connection = await connect(empty_dsn)
    await require_migrations(connection)
    await connection.close()
    assert await migrate(empty_dsn, embedded=True) == NAMES
    assert await migrate(empty_dsn, embedded=True) == []


@pytest.mark.parametrize("name", NAMES[1:6])
async def test_a_first_file_alone_runs_on_an_empty_database(empty_dsn: str, name: str) -> None:
    done = psql(empty_dsn, FOLDER / f"{name}.sql")
    assert done.returncode == 0, done.stderr


async def test_an_applied_file_that_changed_is_refused(
    dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = shutil.copytree(FOLDER, tmp_path / "migrations")
    with (copy / "002_add_self_hosted_tables.sql").open("a") as file:
        file.write("-- afterthought\n")
    monkeypatch.setattr(migrations, "FOLDER", copy)
    with pytest.raises(ChangedMigrationError, match="002_add_self_hosted_tables.sql"):
        await migrate(dsn, embedded=True)


async def test_a_failing_file_leaves_nothing(
    empty_dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = shutil.copytree(FOLDER, tmp_path / "migrations")
    (copy / "999_broken.sql").write_text("CREATE TABLE rl.half (a int); SELECT 1 / 0;")
    monkeypatch.setattr(migrations, "FOLDER", copy)
    with pytest.raises(MigrationError, match="999_broken.sql failed: division by zero"):
        await migrate(empty_dsn, embedded=True)
    assert await relations(empty_dsn) == 0


async def test_a_missing_folder_is_named(
    empty_dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrations, "FOLDER", tmp_path)
    with pytest.raises(MigrationError, match="no migrations in"):
        await migrate(empty_dsn, embedded=True)


async def test_game_tables_are_refused_beside_prisma(empty_dsn: str) -> None:
    await run(empty_dsn, 'CREATE TABLE "_prisma_migrations" (id text)')
    with pytest.raises(MigrationError, match="_prisma_migrations"):
        await migrate(empty_dsn, embedded=True)
    done = psql(empty_dsn, FOLDER / "embedded/game_tables.sql")
    assert done.returncode != 0 and "managed by Prisma" in done.stderr
    assert await relations(empty_dsn) == 1


async def test_game_tables_are_refused_on_a_foreign_server(server: Server, empty_dsn: str) -> None:
    name = empty_dsn.split("/")[3].split("?")[0]
    server.execute(f"ALTER DATABASE \"{name}\" SET babylon.server = ''")
    with pytest.raises(MigrationError, match="only on the embedded server"):
        await migrate(empty_dsn, embedded=True)
    done = psql(empty_dsn, FOLDER / "embedded/game_tables.sql")
    assert done.returncode != 0 and "only on the embedded server" in done.stderr
    assert await relations(empty_dsn) == 0


async def test_missing_game_columns_are_listed(dsn: str) -> None:
    await run(dsn, 'ALTER TABLE "Market" DROP COLUMN "resolution"', 'DROP TABLE "NPCTrade"')
    with pytest.raises(MissingGameTablesError) as caught:
        await migrate(dsn, embedded=False)
    assert '"Market"."resolution", table "NPCTrade"' in caught.value.problem


async def test_two_databases_are_prepared_each_for_its_part(dsn: str, empty_dsn: str) -> None:
    await run(dsn, "DROP SCHEMA rl CASCADE", 'REVOKE ALL ON "Market" FROM babylon_reader')
    applied = await migrate(empty_dsn, embedded=False, game_dsn=dsn)
    assert applied == NAMES[1:]
    game = await connect(dsn, role="babylon_reader")
    assert await game.fetchval('SELECT count(*) FROM "Market"') == 0
    await game.close()


async def test_missing_migrations_are_named(connection: asyncpg.Connection) -> None:
    await connection.execute("DELETE FROM rl.migrations WHERE name LIKE '004%'")
    with pytest.raises(MissingMigrationError, match="migration 004_add_model_registry.*babylon migrate"):
        await require_migrations(connection)


async def test_a_user_without_rights_is_told_what_to_ask_for(
    server: Server, template: str, empty_dsn: str
) -> None:
    # `template` has made the roles of the server, which this user may not take.
    name = empty_dsn.split("/")[3].split("?")[0]
    server.execute(f'CREATE ROLE "{name}"')
    connection = await connect(empty_dsn, role=name)
    try:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute((FOLDER / "001_add_rl_training_tables.sql").read_text())
        server.execute(f'ALTER DATABASE "{name}" OWNER TO "{name}"')
        notices: list[str] = []
        connection.add_log_listener(lambda _, message: notices.append(str(message)))
        await connection.execute((FOLDER / "005_add_roles.sql").read_text())
        assert any("babylon_judge cannot be created or taken" in notice for notice in notices)
    finally:
        await connection.close()
        server.drop(name)
        server.execute(f'DROP ROLE "{name}"')
