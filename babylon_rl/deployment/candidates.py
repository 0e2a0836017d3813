"""A day's candidate: its parent, its training, its registration. Each happens once, however often it is asked
for.

A day without a usable batch yields no new checkpoint: its result is the parent, with the reason.
"""

import logging
import os
import platform
import socket
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version as library_version
from typing import Any

import asyncpg

from babylon_rl import __version__, windows
from babylon_rl.database.connection import Databases, connect, resolve_rl_dsn
from babylon_rl.deployment import projection, registry
from babylon_rl.deployment.errors import ProjectionConflictError
from babylon_rl.deployment.lineage import ParentChoice, ancestors, parent_for_training
from babylon_rl.deployment.registry import ModelRecord
from babylon_rl.deployment.storage import local_path
from babylon_rl.policy.checkpoints import read_manifest
from babylon_rl.records.store import ArtifactStore
from babylon_rl.settings import Settings
from babylon_rl.training import units
from babylon_rl.training.batch import READY, TrainingBatch, load_batch
from babylon_rl.training.conversion import TrainableEpisode, to_art_groups
from babylon_rl.training.embedded import EmbeddedBackend, EmbeddedTrainConfig, Progress
from babylon_rl.training.errors import BackendNotAvailableError, MissingBatchError
from babylon_rl.training.lease import hold
from babylon_rl.training.tiny_base import BASE_MODEL_NAME, ensure_base_model

log = logging.getLogger(__name__)

LIBRARIES = ("torch", "transformers", "openpipe-art", "tokenizers", "numpy")
"""Libraries whose versions can change a checkpoint's bytes."""

TRAINED, REPEATED, NO_DATA = "trained", "trained before", "no data"

_BATCH_OF_DAY = """
SELECT batch.uri FROM rl.training_batches AS batch
  LEFT JOIN rl.trained_days AS trained
         ON trained.day = batch.day AND trained.batch_sha256 = batch.batch_sha256 AND trained.version IS NOT
         NULL
 WHERE batch.day = $1 ORDER BY (trained.day IS NULL), batch.created_at DESC LIMIT 1
"""


@dataclass(frozen=True)
class DayTraining:
    """What became of a day."""

    day: str
    status: str
    """``trained``, ``trained before`` or ``no data``."""
    model: ModelRecord
    """The day's checkpoint; without data its parent."""
    parent: ParentChoice
    reason: str
    batch: TrainingBatch
    metrics: dict[str, Any]
    unit_key: str | None = None


async def ensure_base(
    rl: asyncpg.Connection, settings: Settings, on_step: Callable[[int, float, float], None] | None = None
) -> ModelRecord:
    """Build the base model if need be and register it as v0.0.0."""
    path = ensure_base_model(settings.home, on_step=on_step)
    return await registry.ensure_base(
        rl,
        base_model=settings.base_model_for("embedded"),
        storage_path=path.as_uri(),
        manifest=read_manifest(path),
    )


async def train_day(
    db: Databases, store: ArtifactStore, settings: Settings, day: str, on_step: Progress | None = None
) -> DayTraining:
    """Train a day's frozen batch on its parent and register the checkpoint.

    Args:
        on_step: receives the optimiser's progress.

    Raises:
        MissingBatchError: the day's ``training_batch`` was never built.
        BackendNotAvailableError: the settings ask for a backend that cannot run here.
        UnitBusyError: the same unit is being trained elsewhere.
        LostLeaseError: another process took the unit over; nothing was published.
    """
    _require_embedded(settings)
    await ensure_base(db.rl, settings)
    date = windows.parse_day(day)
    parent = await parent_for_training(db.rl, date)
    uri = await db.rl.fetchval(_BATCH_OF_DAY, date)
    if uri is None:
        raise MissingBatchError(day)
    batch, episodes = load_batch(store, uri)
    if (before := await units.find_trained(db.rl, date)) is not None and before.version is not None:
        status, model = REPEATED, await registry.get(db.rl, before.version)
    elif batch.status != READY:
        return DayTraining(day, NO_DATA, parent.model, parent, batch.reason, batch, {})
    else:
        status, model = await _train_unit(db, settings, batch, episodes, parent, on_step)
    if settings.project_to_game:
        await _project(db, model, batch, store)
    return DayTraining(day, status, model, parent, parent.reason, batch, model.metrics, model.unit_key)


async def _train_unit(
    db: Databases,
    settings: Settings,
    batch: TrainingBatch,
    episodes: list[TrainableEpisode],
    parent: ParentChoice,
    on_step: Progress | None,
) -> tuple[str, ModelRecord]:
    """Claim the unit and train it, or return what somebody else made of it meanwhile."""
    config = train_config(settings)
    unit = units.TrainingUnit(
        batch_sha256=batch.sha256,
        parent_version=parent.model.version,
        config=unit_config(config),
        backend="embedded",
        day=windows.parse_day(batch.day),
    )
    dsn = resolve_rl_dsn(settings)
    owner = f"{socket.gethostname()}:{os.getpid()}"
    # A killed predecessor's lease runs out meanwhile.
    async with hold(db.rl, unit, owner=owner, connect=lambda: connect(dsn), patience=units.TTL) as held:
        if held.lease.version is not None:
            return REPEATED, await registry.get(db.rl, held.lease.version)
        return TRAINED, await _train(db, settings, held.lease, batch, episodes, parent, config, on_step)


def train_config(settings: Settings) -> EmbeddedTrainConfig:
    """The embedded backend's configuration under these settings."""
    config = EmbeddedTrainConfig()
    return config if settings.learning_rate is None else replace(config, learning_rate=settings.learning_rate)


def unit_config(config: EmbeddedTrainConfig) -> dict[str, Any]:
    """Everything besides batch and parent that the checkpoint's bytes depend on."""
    versions = {name: library_version(name).partition("+")[0] for name in LIBRARIES}
    return {**asdict(config), "code": __version__, "python": platform.python_version(), **versions}


async def _train(
    db: Databases,
    settings: Settings,
    lease: units.Lease,
    batch: TrainingBatch,
    episodes: list[TrainableEpisode],
    parent: ParentChoice,
    config: EmbeddedTrainConfig,
    on_step: Progress | None,
) -> ModelRecord:
    """Train, write the checkpoint, and publish it under the lease."""
    from babylon_rl.training.art_import import import_art

    art = import_art()
    lineage = await ancestors(db.rl, parent.model.version)
    manifest = {
        "base_model": parent.model.base_model,
        "parent": parent.model.version,
        "parent_reason": parent.reason,
        "parent_files": read_manifest(local_path(parent.model))["files"],
        "day": batch.day,
        "batch_sha256": batch.sha256,
        "unit_key": lease.unit.key,
        "config": dict(lease.unit.config),
        "data_policies": batch.policy_versions,
        "data_lag": _lag(batch, [model.version for model in lineage]),
    }
    output = settings.home / "checkpoints" / lease.unit.key[:16]
    backend = EmbeddedBackend(settings.home / "art", local_path(parent.model), step=len(lineage) - 1)
    network = art.TrainableModel(
        name="babylon-agent", project=settings.wandb_project, base_model=BASE_MODEL_NAME, report_metrics=[]
    )
    losses: list[float] = []

    def note(done: int, total: int, metrics: dict[str, float]) -> None:
        losses.append(metrics["loss/train"])
        if on_step:
            on_step(done, total, metrics)

    try:
        await backend.register(network)
        result = await backend.train(
            network, to_art_groups(episodes), output=output, config=config, manifest=manifest, on_step=note
        )
    finally:
        await backend.close()
    metrics = {**{name: float(value) for name, value in result.metrics.items()}, "losses": losses}

    async def register(rl: asyncpg.Connection) -> str:
        record = await registry.register(
            rl,
            parent_version=parent.model.version,
            storage_path=output.as_uri(),
            unit_key=lease.unit.key,
            batch_sha256=batch.sha256,
            day=lease.unit.day,
            manifest=read_manifest(output),
            metrics=metrics,
        )
        return record.version

    return await registry.get(db.rl, await units.publish(db.rl, lease, register, metrics))


def _lag(batch: TrainingBatch, lineage: list[str]) -> int | None:
    """Training steps between the oldest policy that played the batch and the parent; None if unrelated."""
    distances = [lineage.index(version) if version in lineage else None for version in batch.policy_versions]
    known = [distance for distance in distances if distance is not None]
    return max(known) if known and len(known) == len(distances) else None


async def _project(db: Databases, model: ModelRecord, batch: TrainingBatch, store: ArtifactStore) -> None:
    """Show the game what was trained; it never decides anything, so a failure is only logged."""
    rewards = {
        trajectory: episode["reward"]
        for episode in store.get(batch.uri)[1:]
        for trajectory in episode["trajectory_ids"]
    }
    unit = await units.find(db.rl, str(model.unit_key))
    row = projection.GameBatch(
        batch_sha256=batch.sha256,
        base_model=model.base_model,
        model_version=model.version,
        trajectory_ids=list(rewards),
        rewards=list(rewards.values()),
        status="completed",
        scenario_id=batch.day,
        training_loss=model.metrics.get("loss/train"),
        started_at=unit.started_at,
        completed_at=unit.completed_at,
    )
    try:
        async with db.game.transaction():
            await projection.project_batch(db.game, row)
            await projection.project_model(db.game, model)
            await projection.mark_trained(db.game, list(rewards), batch.sha256)
    except (asyncpg.PostgresError, ProjectionConflictError, OSError) as problem:
        log.warning("%s is not shown in the game's tables yet: %s", model.version, problem)


def _require_embedded(settings: Settings) -> None:
    if settings.training_backend not in ("auto", "embedded"):
        raise BackendNotAvailableError(settings.training_backend)
    if settings.train_rl_local is False:
        raise BackendNotAvailableError("embedded", "TRAIN_RL_LOCAL=false forbids training on this machine")
