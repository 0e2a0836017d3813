"""An operator's word on a unit that is in doubt, or stuck: was its submission trained, or not?

A serverless submission whose answer was lost is never repeated by itself. Whoever has looked it up at the
service says what is true, and the next run goes on from there.
"""

from dataclasses import dataclass

import asyncpg

from babylon_rl.training import units
from babylon_rl.training.chunk_ledger import ChunkRecord, read_chunks
from babylon_rl.training.errors import TrainingError
from babylon_rl.training.units import UnitRecord

_IN_DOUBT = """
SELECT unit_key FROM rl.training_units WHERE status = 'in_doubt' ORDER BY day NULLS LAST, created_at
"""
_MATCHING = "SELECT unit_key FROM rl.training_units WHERE starts_with(unit_key, $1) ORDER BY unit_key LIMIT 2"
_LOCK = "SELECT status FROM rl.training_units WHERE unit_key = $1 FOR UPDATE"
_FREE = (
    "UPDATE rl.training_units SET status = 'pending', error = NULL, lease_until = NULL WHERE unit_key = $1"
)
_CHUNK = """
UPDATE rl.training_chunks
   SET status = $3, external_job_id = $4, step_after = $5, error = NULL,
       completed_at = CASE WHEN $3 = 'done' THEN clock_timestamp() END
 WHERE unit_key = $1 AND chunk = $2
"""


class NothingToResolveError(TrainingError):
    """The unit does not wait for anybody's word."""


@dataclass(frozen=True)
class Doubt:
    """A unit and the chunk that it stands at."""

    unit: UnitRecord
    chunk: ChunkRecord | None


async def doubts(rl: asyncpg.Connection) -> list[Doubt]:
    """The units that wait for an operator, oldest day first."""
    return [await look(rl, row["unit_key"]) for row in await rl.fetch(_IN_DOUBT)]


async def look(rl: asyncpg.Connection, unit_key: str) -> Doubt:
    """A unit by its key, or by the beginning of it.

    Raises:
        UnknownUnitError: No unit, or more than one, begins like this.
    """
    found = await rl.fetch(_MATCHING, unit_key)
    if len(found) != 1:
        problem = f"{'no' if not found else 'more than one'} training unit begins with {unit_key!r}"
        raise units.UnknownUnitError(problem, "`babylon train resolve` lists those that are in doubt.")
    unit = await units.find(rl, found[0]["unit_key"])
    rows = await read_chunks(rl, unit.unit_key)
    return Doubt(unit, next((row for row in rows if row.status != "done"), None))


async def not_trained(rl: asyncpg.Connection, unit_key: str) -> Doubt:
    """Nothing was trained: the next run submits the chunk again.

    Raises:
        NothingToResolveError: The unit is running, done, or has no open chunk.
    """
    return await _settle(rl, unit_key, "pending")


async def trained(rl: asyncpg.Connection, unit_key: str) -> Doubt:
    """The service's next step is this chunk's: the next run takes it over.

    Raises:
        NothingToResolveError: The unit is running, done, or its chunk was never about to be submitted.
    """
    return await _settle(rl, unit_key, "done")


async def follow(rl: asyncpg.Connection, unit_key: str, job: str) -> Doubt:
    """The service knows the submission as this job: the next run follows it.

    Raises:
        NothingToResolveError: The unit is running, done, or has no open chunk.
    """
    return await _settle(rl, unit_key, "submitted", job)


async def _settle(rl: asyncpg.Connection, unit_key: str, status: str, job: str | None = None) -> Doubt:
    doubt = await look(rl, unit_key)
    key, chunk = doubt.unit.unit_key, doubt.chunk
    async with rl.transaction():
        current = await rl.fetchval(_LOCK, key)
        if current not in ("in_doubt", "failed", "pending") or chunk is None:
            raise NothingToResolveError(
                f"training unit {key[:12]} is {current}" + ("" if chunk else " and has no open chunk"),
                "Only units that are in doubt or have failed can be resolved.",
            )
        if status == "done" and chunk.step_before is None:
            raise NothingToResolveError(
                f"chunk {chunk.chunk} of unit {key[:12]} was never about to be submitted",
                "Train the day again, or say --not-trained.",
            )
        after = chunk.step_before + 1 if status == "done" and chunk.step_before is not None else None
        await rl.execute(_CHUNK, key, chunk.chunk, status, job, after)
        await rl.execute(_FREE, key)
    return await look(rl, key)
