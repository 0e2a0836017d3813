"""The registry of models: `rl.models`, one row per checkpoint, with its lineage and the gate's verdict.

Statuses go training -> ready -> deployed -> archived (and back to deployed), or to failed. A verdict is
promoted, inconclusive or rejected, null until the gate has judged. Version v0.0.0 is the base model.
"""

from collections.abc import Mapping
from datetime import date, datetime
from typing import Any, Literal

import asyncpg
import msgspec

from babylon_rl.deployment.errors import (
    BaseModelMismatchError,
    UnknownVersionError,
    VersionTakenError,
    WrongStatusError,
)
from babylon_rl.deployment.versions import BASE, Version, nearest, parse_version

Status = Literal["training", "ready", "deployed", "archived", "failed"]
VerdictName = Literal["promoted", "inconclusive", "rejected"]

USABLE: tuple[Status, ...] = ("ready", "deployed", "archived")
"""Statuses of a checkpoint that is whole on disk."""

_NEXT: dict[Status, tuple[Status, ...]] = {
    "training": ("ready", "failed"),
    "ready": ("failed",),
    "deployed": (),
    "archived": ("failed",),
    "failed": (),
}
"""What `set_status` may do; deployed and archived are `deploy`'s business."""

_COLUMNS = """version, model_id, parent_version, base_model, unit_key, batch_sha256, day, storage_path,
       status, verdict, manifest, metrics, created_at, deployed_at, archived_at, branch"""
_LOCK = "SELECT pg_advisory_xact_lock(hashtext('babylon_rl'), hashtext('rl.models'))"
_VERSIONS = "SELECT version FROM rl.models"
_INSERT = f"""
INSERT INTO rl.models (version, model_id, parent_version, base_model, unit_key, batch_sha256, day,
                       storage_path, status, manifest, metrics, branch)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
RETURNING {_COLUMNS}
"""


class ModelRecord(msgspec.Struct, frozen=True):
    """A row of `rl.models`; times are aware UTC.

    `storage_path` is a URI (`file://`, `s3://`, `wandb-artifact:///`); `metrics` holds the training's figures
    and, under `benchmark`, those of the gate; `branch` names a side branch, None means the live chain.
    """

    version: str
    model_id: str
    parent_version: str | None
    base_model: str
    unit_key: str | None
    batch_sha256: str | None
    day: date | None
    storage_path: str | None
    status: Status
    verdict: VerdictName | None
    manifest: dict[str, Any]
    metrics: dict[str, Any]
    created_at: datetime
    deployed_at: datetime | None
    archived_at: datetime | None
    branch: str | None = None

    @property
    def number(self) -> Version:
        return parse_version(self.version)

    @property
    def is_base(self) -> bool:
        return self.number == BASE


async def ensure_base(
    rl: asyncpg.Connection,
    *,
    base_model: str,
    storage_path: str | None = None,
    manifest: Mapping[str, Any] | None = None,
) -> ModelRecord:
    """Register the base model as v0.0.0, or return it; a moved storage path is updated.

    Raises:
        BaseModelMismatchError: v0.0.0 is another model; checkpoints of different bases do not mix.
    """
    async with rl.transaction():
        await rl.execute(_LOCK)
        row = await rl.fetchrow(f"SELECT {_COLUMNS} FROM rl.models WHERE version = $1", str(BASE))
        if row is None:
            values = (str(BASE), BASE.model_id, None, base_model, None, None, None, storage_path, "ready")
            return _record(await rl.fetchrow(_INSERT, *values, dict(manifest or {}), {}, None))
        base = _record(row)
        if base.base_model != base_model:
            raise BaseModelMismatchError(
                f"the registry's lineage grows on {base.base_model}, not on {base_model}",
                "Set BASE_MODEL back, or use another database for the new base model.",
            )
        if storage_path is None or storage_path == base.storage_path:
            return base
        update = f"UPDATE rl.models SET storage_path = $2 WHERE version = $1 RETURNING {_COLUMNS}"
        return _record(await rl.fetchrow(update, str(BASE), storage_path))


async def register(
    rl: asyncpg.Connection,
    *,
    parent_version: str,
    storage_path: str | None,
    unit_key: str | None = None,
    batch_sha256: str | None = None,
    day: date | None = None,
    manifest: Mapping[str, Any] | None = None,
    metrics: Mapping[str, Any] | None = None,
    status: Status = "ready",
    branch: str | None = None,
    version: str | None = None,
) -> ModelRecord:
    """Give a checkpoint the next version (newest patch + 1, numerically) and record it.

    Allocation happens under a lock that lasts until the surrounding transaction ends: versions have no gaps
    and no two callers get the same one. A unit that already has a model returns that model.

    Args:
        version: A version that somebody chose, for a checkpoint that comes from elsewhere.

    Raises:
        UnknownVersionError: The parent is not registered.
        VersionTakenError: The chosen version is registered.
    """
    async with rl.transaction():
        await rl.execute(_LOCK)
        if unit_key is not None:
            known = f"SELECT {_COLUMNS} FROM rl.models WHERE unit_key = $1 AND status <> 'failed'"
            row = await rl.fetchrow(known, unit_key)
            if row is not None:
                return _record(row)
        parent = await get(rl, parent_version)
        versions = [parse_version(row["version"]) for row in await rl.fetch(_VERSIONS)]
        number = max(versions).next_patch() if version is None else parse_version(version)
        if number in versions:
            raise VersionTakenError(
                f"{number} is registered already", f"The next free version is {max(versions).next_patch()}."
            )
        identity = (str(number), number.model_id, parent.version, parent.base_model)
        origin = (unit_key, batch_sha256, day, storage_path, status)
        return _record(
            await rl.fetchrow(_INSERT, *identity, *origin, dict(manifest or {}), dict(metrics or {}), branch)
        )


async def get(rl: asyncpg.Connection, version: str) -> ModelRecord:
    """The model of this version; also found by its model id.

    Raises:
        InvalidVersionError: The text is no version.
        UnknownVersionError: It is not registered.
    """
    wanted = str(parse_version(version))
    row = await rl.fetchrow(f"SELECT {_COLUMNS} FROM rl.models WHERE version = $1", wanted)
    if row is not None:
        return _record(row)
    near = nearest(wanted, [known["version"] for known in await rl.fetch(_VERSIONS)])
    remedy = f"Registered are, among others: {', '.join(near)}." if near else "No model is registered yet."
    raise UnknownVersionError(f"there is no model {wanted}", remedy)


async def list_models(rl: asyncpg.Connection) -> list[ModelRecord]:
    """All models, newest version first."""
    rows = await rl.fetch(f"SELECT {_COLUMNS} FROM rl.models")
    return sorted(map(_record, rows), key=lambda model: model.number, reverse=True)


async def active(rl: asyncpg.Connection) -> ModelRecord | None:
    """The model that serves, None before the first deployment."""
    version = await rl.fetchval(
        "SELECT version FROM rl.deployments WHERE role = 'active' AND ended_at IS NULL"
    )
    return await get(rl, version) if version is not None else None


async def set_status(
    rl: asyncpg.Connection, version: str, status: Status, *, storage_path: str | None = None
) -> ModelRecord:
    """Move a model that was registered while training to ready (with its storage path) or failed.

    Raises:
        WrongStatusError: That step does not exist.
    """
    async with rl.transaction():
        await rl.execute(_LOCK)
        model = await get(rl, version)
        if status not in _NEXT[model.status]:
            allowed = ", ".join(_NEXT[model.status]) or "nothing"
            raise WrongStatusError(
                f"{model.version} is {model.status} and cannot become {status}",
                f"From {model.status} it may become {allowed}; `babylon deploy` deploys and archives.",
            )
        update = f"""UPDATE rl.models SET status = $2, storage_path = coalesce($3, storage_path)
                      WHERE version = $1 RETURNING {_COLUMNS}"""
        return _record(await rl.fetchrow(update, model.version, status, storage_path))


def _record(row: asyncpg.Record | None) -> ModelRecord:
    assert row is not None
    values = dict(row)
    return ModelRecord(**{**values, "manifest": values["manifest"] or {}, "metrics": values["metrics"] or {}})
