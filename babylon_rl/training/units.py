"""The training ledger: a unit of training happens once, whoever tries, dies or wakes up late.

A unit is hash(batch, parent, configuration). Its row in `rl.training_units` is written before work starts and
carries a lease: an owner, an end by the database's clock, and a fencing epoch that rises with every claim.
Who publishes proves in the publishing transaction that the epoch is still theirs, so a process that was
stopped past its lease and went on later cannot publish over its successor.

    lease = await claim(rl, unit, owner=owner)
    if lease.version is None:                    # else the unit was done before: this is its version
        ...                                      # train; the checkpoint is on disk
        version = await publish(rl, lease, register, metrics)

`training.lease.hold` does this with a heartbeat beside a long training.
"""

import hashlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Any, Literal

import asyncpg
import msgspec

from babylon_rl.training.unit_errors import (
    LostLeaseError,
    UnitBusyError,
    UnitInDoubtError,
    UnknownUnitError,
)

Status = Literal["pending", "running", "done", "failed", "in_doubt"]
Register = Callable[[asyncpg.Connection], Awaitable[str]]

TTL = timedelta(seconds=60)
"""How long a claim or a heartbeat lasts. A killed training blocks its unit for at most this long."""

_INSERT = """
INSERT INTO rl.training_units (unit_key, batch_sha256, day, parent_version, config, backend, backend_reason)
VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (unit_key) DO NOTHING
"""
_CLAIM = """
UPDATE rl.training_units
   SET status = 'running', epoch = epoch + 1, owner = $2, lease_until = clock_timestamp() + $3,
       started_at = clock_timestamp(), completed_at = NULL, error = NULL, backend = $4,
       backend_reason = coalesce($5, backend_reason)
 WHERE unit_key = $1
   AND (status IN ('pending', 'failed') OR (status = 'running' AND lease_until <= clock_timestamp()))
RETURNING epoch, external_job_id
"""
_FREEZE_DAY = """
INSERT INTO rl.trained_days AS frozen (day, batch_sha256, unit_key) VALUES ($1, $2, $3)
ON CONFLICT (day) DO UPDATE SET batch_sha256 = excluded.batch_sha256, unit_key = excluded.unit_key
 WHERE frozen.version IS NULL AND NOT EXISTS (
       SELECT FROM rl.training_units AS unit
        WHERE unit.unit_key = frozen.unit_key AND unit.status IN ('running', 'done', 'in_doubt'))
"""
_EXTEND = """
UPDATE rl.training_units SET lease_until = clock_timestamp() + $3
 WHERE unit_key = $1 AND epoch = $2 AND status = 'running' RETURNING lease_until
"""
_END = """
UPDATE rl.training_units
   SET status = $3, error = $4, lease_until = NULL, completed_at = clock_timestamp()
 WHERE unit_key = $1 AND epoch = $2 AND status = 'running' RETURNING unit_key
"""
_JOB = """
UPDATE rl.training_units SET external_job_id = $3
 WHERE unit_key = $1 AND epoch = $2 AND status = 'running' RETURNING unit_key
"""
_DONE = """
UPDATE rl.training_units
   SET status = 'done', version = $2, metrics = $3, lease_until = NULL,
       completed_at = clock_timestamp()
 WHERE unit_key = $1
"""
_READ = """
SELECT unit_key, batch_sha256, day, parent_version, config, backend, backend_reason, status, epoch,
       lease_until, owner, external_job_id, version, metrics, error, created_at, started_at, completed_at
  FROM rl.training_units WHERE unit_key = $1
"""


def unit_key(batch_sha256: str, parent_version: str, config: Mapping[str, Any]) -> str:
    """Identity of a training: SHA-256 of canonical JSON of batch, parent and configuration, hexadecimal."""
    identity = {"batch": batch_sha256, "parent": parent_version, "config": dict(config)}
    return hashlib.sha256(msgspec.json.encode(identity, order="deterministic")).hexdigest()


@dataclass(frozen=True, slots=True)
class TrainingUnit:
    """What is to be trained.

    Attributes:
        batch_sha256: Hash of the frozen training batch.
        parent_version: Checkpoint to start from.
        config: Everything that changes the result (hyper-parameters, seed, library versions), as JSON.
        backend: `embedded`, `local` or `serverless`.
        day: UTC day of the batch; None for a unit outside the daily chain.
        backend_reason: Why this backend, for people.
    """

    batch_sha256: str
    parent_version: str
    config: Mapping[str, Any]
    backend: str
    day: date | None = None
    backend_reason: str | None = None
    key: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", unit_key(self.batch_sha256, self.parent_version, self.config))


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to train one unit, or the knowledge that it is done.

    Attributes:
        unit: What was claimed.
        epoch: Fencing token.
        owner: Who claimed it.
        ttl: How long a heartbeat lasts.
        version: Set when the unit was done before; then there is nothing to train or publish.
        external_job_id: Job of an earlier attempt, to be followed and not submitted again.
    """

    unit: TrainingUnit
    epoch: int
    owner: str
    ttl: timedelta
    version: str | None = None
    external_job_id: str | None = None


class UnitRecord(msgspec.Struct, frozen=True):
    """A row of `rl.training_units`; times are aware UTC."""

    unit_key: str
    batch_sha256: str
    day: date | None
    parent_version: str | None
    config: dict[str, Any]
    backend: str
    backend_reason: str | None
    status: Status
    epoch: int
    lease_until: datetime | None
    owner: str | None
    external_job_id: str | None
    version: str | None
    metrics: dict[str, Any] | None
    error: str | None
    created_at: datetime
    started_at: datetime | None
    completed_at: datetime | None


async def claim(rl: asyncpg.Connection, unit: TrainingUnit, *, owner: str, ttl: timedelta = TTL) -> Lease:
    """Take the unit for training, or learn that it is done. Writes its row, and freezes its day's batch.

    Args:
        owner: Names this attempt for people: host, process id, run id.
        ttl: Time after which a silent owner may be replaced.

    Raises:
        UnitBusyError: Its lease is running, whoever holds it.
        UnitInDoubtError: It waits for an operator.
    """
    async with rl.transaction():
        await rl.execute(
            _INSERT,
            unit.key,
            unit.batch_sha256,
            unit.day,
            unit.parent_version,
            dict(unit.config),
            unit.backend,
            unit.backend_reason,
        )
        taken = await rl.fetchrow(_CLAIM, unit.key, owner, ttl, unit.backend, unit.backend_reason)
        if taken is not None:
            if unit.day is not None:
                await rl.execute(_FREEZE_DAY, unit.day, unit.batch_sha256, unit.key)
            return Lease(unit, taken["epoch"], owner, ttl, external_job_id=taken["external_job_id"])
        record = await find(rl, unit.key)
    if record.status == "done":
        return Lease(unit, record.epoch, owner, ttl, version=record.version)
    if record.status == "in_doubt":
        raise UnitInDoubtError(unit.key, record.error or "its answer was lost")
    raise UnitBusyError(unit.key, record.owner or "somebody", record.lease_until or record.created_at)


async def heartbeat(rl: asyncpg.Connection, lease: Lease) -> datetime:
    """Extend the lease by its ttl from the database's now; returns its new end.

    Raises:
        LostLeaseError: Somebody else has the unit.
    """
    until = await rl.fetchval(_EXTEND, lease.unit.key, lease.epoch, lease.ttl)
    if until is None:
        raise await lost_lease(rl, lease)
    return until


async def note_job(rl: asyncpg.Connection, lease: Lease, external_job_id: str) -> None:
    """Remember the backend's job before it is polled, so that a successor follows it instead of submitting.

    Raises:
        LostLeaseError: Somebody else has the unit.
    """
    if await rl.fetchval(_JOB, lease.unit.key, lease.epoch, external_job_id) is None:
        raise await lost_lease(rl, lease)


async def publish(
    rl: asyncpg.Connection, lease: Lease, register: Register, metrics: Mapping[str, Any] | None = None
) -> str:
    """Make the trained checkpoint known: unit done, version allocated and the day marked, in one transaction.

    Args:
        register: Called inside the transaction, once the epoch has been checked; inserts the model and
            returns its version. The checkpoint it names must be on disk by now.
        metrics: Of the training; JSON-compatible, NaN and infinity become null.

    Raises:
        LostLeaseError: Somebody else has the unit; nothing was written.
    """
    key = lease.unit.key
    async with rl.transaction():
        # The row lock keeps a successor from claiming until this transaction ends.
        held = await rl.fetchval(
            "SELECT epoch FROM rl.training_units WHERE unit_key = $1 AND status = 'running' FOR UPDATE", key
        )
        if held != lease.epoch:
            raise await lost_lease(rl, lease)
        version = await register(rl)
        await rl.execute(_DONE, key, version, dict(metrics or {}))
        if lease.unit.day is not None:
            await rl.execute(
                "UPDATE rl.trained_days SET version = $3 WHERE day = $1 AND unit_key = $2",
                lease.unit.day,
                key,
                version,
            )
    return version


async def fail(
    rl: asyncpg.Connection, lease: Lease, error: str, *, status: Literal["failed", "in_doubt"] = "failed"
) -> bool:
    """End the attempt without a version; the unit may be claimed again at once, unless it is in doubt.

    Returns:
        Whether the lease was still ours; if not, nothing changes: no error of ours hides another's work.
    """
    return await rl.fetchval(_END, lease.unit.key, lease.epoch, status, error) is not None


async def find(rl: asyncpg.Connection, key: str) -> UnitRecord:
    """The unit's row.

    Raises:
        UnknownUnitError: There is none.
    """
    row = await rl.fetchrow(_READ, key)
    if row is None:
        raise UnknownUnitError(f"there is no training unit {key}", "Look for it in rl.training_units.")
    return UnitRecord(**dict(row))


async def find_trained(rl: asyncpg.Connection, day: date) -> UnitRecord | None:
    """The unit that the live chain trained for a day, None if none is done.

    Its key may differ from what a repetition would compute (another library version, another configuration):
    ask here first, so that repeating a day does not start a branch.
    """
    query = "SELECT unit_key FROM rl.trained_days WHERE day = $1 AND version IS NOT NULL"
    key = await rl.fetchval(query, day)
    return await find(rl, key) if key is not None else None


async def lost_lease(rl: asyncpg.Connection, lease: Lease) -> LostLeaseError:
    """The error of somebody who no longer holds the unit; it says who does."""
    record = await find(rl, lease.unit.key)
    if record.status == "done":
        now = f"{record.version} was published by {record.owner}"
    elif record.epoch != lease.epoch:
        now = f"{record.owner} took it over (epoch {record.epoch})"
    else:
        now = f"its status is {record.status}"
    return LostLeaseError(lease.unit.key, lease.epoch, now)
