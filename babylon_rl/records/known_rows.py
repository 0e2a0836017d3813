"""What `rl` knows about the game's rows: `rl.window_rows`, `rl.quarantine`, and one row per window.

Everything that is found about some rows is written in one transaction, so a window's summary never disagrees
with its rows. Rows are written in the order of their ids and the summaries last, under a lock, so that feeds
that run at once neither block each other for ever nor overlook each other's rows.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime

import asyncpg

from babylon_rl.records.examine import ExaminedRow
from babylon_rl.records.quality import ROW_BAR, UNREADABLE

DELETED = "deleted"
"""Why a row that the game no longer has is left out."""

_KNOWN = """
SELECT trajectory_id, window_id, fingerprint, excluded
  FROM rl.window_rows WHERE trajectory_id = ANY($1::text[])
"""
# A row whose columns of ours are all the same is not news, whatever else moved its version.
_UPSERT = """
INSERT INTO rl.window_rows AS known
       (trajectory_id, agent_id, window_id, start_time, created_at, fingerprint, excluded, row_version,
        player, content, bytes, quality, quality_reasons, instruments, seen_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)
ON CONFLICT (trajectory_id) DO UPDATE
   SET agent_id = excluded.agent_id, window_id = excluded.window_id, start_time = excluded.start_time,
       created_at = excluded.created_at, fingerprint = excluded.fingerprint, excluded = excluded.excluded,
       row_version = excluded.row_version, player = excluded.player, content = excluded.content,
       bytes = excluded.bytes, quality = excluded.quality, quality_reasons = excluded.quality_reasons,
       instruments = excluded.instruments,
       seen_at = CASE WHEN (known.window_id, known.fingerprint, known.excluded)
                           IS DISTINCT FROM (excluded.window_id, excluded.fingerprint, excluded.excluded)
                      THEN excluded.seen_at ELSE known.seen_at END
"""
_HOLD = """
INSERT INTO rl.quarantine (trajectory_id, window_id, reason, detail, fingerprint, first_seen, released_at)
VALUES ($1, $2, $3, $4, $5, $6, NULL)
ON CONFLICT (trajectory_id) DO UPDATE
   SET window_id = excluded.window_id, reason = excluded.reason, detail = excluded.detail,
       fingerprint = excluded.fingerprint, released_at = NULL
"""
_RELEASE = """
UPDATE rl.quarantine SET released_at = $2 WHERE trajectory_id = ANY($1::text[]) AND released_at IS NULL
"""
_DELETE = """
WITH gone AS (
    SELECT trajectory_id FROM rl.window_rows
     WHERE trajectory_id = ANY($1::text[]) AND excluded IS DISTINCT FROM $2
     ORDER BY trajectory_id COLLATE "C" FOR UPDATE
)
UPDATE rl.window_rows w SET excluded = $2, seen_at = $3
  FROM gone WHERE w.trajectory_id = gone.trajectory_id RETURNING w.window_id
"""
_LOCK = "SELECT pg_advisory_xact_lock(hashtextextended('rl.recorded_windows', 0))"
# Two rows of one agent with the same start and the same steps are one row, exported twice.
_SUMMARIZE = """
WITH numbered AS (
    SELECT window_id, trajectory_id, agent_id, fingerprint, excluded, quality, quality_reasons, seen_at,
           row_number() OVER (PARTITION BY window_id, excluded, quality IS NULL, agent_id, start_time,
                                           coalesce(content, trajectory_id)
                              ORDER BY trajectory_id COLLATE "C") AS copy
      FROM rl.window_rows
     WHERE window_id = ANY($1::text[]) AND (excluded IS NULL OR excluded = 'test_user')
), single AS (
    SELECT * FROM numbered WHERE copy = 1 OR quality IS NULL
), counted AS (
    SELECT window_id, max(seen_at) AS seen_at,
           count(quality) FILTER (WHERE excluded IS NULL) AS rows,
           count(DISTINCT agent_id) FILTER (WHERE excluded IS NULL AND quality IS NOT NULL) AS agents,
           count(quality) FILTER (WHERE excluded IS NOT NULL) AS test_rows,
           count(DISTINCT agent_id) FILTER (WHERE excluded = 'test_user' AND quality IS NOT NULL)
               AS test_agents,
           count(*) FILTER (WHERE excluded IS NULL AND quality >= $2) AS good_rows,
           count(*) FILTER (WHERE excluded IS NULL AND quality IS NULL) AS unreadable,
           sum(coalesce(quality, 0)) FILTER (WHERE excluded IS NULL) /
               nullif(count(*) FILTER (WHERE excluded IS NULL), 0) AS quality,
           md5(string_agg(trajectory_id || ':' || fingerprint, ',' ORDER BY trajectory_id COLLATE "C")
               FILTER (WHERE quality IS NOT NULL)) AS fingerprint
      FROM single GROUP BY window_id
), reasons AS (
    SELECT window_id, jsonb_object_agg(reason, rows) AS reasons
      FROM (SELECT window_id, reason, count(*) AS rows
              FROM single, unnest(CASE WHEN quality IS NULL THEN ARRAY[$3] ELSE quality_reasons END) AS reason
             WHERE excluded IS NULL GROUP BY window_id, reason) one
     GROUP BY window_id
)
INSERT INTO rl.recorded_windows AS known
       (window_id, rows, agents, test_rows, test_agents, good_rows, unreadable, quality, quality_reasons,
        fingerprint, seen_at)
SELECT w, coalesce(c.rows, 0), coalesce(c.agents, 0), coalesce(c.test_rows, 0), coalesce(c.test_agents, 0),
       coalesce(c.good_rows, 0), coalesce(c.unreadable, 0), c.quality, coalesce(r.reasons, '{}'),
       coalesce(c.fingerprint, ''), coalesce(c.seen_at, now())
  FROM unnest($1::text[]) AS w
  LEFT JOIN counted c ON c.window_id = w LEFT JOIN reasons r ON r.window_id = w
ON CONFLICT (window_id) DO UPDATE
   SET rows = excluded.rows, agents = excluded.agents, test_rows = excluded.test_rows,
       test_agents = excluded.test_agents, good_rows = excluded.good_rows, unreadable = excluded.unreadable,
       quality = excluded.quality, quality_reasons = excluded.quality_reasons,
       fingerprint = excluded.fingerprint,
       seen_at = CASE WHEN known.fingerprint <> excluded.fingerprint THEN now() ELSE known.seen_at END
"""


async def note(rl: asyncpg.Connection, rows: Iterable[ExaminedRow]) -> int:
    """Writes down what was found about rows, and returns how many of them were new or different."""
    found = sorted(rows, key=lambda row: row.trajectory_id)
    if not found:
        return 0
    now = datetime.now(UTC)
    async with rl.transaction():
        ids = [row.trajectory_id for row in found]
        known = {row["trajectory_id"]: row for row in await rl.fetch(_KNOWN, ids)}
        await rl.executemany(_UPSERT, [_values(row, now) for row in found])
        held = [row for row in found if row.problem is not None]
        await rl.executemany(
            _HOLD,
            [
                (row.trajectory_id, row.facts.window_id, row.problem.reason, row.problem.detail)
                + (row.facts.fingerprint, now)
                for row in held
                if row.problem is not None
            ],
        )
        await rl.execute(_RELEASE, [row.trajectory_id for row in found if row.problem is None], now)
        changed = [row for row in found if _differs(known.get(row.trajectory_id), row)]
        touched = {row.facts.window_id for row in found}
        touched |= {row["window_id"] for row in known.values()}
        await summarize(rl, touched)
    return len(changed)


async def note_deleted(rl: asyncpg.Connection, ids: Sequence[str]) -> int:
    """Marks rows that the game no longer has, and returns how many were not marked before."""
    if not ids:
        return 0
    now = datetime.now(UTC)
    async with rl.transaction():
        rows = await rl.fetch(_DELETE, sorted(ids), DELETED, now)
        await rl.execute(_RELEASE, sorted(ids), now)
        await summarize(rl, {row["window_id"] for row in rows})
    return len(rows)


def content_fingerprint(rows: Mapping[str, str]) -> str:
    """Returns the fingerprint of a window of these rows (fingerprints by id), as its summary has it."""
    if not rows:
        return ""
    text = ",".join(f"{trajectory_id}:{rows[trajectory_id]}" for trajectory_id in sorted(rows))
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


async def summarize(rl: asyncpg.Connection, windows: Iterable[str]) -> None:
    """Counts the rows of some windows anew; call it last in a transaction, because it takes a lock."""
    touched = sorted(set(windows))
    if touched:
        await rl.execute(_LOCK)
        await rl.execute(_SUMMARIZE, touched, ROW_BAR, UNREADABLE)


def _differs(known: asyncpg.Record | None, row: ExaminedRow) -> bool:
    facts = row.facts
    return known is None or (known["window_id"], known["fingerprint"], known["excluded"]) != (
        facts.window_id,
        facts.fingerprint,
        facts.excluded,
    )


def _values(examined: ExaminedRow, now: datetime) -> tuple[object, ...]:
    row, facts, quality = examined.row, examined.facts, examined.quality
    return (
        examined.trajectory_id,
        examined.agent_id,
        facts.window_id,
        row["startTime"],
        row["createdAt"],
        facts.fingerprint,
        facts.excluded,
        row["version"],
        row["player"],
        examined.content,
        row["bytes"],
        None if quality is None else quality.score,
        None if quality is None else quality.reasons,
        examined.instruments,
        now,
    )
