"""Benchmarks of registered models, and the verdicts that follow from them.

The first gate benchmark of a version on its held-out markets stands: repeating it returns what was stored, so
no verdict can be re-rolled. Markets that judged one model never judge another.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

import asyncpg
import msgspec

from babylon_rl.deployment.errors import ReusedSeedsError
from babylon_rl.deployment.registry import VerdictName, get

Purpose = Literal["gate", "vault", "replay"]

_LOCK = "SELECT pg_advisory_xact_lock(hashtext('babylon_rl'), hashtext('rl.benchmarks'))"
_COLUMNS = """id, version, incumbent, purpose, seed_key, windows, metrics, verdict, reason,
       created_at"""
_INSERT = f"""
INSERT INTO rl.benchmarks (version, incumbent, purpose, seed_key, windows, metrics, verdict, reason)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8) RETURNING {_COLUMNS}
"""
_NOTE_ON_MODEL = """
UPDATE rl.models
   SET verdict = coalesce($2, verdict),
       metrics = coalesce(metrics, '{}'::jsonb) || jsonb_build_object('benchmark', $3::jsonb)
 WHERE version = $1
"""
_JUDGED = """
SELECT version, min(id) AS first FROM rl.benchmarks
 WHERE purpose = 'gate' AND incumbent = $1 GROUP BY version ORDER BY first
"""


class BenchmarkRecord(msgspec.Struct, frozen=True):
    """A row of `rl.benchmarks`; times are aware UTC.

    `metrics` are what the game shows, where measured: `benchmark_score` (mean return on start equity per
    held-out market), `accuracy` (share of orders that the price moved in favour of), `avg_reward`; and
    anything else.
    """

    id: int
    version: str
    incumbent: str | None
    purpose: Purpose
    seed_key: str
    windows: int
    metrics: dict[str, Any]
    verdict: VerdictName | None
    reason: str | None
    created_at: datetime


async def record_benchmark(
    rl: asyncpg.Connection,
    *,
    version: str,
    incumbent: str | None,
    purpose: Purpose,
    seed_key: str,
    windows: int,
    metrics: Mapping[str, Any],
    verdict: VerdictName | None = None,
    reason: str | None = None,
) -> BenchmarkRecord:
    """Store a benchmark; a gate's also becomes the model's verdict.

    A repetition returns the first one's record.

    Args:
        seed_key: What the held-out markets' seeds follow from.
        windows: Number of held-out markets, the n of the interval.
        metrics: See `BenchmarkRecord`; NaN and infinity become null.

    Raises:
        UnknownVersionError: The model is not registered.
        ReusedSeedsError: These markets judged another model at a gate.
    """
    async with rl.transaction():
        await rl.execute(_LOCK)
        model = await get(rl, version)
        earlier = await rl.fetch(
            f"SELECT {_COLUMNS} FROM rl.benchmarks WHERE seed_key = $1 ORDER BY id", seed_key
        )
        for row in earlier:
            if row["version"] == model.version and row["purpose"] == purpose:
                return _record(row)
            if purpose == "gate" and row["version"] != model.version:
                raise ReusedSeedsError(
                    f"the held-out markets {seed_key} already judged {row['version']}, not {model.version}",
                    "Derive the seeds from the candidate's own hash.",
                )
        where = (model.version, incumbent, purpose, seed_key, windows)
        row = await rl.fetchrow(_INSERT, *where, dict(metrics), verdict, reason)
        if purpose == "gate":
            await rl.execute(_NOTE_ON_MODEL, model.version, verdict, dict(metrics))
        return _record(row)


async def latest_benchmark(
    rl: asyncpg.Connection, version: str, purpose: Purpose = "gate"
) -> BenchmarkRecord | None:
    """The newest benchmark of a version, None before the first."""
    query = (
        f"SELECT {_COLUMNS} FROM rl.benchmarks WHERE version = $1 AND purpose = $2 ORDER BY id DESC LIMIT 1"
    )
    row = await rl.fetchrow(query, version, purpose)
    return _record(row) if row is not None else None


async def all_benchmarks(
    rl: asyncpg.Connection, version: str | None = None, limit: int | None = None
) -> list[BenchmarkRecord]:
    """Every comparison that was ever made, newest first: verdicts of the gate, the vault, replays."""
    query = f"""SELECT {_COLUMNS} FROM rl.benchmarks WHERE $1::text IS NULL OR version = $1
                 ORDER BY id DESC LIMIT $2"""
    return [_record(row) for row in await rl.fetch(query, version, limit)]


async def candidate_number(rl: asyncpg.Connection, version: str, incumbent: str) -> int:
    """The k of `statistics.alpha_for`: candidates that tried to displace the incumbent, with this one.

    The budget period is the incumbent's reign: it loses its place to a model that is no better with
    probability at most alpha, and a promotion opens a new budget. A version that was judged keeps its number.
    """
    judged = [row["version"] for row in await rl.fetch(_JUDGED, incumbent)]
    return judged.index(version) + 1 if version in judged else len(judged) + 1


def _record(row: asyncpg.Record | None) -> BenchmarkRecord:
    assert row is not None
    return BenchmarkRecord(**dict(row))
