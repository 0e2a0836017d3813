"""Reading windows: the feed of `rl.window_rows`, and the trajectories of one window.

The game's database and the one with schema `rl` may be different servers, so nothing here joins across them.
No index of ours exists on game tables: rows are found through `rl.window_rows` and read by their unique id.
"""

from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import msgspec

from babylon_rl import windows
from babylon_rl.records.steps import UnreadableRowError
from babylon_rl.records.trajectory import ROW_SQL, RecordedTrajectory, RowFacts, decode_row, row_facts

BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)
"""Pass as `since` to compare every row: a reconciliation."""

OVERLAP = timedelta(hours=2)
"""How far the feed looks back behind the newest row it knows: transactions commit late and clocks differ."""

LISTED_AT_ONCE = 5_000
READ_AT_ONCE = 25
"""Rows with steps held at once; a row may have megabytes."""

RECHECKED = 500
"""Quarantined rows that one refresh compares with the game's."""

_LIST = """
SELECT "trajectoryId", "updatedAt" FROM "trajectories"
 WHERE "createdAt" >= $1 AND "trajectoryId" > $2
 ORDER BY "trajectoryId" LIMIT $3
"""
_KNOWN = """
SELECT trajectory_id, window_id, fingerprint, excluded, updated_at
  FROM rl.window_rows WHERE trajectory_id = ANY($1::text[])
"""
_KNOWN_OF_WINDOW = """
SELECT trajectory_id, window_id, fingerprint, excluded
  FROM rl.window_rows WHERE window_id = $1 ORDER BY trajectory_id
"""
# A row whose columns of ours are all the same is not news, whatever else moved its "updatedAt".
_UPSERT = """
INSERT INTO rl.window_rows AS known
       (trajectory_id, agent_id, window_id, start_time, created_at, updated_at, fingerprint, excluded,
       seen_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
ON CONFLICT (trajectory_id) DO UPDATE
   SET agent_id = excluded.agent_id, window_id = excluded.window_id, start_time = excluded.start_time,
       created_at = excluded.created_at, updated_at = excluded.updated_at,
       fingerprint = excluded.fingerprint, excluded = excluded.excluded,
       seen_at = CASE WHEN (known.window_id, known.fingerprint, known.excluded)
                           IS DISTINCT FROM (excluded.window_id, excluded.fingerprint, excluded.excluded)
                      THEN excluded.seen_at ELSE known.seen_at END
"""
_QUARANTINE = """
INSERT INTO rl.quarantine (trajectory_id, window_id, reason, detail, fingerprint, first_seen, released_at)
VALUES ($1, $2, $3, $4, $5, $6, NULL)
ON CONFLICT (trajectory_id) DO UPDATE
   SET window_id = excluded.window_id, reason = excluded.reason, detail = excluded.detail,
       fingerprint = excluded.fingerprint, released_at = NULL
"""
_RELEASE = """
UPDATE rl.quarantine SET released_at = $2 WHERE trajectory_id = ANY($1::text[]) AND released_at IS NULL
"""


class QuarantinedRow(msgspec.Struct, frozen=True):
    """A row that could not be read."""

    trajectory_id: str
    agent_id: str
    reason: str
    detail: str
    fingerprint: str


class WindowRead(msgspec.Struct):
    """Everything that one window holds."""

    window_id: str
    trajectories: list[RecordedTrajectory]
    """Ordered by agent, start and id."""
    excluded: dict[str, int]
    """Rows left out on purpose, by reason."""
    quarantined: list[QuarantinedRow]
    """Rows that could not be read, by id."""

    @property
    def agents(self) -> list[str]:
        """Ids of the agents with at least one readable trajectory."""
        return sorted({trajectory.agent_id for trajectory in self.trajectories})


async def refresh_window_rows(
    game: asyncpg.Connection, rl: asyncpg.Connection, *, since: datetime | None = None
) -> int:
    """Brings `rl.window_rows` up to date and returns how many rows are new or changed.

    Finds rows created since `since` that `rl` does not know (also those committed late and those without a
    `windowId`), rows whose `updatedAt` has moved, and quarantined rows that were repaired.

    Args:
        game: Connection to the game's database; only reads.
        rl: Connection to the database with schema `rl`; may be the same one.
        since: A moment by whose rows `rl` was already up to date; by default, when its newest row was
        created. The
            feed looks `OVERLAP` further back than this and than that. Rows loaded with a `createdAt` before
            all that need `BEGINNING`.
    """
    changed = await _recheck_quarantine(game, rl)
    created = await _look_from(rl, since)
    last = ""
    while listed := await game.fetch(_LIST, created, last, LISTED_AT_ONCE):
        last = listed[-1]["trajectoryId"]
        known = {
            row["trajectory_id"]: row["updated_at"]
            for row in await rl.fetch(_KNOWN, [row["trajectoryId"] for row in listed])
        }
        news = [row["trajectoryId"] for row in listed if known.get(row["trajectoryId"]) != row["updatedAt"]]
        async for rows in _read_rows(game, news):
            changed += await _note(rl, [(row, row_facts(row)) for row in rows])
    return changed


async def read_window(
    game: asyncpg.Connection, rl: asyncpg.Connection, window_id: str, *, include_test_users: bool = False
) -> WindowRead:
    """Reads all trajectories of a window that `rl.window_rows` lists, and keeps `rl` true to what it saw.

    Rows without a reading go to `rl.quarantine` and the window goes on; rows that can be read again are
    released.

    Args:
        game: Connection to the game's database; only reads.
        rl: Connection to the database with schema `rl`; may be the same one.
        window_id: A canonical window id.
        include_test_users: Do not leave out the rows of test users.

    Raises:
        UnknownWindowError: `window_id` is not a window id.
    """
    windows.parse_window(window_id)
    known = {row["trajectory_id"]: _facts_known(row) for row in await rl.fetch(_KNOWN_OF_WINDOW, window_id)}
    read = WindowRead(window_id, [], {}, [])
    seen: list[tuple[Any, RowFacts]] = []
    waived = {"test_user"} if include_test_users else set()
    # One view of the game for the whole window, so that a group never mixes two of its states.
    snapshot = game.transaction(isolation="repeatable_read", readonly=True)
    async with nullcontext() if game.is_in_transaction() else snapshot:
        async for rows in _read_rows(game, list(known)):
            for row in rows:
                facts = row_facts(row)
                seen.append((_without_steps(row), facts))
                if facts.window_id == window_id:
                    _take(read, row, facts, waived)
    gone = set(known) - {row["trajectoryId"] for row, _ in seen}
    if gone:
        read.excluded["deleted"] = len(gone)
    read.trajectories.sort(key=lambda t: (t.agent_id, t.start_time, t.trajectory_id))
    read.quarantined.sort(key=lambda row: row.trajectory_id)
    async with rl.transaction():
        await _note(rl, [(row, facts) for row, facts in seen if facts != known[row["trajectoryId"]]])
        await rl.execute(
            "UPDATE rl.window_rows SET excluded = 'deleted' WHERE trajectory_id = ANY($1::text[])",
            sorted(gone),
        )
        await _quarantine(rl, read, list(known))
    return read


def _take(read: WindowRead, row: Any, facts: RowFacts, waived: set[str]) -> None:
    if facts.excluded is not None and facts.excluded not in waived:
        read.excluded[facts.excluded] = read.excluded.get(facts.excluded, 0) + 1
        return
    try:
        read.trajectories.append(decode_row(row, facts))
    except UnreadableRowError as error:
        read.quarantined.append(
            QuarantinedRow(row["trajectoryId"], row["agentId"], error.reason, error.detail, facts.fingerprint)
        )


async def _quarantine(rl: asyncpg.Connection, read: WindowRead, ids: Sequence[str]) -> None:
    now = datetime.now(UTC)
    bad = {row.trajectory_id for row in read.quarantined}
    await rl.execute(_RELEASE, [row for row in ids if row not in bad], now)
    await rl.executemany(
        _QUARANTINE,
        [
            (row.trajectory_id, read.window_id, row.reason, row.detail, row.fingerprint, now)
            for row in read.quarantined
        ],
    )


async def _recheck_quarantine(game: asyncpg.Connection, rl: asyncpg.Connection) -> int:
    """Releases quarantined rows that were repaired; their new fingerprint makes their window news."""
    held = {
        row["trajectory_id"]: row["fingerprint"]
        for row in await rl.fetch(
            "SELECT trajectory_id, fingerprint FROM rl.quarantine WHERE released_at IS NULL"
            " ORDER BY first_seen DESC LIMIT $1",
            RECHECKED,
        )
    }
    changed, readable = 0, []
    async for rows in _read_rows(game, sorted(held)):
        facts = [(row, row_facts(row)) for row in rows]
        touched = [(row, fact) for row, fact in facts if fact.fingerprint != held[row["trajectoryId"]]]
        changed += await _note(rl, touched)
        for row, fact in touched:
            try:
                decode_row(row, fact)
                readable.append(row["trajectoryId"])
            except UnreadableRowError:
                pass  # still broken, in another way: reading its window will say how
    await rl.execute(_RELEASE, readable, datetime.now(UTC))
    return changed


async def _note(rl: asyncpg.Connection, rows: Iterable[tuple[Any, RowFacts]]) -> int:
    """Upserts what is known about rows; returns how many were new or different."""
    # In one order everywhere, or two feeds that upsert the same rows could wait for each other for ever.
    facts = {
        row["trajectoryId"]: (row, fact) for row, fact in sorted(rows, key=lambda r: r[0]["trajectoryId"])
    }
    known = {row["trajectory_id"]: _facts_known(row) for row in await rl.fetch(_KNOWN, list(facts))}
    now = datetime.now(UTC)
    await rl.executemany(
        _UPSERT,
        [
            (
                trajectory_id,
                row["agentId"],
                fact.window_id,
                row["startTime"],
                row["createdAt"],
                row["updatedAt"],
                fact.fingerprint,
                fact.excluded,
                now,
            )
            for trajectory_id, (row, fact) in facts.items()
        ],
    )
    return sum(known.get(trajectory_id) != fact for trajectory_id, (_, fact) in facts.items())


async def _look_from(rl: asyncpg.Connection, since: datetime | None) -> datetime:
    # A moment dated into the future must not hide the rows that come before it.
    newest = await rl.fetchval("SELECT max(created_at) FROM rl.window_rows")
    return BEGINNING if newest is None else min(newest, since or newest, datetime.now(UTC)) - OVERLAP


async def _read_rows(game: asyncpg.Connection, ids: Sequence[str]) -> AsyncIterator[list[asyncpg.Record]]:
    for first in range(0, len(ids), READ_AT_ONCE):
        yield await game.fetch(ROW_SQL, ids[first : first + READ_AT_ONCE])


def _facts_known(row: asyncpg.Record) -> RowFacts:
    return RowFacts(row["window_id"], row["excluded"], row["fingerprint"])


def _without_steps(row: asyncpg.Record) -> dict[str, Any]:
    return {key: row[key] for key in ("trajectoryId", "agentId", "startTime", "createdAt", "updatedAt")}
