"""Archives: a window leaves and comes back the same, from a folder and from S3; damage is found first."""

from pathlib import Path
from typing import Any

import asyncpg
import pytest

from babylon_rl.records.archive import archive_window, prune_window, restore_window
from babylon_rl.records.archive_files import ArchiveError
from babylon_rl.records.forgotten import agent_hash
from babylon_rl.records.line_files import LineFileError
from babylon_rl.records.places import Place, open_place
from babylon_rl.records.reader import read_window, refresh_window_rows
from babylon_rl.records.store import ArtifactError
from babylon_rl.settings import Settings
from babylon_rl.windows import UnknownWindowError
from babylon_rl_tests.kept_windows import AGENTS, WINDOW, keep_window
from babylon_rl_tests.object_store import bucket, s3_server

__all__ = ["bucket", "s3_server"]
pytestmark = pytest.mark.anyio

PIPELINE = ("window_state", "scores", "order_value", "outcomes")
GAME = ("trajectories", "llm_call_logs")


@pytest.fixture
def local(tmp_path: Path) -> Place:
    settings = Settings(_env_file=None, babylon_home=tmp_path / "home")
    return open_place(str(settings.home / "archives"), settings)


async def everything(connection: asyncpg.Connection) -> dict[str, list[Any]]:
    found = {}
    for table in (*(f"rl.{name}" for name in PIPELINE), *(f'"{name}"' for name in GAME)):
        rows = await connection.fetch(f"SELECT to_jsonb(t)::text AS row FROM {table} t ORDER BY 1")
        found[table] = [row["row"] for row in rows]
    return found


async def lose(connection: asyncpg.Connection, *tables: str) -> None:
    for table in tables:
        await connection.execute(f"DELETE FROM {table}")


@pytest.mark.parametrize("where", ["local", "s3"])
async def test_a_window_comes_back_as_it_was(
    connection: asyncpg.Connection, tmp_path: Path, local: Place, where: str, request: pytest.FixtureRequest
) -> None:
    place = local
    if where == "s3":
        address = request.getfixturevalue("bucket")
        place = open_place(f"{address}/babylon", Settings(_env_file=None, storage_roots=(address,)))
    store, _ = await keep_window(connection, tmp_path / "artifacts")
    await connection.execute(
        """UPDATE "trajectories" SET "totalReward" = 'NaN' WHERE "agentId" = 'agent-a'"""
    )
    before = await everything(connection)
    archived = await archive_window(connection, connection, store, place, WINDOW)
    assert archived.is_new and archived.rows == 5 and archived.url.startswith(place.url)
    again = await archive_window(connection, connection, store, place, WINDOW)
    assert (again.is_new, again.url) == (False, archived.url)
    ledger = await connection.fetch("SELECT url, window_id, rows FROM rl.archives")
    assert [tuple(row) for row in ledger] == [(archived.url, WINDOW, 5)]

    await lose(connection, *(f"rl.{name}" for name in PIPELINE), *(f'"{name}"' for name in GAME))
    for path in (tmp_path / "artifacts").glob("*/*/*.zst"):
        path.unlink()
    restored = await restore_window(connection, connection, store, place, WINDOW, game_rows=True)
    assert (restored.game_rows, restored.calls, restored.files) == (5, 5, 2)
    assert restored.pipeline_rows == 1 + 4 + len(before["rl.order_value"]) + 1
    assert await everything(connection) == before
    state = await connection.fetchrow("SELECT snapshot_uri, group_uri FROM rl.window_state")
    assert state and len(store.get(state["snapshot_uri"])) == 4 and len(store.get(state["group_uri"])) == 5
    await refresh_window_rows(connection, connection)
    assert (await read_window(connection, connection, WINDOW)).agents == list(AGENTS)

    repeated = await restore_window(connection, connection, store, place, WINDOW, game_rows=True)
    assert (repeated.pipeline_rows, repeated.game_rows, repeated.calls) == (0, 0, 0)


async def test_the_game_s_rows_come_back_only_when_asked_for(
    connection: asyncpg.Connection, tmp_path: Path, local: Place
) -> None:
    store, _ = await keep_window(connection, tmp_path / "artifacts")
    await archive_window(connection, connection, store, local, WINDOW)
    await lose(connection, '"trajectories"')
    restored = await restore_window(connection, connection, store, local, WINDOW)
    assert restored.game_rows == 0 and await connection.fetchval('SELECT count(*) FROM "trajectories"') == 0
    await connection.execute("""DELETE FROM "User" WHERE "id" = 'agent-b'""")
    with pytest.raises(ArchiveError, match="no users agent-b"):
        await restore_window(connection, connection, store, local, WINDOW, game_rows=True)


async def test_a_damaged_archive_is_found_before_anything_is_restored(
    connection: asyncpg.Connection, tmp_path: Path, local: Place
) -> None:
    store, _ = await keep_window(connection, tmp_path / "artifacts")
    archived = await archive_window(connection, connection, store, local, WINDOW)
    folder = tmp_path / "home" / "archives" / "2026-10-02T03_00" / archived.sha256
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}
    file = folder / "tables.jsonl.zst"
    content = bytearray(file.read_bytes())
    for damage in (bytes(content[:-20]), bytes(content[:40]) + b"\0" + bytes(content[41:])):
        file.write_bytes(damage)
        await lose(connection, "rl.scores")
        with pytest.raises(LineFileError, match="tables"):
            await restore_window(connection, connection, store, local, WINDOW)
        assert await connection.fetchval("SELECT count(*) FROM rl.scores") == 0
    file.write_bytes(content)
    (folder / "manifest.json").unlink()  # as an archive that was cut short
    with pytest.raises(ArchiveError, match="no archive"):
        await restore_window(connection, connection, store, local, WINDOW)
    assert (await archive_window(connection, connection, store, local, WINDOW)).is_new


async def test_the_newest_of_several_is_restored(
    connection: asyncpg.Connection, tmp_path: Path, local: Place
) -> None:
    store, _ = await keep_window(connection, tmp_path / "artifacts")
    first = await archive_window(connection, connection, store, local, WINDOW)
    await connection.execute("UPDATE rl.scores SET reward = 7")
    second = await archive_window(connection, connection, store, local, WINDOW)
    assert first.sha256 != second.sha256
    for sha256, rewards in ((None, {7.0}), (first.sha256, None)):
        await lose(connection, "rl.scores")
        await restore_window(connection, connection, store, local, WINDOW, sha256=sha256)
        found = {row[0] for row in await connection.fetch("SELECT reward FROM rl.scores")}
        assert found == rewards if rewards else 7.0 not in found


async def test_what_was_forgotten_does_not_come_back(
    connection: asyncpg.Connection, tmp_path: Path, local: Place
) -> None:
    store, _ = await keep_window(connection, tmp_path / "artifacts")
    await archive_window(connection, connection, store, local, WINDOW)
    await lose(connection, *(f"rl.{name}" for name in PIPELINE), *(f'"{name}"' for name in GAME))
    await connection.execute(
        "INSERT INTO rl.forgotten_agents (agent_sha256, game_rows) VALUES ($1, false)", agent_hash("agent-b")
    )
    await restore_window(connection, connection, store, local, WINDOW, game_rows=True)
    agents = await connection.fetch('SELECT DISTINCT "agentId" FROM "trajectories" ORDER BY 1')
    assert [row[0] for row in agents] == ["agent-a", "agent-c", "agent-d"]
    assert await connection.fetchval('SELECT count(*) FROM "llm_call_logs"') == 4
    for table in ("scores", "order_value"):
        assert not await connection.fetchval(
            f"SELECT EXISTS (SELECT FROM rl.{table} WHERE agent_id = 'agent-b')"
        )
    uri = await connection.fetchval("SELECT group_uri FROM rl.window_state")
    assert "agent-b" not in str(store.get(uri or ""))


async def test_pruning_frees_the_files_of_trained_days_only(
    connection: asyncpg.Connection, tmp_path: Path, local: Place
) -> None:
    store, _ = await keep_window(connection, tmp_path / "artifacts")
    archived = await archive_window(connection, connection, store, local, WINDOW)
    with pytest.raises(ArchiveError, match="2026-10-02 was not trained"):
        await prune_window(connection, store, archived, WINDOW)
    await connection.execute(
        "INSERT INTO rl.trained_days (day, batch_sha256, version) VALUES ('2026-10-02', 'b', 'v0.0.1')"
    )
    assert await prune_window(connection, store, archived, WINDOW) > 0
    uri = await connection.fetchval("SELECT snapshot_uri FROM rl.window_state")
    with pytest.raises(ArtifactError, match="restore"):
        store.get(uri or "")
    await restore_window(connection, connection, store, local, WINDOW)
    assert len(store.get(uri or "")) == 4


async def test_what_cannot_be_archived_is_said(
    connection: asyncpg.Connection, tmp_path: Path, local: Place
) -> None:
    store, _ = await keep_window(connection, tmp_path / "artifacts")
    with pytest.raises(ArchiveError, match="nothing is recorded"):
        await archive_window(connection, connection, store, local, "2020-01-01T00:00")
    with pytest.raises(UnknownWindowError):
        await archive_window(connection, connection, store, local, "../../etc")
    with pytest.raises(UnknownWindowError):
        await restore_window(connection, connection, store, local, "../../etc")
    with pytest.raises(ArchiveError, match="no archive"):
        await restore_window(connection, connection, store, local, "2020-01-01T00:00")
