"""The game's table `trajectories`: the queries that list and read its rows, and what a row's version is.

No index of ours exists there, so rows are listed by its own indexes and read by their unique id.
"""

from collections.abc import AsyncIterator, Iterable, Sequence
from datetime import datetime
from typing import Any
from weakref import WeakKeyDictionary

import asyncpg

from babylon_rl.records.trajectory import AGENT, NPC, TEST_USER

LISTED_AT_ONCE = 5_000
READ_AT_ONCE = 50
BYTES_AT_ONCE = 4_000_000
"""Steps held at once, in rows and in bytes of `stepsJson`; a row may have megabytes."""

LARGEST_ROW = 64_000_000
"""Bytes of `stepsJson` above which a row is not read: it would need some ten times as much memory."""

_PLAYER = f"""
CASE WHEN u."isActor" THEN '{NPC}' WHEN u."isTest" THEN '{TEST_USER}' ELSE '{AGENT}' END AS player
"""
_LISTED = f"""
SELECT t."trajectoryId", t."createdAt", octet_length(t."stepsJson") AS bytes, {{version}} AS version,
       {_PLAYER}
  FROM "trajectories" t LEFT JOIN "User" u ON u."id" = t."agentId"
"""
# Every row, in the order of the unique index.
_LIST_ALL = _LISTED + ' WHERE t."trajectoryId" > $1 ORDER BY t."trajectoryId" LIMIT $2'
# The index on (scenarioId, createdAt) finds recent rows without the table's pages.
_LIST_RECENT = (
    _LISTED
    + """
 WHERE t."createdAt" >= $1 AND (t."createdAt", t."trajectoryId") > ($1, $2)
 ORDER BY t."createdAt", t."trajectoryId" LIMIT $3
"""
)
_ROWS = f"""
SELECT t."id", t."trajectoryId", t."agentId", t."windowId", t."scenarioId", t."windowHours",
       t."startTime", t."endTime", t."finalPnL", t."finalBalance", t."finalStatus",
       t."isTrainingData", t."isEvaluation", t."createdAt", octet_length(t."stepsJson") AS bytes,
       CASE WHEN octet_length(t."stepsJson") <= $2 THEN t."stepsJson" END AS "stepsJson",
       {{version}} AS version, {_PLAYER}
  FROM "trajectories" t LEFT JOIN "User" u ON u."id" = t."agentId"
 WHERE t."trajectoryId" = ANY($1::text[])
"""
_VERSIONS = """
SELECT t."trajectoryId", {version} AS version FROM "trajectories" t WHERE t."trajectoryId" = ANY($1::text[])
"""

_versions: "WeakKeyDictionary[asyncpg.Connection, str]" = WeakKeyDictionary()


async def list_all(game: asyncpg.Connection) -> AsyncIterator[list[asyncpg.Record]]:
    """Yields id, size, version and player of every row, in pages."""
    query = _LIST_ALL.format(version=await version_column(game))
    last = ""
    while page := await game.fetch(query, last, LISTED_AT_ONCE):
        last = page[-1]["trajectoryId"]
        yield page


async def list_recent(game: asyncpg.Connection, since: datetime) -> AsyncIterator[list[asyncpg.Record]]:
    """Yields id, size, version and player of the rows created at or after a moment, in pages."""
    query = _LIST_RECENT.format(version=await version_column(game))
    created, last = since, ""
    while page := await game.fetch(query, created, last, LISTED_AT_ONCE):
        created, last = page[-1]["createdAt"], page[-1]["trajectoryId"]
        yield page


async def read_rows(
    game: asyncpg.Connection, sizes: Iterable[tuple[str, int | None]]
) -> AsyncIterator[list[asyncpg.Record]]:
    """Yields whole rows by id, a bounded number of bytes at once; those that no longer exist are left out.

    Args:
        game: Connection to the game's database.
        sizes: Trajectory ids and the sizes of their steps in bytes, as far as they are known.
    """
    query = _ROWS.format(version=await version_column(game))
    for ids in portions(sizes):
        yield await game.fetch(query, ids, LARGEST_ROW)


async def read_versions(game: asyncpg.Connection, ids: Sequence[str]) -> dict[str, str]:
    """Returns the version of each row that exists, by trajectory id."""
    query = _VERSIONS.format(version=await version_column(game))
    found: dict[str, str] = {}
    for first in range(0, len(ids), LISTED_AT_ONCE):
        rows = await game.fetch(query, ids[first : first + LISTED_AT_ONCE])
        found |= {row["trajectoryId"]: row["version"] for row in rows}
    return found


def portions(sizes: Iterable[tuple[str, int | None]]) -> Iterable[list[str]]:
    """Splits ids, in their order, into lists whose rows fit into memory together; none is left out."""
    ids: list[str] = []
    total = 0
    for trajectory_id, size in sizes:
        if ids and (len(ids) >= READ_AT_ONCE or total + (size or 0) > BYTES_AT_ONCE):
            yield ids
            ids, total = [], 0
        ids.append(trajectory_id)
        total += size or 0
    if ids:
        yield ids


async def version_column(game: asyncpg.Connection) -> str:
    """Returns the SQL of a row's version: `xmin`, which every update changes, or `updatedAt` for a view."""
    column = _versions.get(game)
    if column is None:
        kind: Any = await game.fetchval(
            """SELECT relkind::text FROM pg_class WHERE oid = to_regclass('"trajectories"')"""
        )
        column = "t.xmin::text" if kind in ("r", "p") else 't."updatedAt"::text'
        _versions[game] = column
    return column
