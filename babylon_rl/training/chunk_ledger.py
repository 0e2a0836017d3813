"""The ledger of a unit's chunks: a row before its work starts, the external job's id before it is polled.

Every write proves in its own statement that the unit's lease is still ours, so a process that was stopped and
replaced can write nothing any more.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

import asyncpg
import msgspec

from babylon_rl.training import units
from babylon_rl.training.chunks import Chunk
from babylon_rl.training.errors import TrainingError
from babylon_rl.training.unit_errors import UnitInDoubtError
from babylon_rl.training.units import Lease

ChunkStatus = Literal["pending", "training", "submitting", "submitted", "failed", "done"]

_INSERT = """
INSERT INTO rl.training_chunks (unit_key, chunk, chunks, content_sha256, groups, trajectories, tokens)
SELECT $1, $2, $3, $4, $5, $6, $7 WHERE EXISTS (
       SELECT FROM rl.training_units WHERE unit_key = $1 AND epoch = $8 AND status = 'running')
ON CONFLICT (unit_key, chunk) DO NOTHING
"""
_COLUMNS = """unit_key, chunk, chunks, content_sha256, groups, trajectories, tokens, status, attempt,
       step_before, step_after, external_job_id, checkpoint, metrics, error, started_at, completed_at"""
_READ = f"SELECT {_COLUMNS} FROM rl.training_chunks WHERE unit_key = $1 ORDER BY chunk"
_UPDATE = f"""
UPDATE rl.training_chunks
   SET status = $4,
       attempt = attempt + CASE WHEN $4 IN ('training', 'submitting') THEN 1 ELSE 0 END,
       started_at = CASE WHEN $4 IN ('training', 'submitting') THEN clock_timestamp() ELSE started_at END,
       completed_at = CASE WHEN $4 IN ('done', 'failed') THEN clock_timestamp() END,
       step_before = coalesce($5, step_before), step_after = coalesce($6, step_after),
       external_job_id = CASE WHEN $4 IN ('pending', 'submitting') THEN NULL
                              ELSE coalesce($7, external_job_id) END,
       checkpoint = coalesce($8, checkpoint), metrics = coalesce($9, metrics), error = $10
 WHERE unit_key = $1 AND chunk = $2 AND EXISTS (
       SELECT FROM rl.training_units WHERE unit_key = $1 AND epoch = $3 AND status = 'running')
RETURNING {_COLUMNS}
"""

_COMPLAIN = "UPDATE rl.training_chunks SET error = $3 WHERE unit_key = $1 AND chunk = $2"


class ChangedChunksError(TrainingError):
    """A unit's chunks are not those that an earlier attempt recorded."""


class ChunkRecord(msgspec.Struct, frozen=True):
    """A row of `rl.training_chunks`; times are aware UTC.

    `status` is `pending` (nothing was done), `training` (here), `submitting` (a submission may have arrived),
    `submitted` (`external_job_id` is known), `failed` (the job said so), or `done`.
    """

    unit_key: str
    chunk: int
    chunks: int
    content_sha256: str
    groups: int
    trajectories: int
    tokens: int
    status: ChunkStatus
    attempt: int
    step_before: int | None
    step_after: int | None
    external_job_id: str | None
    checkpoint: str | None
    metrics: dict[str, Any] | None
    error: str | None
    started_at: datetime | None
    completed_at: datetime | None


async def read_chunks(rl: asyncpg.Connection, unit_key: str) -> list[ChunkRecord]:
    """The chunks of a unit in order; none where it was never cut."""
    return [ChunkRecord(**dict(row)) for row in await rl.fetch(_READ, unit_key)]


class ChunkLedger:
    """The rows of one unit under one lease; `open` writes or finds them."""

    def __init__(self, rl: asyncpg.Connection, lease: Lease, rows: list[ChunkRecord]) -> None:
        self._rl, self.lease, self.rows = rl, lease, rows

    @classmethod
    async def open(cls, rl: asyncpg.Connection, lease: Lease, chunks: Sequence[Chunk]) -> "ChunkLedger":
        """Write the rows that are missing and read all.

        Raises:
            LostLeaseError: Somebody else has the unit.
            ChangedChunksError: An earlier attempt recorded other chunks.
        """
        for chunk in chunks:
            counts = (chunk.groups, chunk.trajectories, chunk.tokens)
            values = (lease.unit.key, chunk.index, chunk.of, chunk.sha256, *counts, lease.epoch)
            await rl.execute(_INSERT, *values)
        rows = await read_chunks(rl, lease.unit.key)
        if not rows:
            raise await units.lost_lease(rl, lease)
        if [row.content_sha256 for row in rows] != [chunk.sha256 for chunk in chunks]:
            raise ChangedChunksError(
                f"training unit {lease.unit.key[:12]} was cut into other chunks before",
                "Its batch file or the code has changed. Train the batch as a new unit (`babylon retrain`).",
            )
        return cls(rl, lease, rows)

    async def write(
        self,
        index: int,
        status: ChunkStatus,
        *,
        step_before: int | None = None,
        step_after: int | None = None,
        job: str | None = None,
        checkpoint: str | None = None,
        metrics: Mapping[str, Any] | None = None,
        error: str | None = None,
    ) -> ChunkRecord:
        """Move a chunk on; what is None stays as it is, but the error, which always is the latest.

        Raises:
            LostLeaseError: Somebody else has the unit; nothing was written.
        """
        key, epoch = self.lease.unit.key, self.lease.epoch
        values = (step_before, step_after, job, checkpoint, dict(metrics) if metrics else None, error)
        row = await self._rl.fetchrow(_UPDATE, key, index, epoch, status, *values)
        if row is None:
            raise await units.lost_lease(self._rl, self.lease)
        self.rows[index] = ChunkRecord(**dict(row))
        return self.rows[index]

    async def note_job(self, index: int, job: str) -> ChunkRecord:
        """Remember the job of a submitted chunk, in its row and in the unit's, before it is polled.

        Raises:
            LostLeaseError: Somebody else has the unit; nothing was written.
        """
        async with self._rl.transaction():
            await units.note_job(self._rl, self.lease, job)
            return await self.write(index, "submitted", job=job)

    async def doubt(self, index: int, what: str) -> UnitInDoubtError:
        """Mark the unit in doubt because of a chunk; returns the error to raise.

        Raises:
            LostLeaseError: Somebody else has the unit; nothing was written.
        """
        key, error = self.lease.unit.key, f"chunk {index}: {what}"
        async with self._rl.transaction():
            if not await units.fail(self._rl, self.lease, error, status="in_doubt"):
                raise await units.lost_lease(self._rl, self.lease)
            await self._rl.execute(_COMPLAIN, key, index, what)
        return UnitInDoubtError(key, error)
