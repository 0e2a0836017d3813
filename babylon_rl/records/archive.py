"""Archives: everything about one window in one private folder, here or in an object store.

    archived = await archive_window(db.game, db.rl, store, place, "2026-10-01T14:00")
    restored = await restore_window(db.game, db.rl, store, place, "2026-10-01T14:00", game_rows=False)

A folder `<window>/<hash>/` holds the game's rows and call logs, the frozen snapshot, the scored group,
what `rl` knows about the window, and a manifest with the hash of each file, which is written last: a
folder without one is unfinished. Equal content has one folder, and a folder never changes. The archive
holds ground truth and prompts: who may read it may read all of it.
"""

import tempfile
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import asyncpg
import msgspec

import babylon_rl
from babylon_rl import windows
from babylon_rl.database.game_tables import GAME_COLUMNS
from babylon_rl.records.archive_files import (
    ARTIFACTS,
    CALLS,
    FORMAT,
    ROWS,
    TABLES,
    ArchiveError,
    Manifest,
    content_hash,
    fetch,
    folder_of,
    line_file,
    publish,
)
from babylon_rl.records.forgotten import forgotten_agents
from babylon_rl.records.line_files import read_lines, write_lines, write_lines_async
from babylon_rl.records.places import Place
from babylon_rl.records.scrub import without_agents
from babylon_rl.records.store import ArtifactStore

RESTORED = ("window_state", "scores", "order_value", "outcomes")
"""Tables of `rl` whose rows come back."""
INFORMATIVE = ("window_rows", "quarantine", "judge_runs", "judgments")
"""Tables of `rl` that are archived for people; the feed and the judge make their own."""

_AT_ONCE = 50
_IDS = 'SELECT trajectory_id FROM rl.window_rows WHERE window_id = $1 ORDER BY trajectory_id COLLATE "C"'
_RECORD = """
INSERT INTO rl.archives (url, window_id, sha256, rows, bytes) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (url) DO UPDATE SET pruned_at = NULL
"""
_TRAINED = "SELECT EXISTS (SELECT FROM rl.trained_days WHERE day = $1 AND version IS NOT NULL)"


class Archived(msgspec.Struct, frozen=True):
    """An archived window."""

    url: str
    sha256: str
    rows: int
    bytes: int
    is_new: bool


class Restored(msgspec.Struct, frozen=True):
    """What came back, in rows that were not there."""

    url: str
    files: int
    pipeline_rows: int
    game_rows: int
    calls: int


async def archive_window(
    game: asyncpg.Connection, rl: asyncpg.Connection, store: ArtifactStore, place: Place, window_id: str
) -> Archived:
    """Archives a window as it is now, reads the copy back and compares it.

    Raises:
        ArchiveError: Nothing is known about the window.
        ArtifactError: Its snapshot or group is missing or damaged.
        PlaceError: The place does not take or give it.
    """
    windows.parse_window(window_id)
    with tempfile.TemporaryDirectory(prefix="babylon-archive-") as scratch:
        folder = Path(scratch)
        manifest = await _stage(game, rl, store, window_id, folder)
        is_new = publish(place, folder, manifest)
    url = place.at(f"{folder_of(window_id)}/{manifest.sha256}")
    size = sum(file.bytes for file in manifest.files.values())
    await rl.execute(_RECORD, url, window_id, manifest.sha256, manifest.files[ROWS].records, size)
    return Archived(url, manifest.sha256, manifest.files[ROWS].records, size, is_new)


async def restore_window(
    game: asyncpg.Connection,
    rl: asyncpg.Connection,
    store: ArtifactStore,
    place: Place,
    window_id: str,
    *,
    game_rows: bool = False,
    sha256: str | None = None,
) -> Restored:
    """Brings an archived window back; what is there is kept as it is.

    Args:
        game_rows: Also insert the game's rows that are missing there.
        sha256: Which of the window's archives; by default the newest.

    Raises:
        ArchiveError: There is none, or the game lacks the agents of its rows.
        LineFileError: The archive is damaged; nothing was restored.
    """
    with tempfile.TemporaryDirectory(prefix="babylon-restore-") as scratch:
        folder = Path(scratch)
        manifest = fetch(place, window_id, folder, sha256)
        # An old copy may still hold what was forgotten since.
        manifest = without_agents(folder, manifest, await forgotten_agents(rl))
        for name, uri in manifest.artifacts.items():
            kind, stored_as, _ = uri.split("/")
            with store.writer(kind, stored_as) as writer:
                for line in read_lines(line_file(folder, name)):
                    writer.add(msgspec.json.decode(line))
                writer.publish()
        lines = list(read_lines(line_file(folder, TABLES)))
        async with rl.transaction():
            restored = sum([await _insert_pipeline_row(rl, line) for line in lines])
        rows = calls = 0
        if game_rows:
            async with game.transaction():
                await _require_agents(game, folder)
                rows = await _insert_game_rows(game, "trajectories", line_file(folder, ROWS))
                calls = await _insert_game_rows(game, "llm_call_logs", line_file(folder, CALLS))
    url = place.at(f"{folder_of(window_id)}/{manifest.sha256}")
    return Restored(url, len(manifest.artifacts), restored, rows, calls)


async def prune_window(
    rl: asyncpg.Connection, store: ArtifactStore, archived: Archived, window_id: str
) -> int:
    """Deletes the local snapshot and group of an archived window; returns the bytes that were freed.

    Raises:
        ArchiveError: Its day was not trained yet, so they will be needed.
    """
    day = windows.day_of(window_id)
    if not await rl.fetchval(_TRAINED, windows.parse_day(day)):
        raise ArchiveError(
            f"{day} was not trained yet: the snapshot and the group of {window_id} are still needed",
            "Archive without --prune, or train the day first.",
        )
    freed = 0
    for uri in (await _artifacts(rl, window_id)).values():
        path = store.path(uri)
        if path.exists():
            freed += path.stat().st_size
            path.unlink()
    await rl.execute("UPDATE rl.archives SET pruned_at = now() WHERE url = $1", archived.url)
    return freed


async def _stage(
    game: asyncpg.Connection, rl: asyncpg.Connection, store: ArtifactStore, window_id: str, folder: Path
) -> Manifest:
    ids = [row["trajectory_id"] for row in await rl.fetch(_IDS, window_id)]
    artifacts = await _artifacts(rl, window_id)
    if not ids and not artifacts:
        raise ArchiveError(f"nothing is recorded of {window_id}", "See `babylon windows list`.")
    files = {
        ROWS: await write_lines_async(line_file(folder, ROWS), _game_rows(game, "trajectories", ids)),
        CALLS: await write_lines_async(line_file(folder, CALLS), _game_rows(game, "llm_call_logs", ids)),
        TABLES: await write_lines_async(line_file(folder, TABLES), _pipeline_rows(rl, window_id)),
    }
    for name, uri in artifacts.items():
        files[name] = write_lines(line_file(folder, name), store.lines(uri))
    return Manifest(
        format=FORMAT,
        window_id=window_id,
        sha256=content_hash(files),
        archived_at=datetime.now(UTC),
        code_version=babylon_rl.__version__,
        files=files,
        artifacts=artifacts,
    )


async def _artifacts(rl: asyncpg.Connection, window_id: str) -> dict[str, str]:
    row = await rl.fetchrow(
        "SELECT snapshot_uri, group_uri FROM rl.window_state WHERE window_id = $1", window_id
    )
    return {name: row[column] for name, column in ARTIFACTS.items() if row is not None and row[column]}


async def _game_rows(game: asyncpg.Connection, table: str, ids: Sequence[str]) -> AsyncIterator[bytes]:
    columns = ", ".join(f'"{column}"' for column in GAME_COLUMNS[table])
    query = f"""
        SELECT row_to_json(t)::text FROM (
            SELECT {columns} FROM "{table}" WHERE "trajectoryId" = ANY($1::text[])
        ) t ORDER BY t."trajectoryId" COLLATE "C", t."id" COLLATE "C"
    """
    for first in range(0, len(ids), _AT_ONCE):
        for row in await game.fetch(query, ids[first : first + _AT_ONCE]):
            yield row[0].encode()


async def _pipeline_rows(rl: asyncpg.Connection, window_id: str) -> AsyncIterator[bytes]:
    for table in (*RESTORED, *INFORMATIVE):
        if await rl.fetchval("SELECT to_regclass($1) IS NULL", f"rl.{table}"):
            continue
        query = f"SELECT row_to_json(t)::text FROM rl.{table} t WHERE window_id = $1 ORDER BY 1"
        for row in await rl.fetch(query, window_id):
            yield msgspec.json.encode({"table": table, "row": msgspec.Raw(row[0].encode())})


async def _insert_pipeline_row(rl: asyncpg.Connection, line: bytes) -> int:
    record = msgspec.json.decode(line)
    if record["table"] not in RESTORED:
        return 0
    return await _insert(rl, f"rl.{record['table']}", record["row"])


async def _insert_game_rows(game: asyncpg.Connection, table: str, path: Path) -> int:
    inserted = 0
    for line in read_lines(path):
        inserted += await _insert(game, f'"{table}"', msgspec.json.decode(line))
    return inserted


async def _insert(connection: asyncpg.Connection, table: str, row: dict[str, object]) -> int:
    """Inserts a row unless it is there; columns that either side does not know take their defaults."""
    known = await connection.fetch(
        "SELECT attname FROM pg_attribute WHERE attrelid = $1::text::regclass AND attnum > 0"
        " AND NOT attisdropped AND attgenerated = ''",
        table,
    )
    columns = ", ".join(f'"{column[0]}"' for column in known if column[0] in row)
    status = await connection.execute(
        f"INSERT INTO {table} ({columns}) SELECT {columns} FROM json_populate_record(NULL::{table}, $1::json)"
        " ON CONFLICT DO NOTHING",
        msgspec.json.encode(row).decode(),
    )
    return int(status.rsplit(" ", 1)[1])


async def _require_agents(game: asyncpg.Connection, folder: Path) -> None:
    agents = {msgspec.json.decode(line)["agentId"] for line in read_lines(line_file(folder, ROWS))}
    found = await game.fetch('SELECT "id" FROM "User" WHERE "id" = ANY($1::text[])', sorted(agents))
    missing = sorted(agents - {row["id"] for row in found})
    if missing:
        raise ArchiveError(
            f"the game has no users {', '.join(missing[:5])}{' …' if len(missing) > 5 else ''}",
            "Create them first, or restore without --game-rows.",
        )
