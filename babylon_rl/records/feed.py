"""The feed of `rl.window_rows`: finds the game's new, changed and deleted rows, and notes what they hold.

The game's table has no index of ours, its rows may be committed late and dated wrongly, and their `windowId`
may be null. So the feed looks at the rows created since some time before the newest one that it knows, and
compares their ids and versions with its own; once a night a reconciliation compares all of them.
"""

from datetime import UTC, datetime, timedelta

import asyncpg

from babylon_rl.records import game_rows
from babylon_rl.records.examine import examine
from babylon_rl.records.forgotten import NOBODY, forgotten_agents
from babylon_rl.records.known_rows import DELETED, note, note_deleted

BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)
"""Pass as `since` to compare every row."""

OVERLAP = timedelta(hours=2)
"""How far the feed looks back behind the newest row it knows: transactions commit late and clocks differ."""

RECHECKED = 500
"""Quarantined rows that one refresh compares with the game's."""

_KNOWN_VERSIONS = """
SELECT trajectory_id, row_version, player FROM rl.window_rows
 WHERE trajectory_id = ANY($1::text[]) AND excluded IS DISTINCT FROM 'deleted'
"""
_HELD = """
SELECT q.trajectory_id, w.row_version, w.bytes
  FROM rl.quarantine q LEFT JOIN rl.window_rows w USING (trajectory_id)
 WHERE q.released_at IS NULL ORDER BY q.first_seen DESC LIMIT $1
"""
_ALIVE = """
SELECT trajectory_id FROM rl.window_rows
 WHERE trajectory_id > $1 AND excluded IS DISTINCT FROM $2 ORDER BY trajectory_id LIMIT $3
"""
_FED = "SELECT EXISTS (SELECT 1 FROM rl.recorded_windows)"


async def refresh_window_rows(
    game: asyncpg.Connection, rl: asyncpg.Connection, *, since: datetime | None = None
) -> int:
    """Brings `rl` up to date with the game's rows and returns how many are new or changed.

    Finds rows created since `since` that `rl` does not know (also those committed late and those without a
    `windowId`), rows that were updated, and quarantined rows that were repaired. Unreadable and suspicious
    ones go into `rl.quarantine`.

    Args:
        game: Connection to the game's database; only reads.
        rl: Connection to the database with schema `rl`; may be the same one.
        since: A moment by whose rows `rl` was already up to date; by default, when its newest row was
            created. The feed looks `OVERLAP` further back than this and than that. Rows loaded with a
            `createdAt` before all that need `BEGINNING`, or `reconcile_window_rows`.
    """
    changed = await _recheck_quarantine(game, rl)
    created = await _look_from(rl, since)
    pages = game_rows.list_all(game) if created <= BEGINNING else game_rows.list_recent(game, created)
    async for page in pages:
        changed += await _take_news(game, rl, page)
    return changed


async def reconcile_window_rows(game: asyncpg.Connection, rl: asyncpg.Connection) -> int:
    """Compares every row of the game with `rl`, whatever its dates, and returns how many differed.

    For once a night: it costs one pass over an index of the game's table. Finds what no feed can: rows
    loaded with an old `createdAt`, old rows that were changed or deleted, players that became test users.
    """
    changed = await refresh_window_rows(game, rl, since=BEGINNING)
    last = ""
    while rows := await rl.fetch(_ALIVE, last, DELETED, game_rows.LISTED_AT_ONCE):
        last = rows[-1]["trajectory_id"]
        ids = [row["trajectory_id"] for row in rows]
        alive = await game_rows.read_versions(game, ids)
        changed += await note_deleted(rl, [row for row in ids if row not in alive])
    return changed


async def _take_news(game: asyncpg.Connection, rl: asyncpg.Connection, page: list[asyncpg.Record]) -> int:
    known = {
        row["trajectory_id"]: (row["row_version"], row["player"])
        for row in await rl.fetch(_KNOWN_VERSIONS, [row["trajectoryId"] for row in page])
    }
    news = [
        (row["trajectoryId"], row["bytes"])
        for row in page
        if known.get(row["trajectoryId"]) != (row["version"], row["player"])
    ]
    changed = 0
    forgotten = await forgotten_agents(rl) if news else NOBODY
    async for rows in game_rows.read_rows(game, news):
        changed += await note(rl, [examine(row, forgotten) for row in rows])
    return changed


async def _recheck_quarantine(game: asyncpg.Connection, rl: asyncpg.Connection) -> int:
    """Looks again at quarantined rows that were touched, whenever they were created."""
    held = {row["trajectory_id"]: row for row in await rl.fetch(_HELD, RECHECKED)}
    if not held:
        return 0
    versions = await game_rows.read_versions(game, list(held))
    changed = await note_deleted(rl, [row for row in held if row not in versions])
    touched = [
        (row, held[row]["bytes"]) for row, version in versions.items() if version != held[row]["row_version"]
    ]
    forgotten = await forgotten_agents(rl) if touched else NOBODY
    async for rows in game_rows.read_rows(game, touched):
        changed += await note(rl, [examine(row, forgotten) for row in rows])
    return changed


async def _look_from(rl: asyncpg.Connection, since: datetime | None) -> datetime:
    if not await rl.fetchval(_FED):
        return BEGINNING  # nothing is known yet, or by an older version of this code
    # A moment dated into the future must not hide the rows that come before it.
    newest = await rl.fetchval("SELECT max(created_at) FROM rl.window_rows")
    if newest is None:
        return BEGINNING
    return max(BEGINNING, min(newest, since or newest, datetime.now(UTC)) - OVERLAP)
