"""A day's candidate: its parent, its training, its registration. Each happens once, however often it is asked
for.

A day without a usable batch yields no new checkpoint: its result is the parent, with the reason.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import asyncpg

from babylon_rl import windows
from babylon_rl.database.connection import Databases
from babylon_rl.deployment import projection, registry
from babylon_rl.deployment.errors import ProjectionConflictError
from babylon_rl.deployment.lineage import ParentChoice, parent_for_training
from babylon_rl.deployment.registry import ModelRecord
from babylon_rl.deployment.unit_jobs import UnitJob
from babylon_rl.deployment.unit_training import REPEATED, TRAINED, Track, train_unit
from babylon_rl.policy.checkpoints import read_manifest
from babylon_rl.records.store import ArtifactStore
from babylon_rl.settings import Settings
from babylon_rl.training import units
from babylon_rl.training.backends import BackendChoice, choose_backend
from babylon_rl.training.batch import READY, TrainingBatch, load_batch
from babylon_rl.training.batch_records import RESAMPLE
from babylon_rl.training.conversion import is_residual
from babylon_rl.training.embedded import Progress
from babylon_rl.training.errors import BackendNotAvailableError, MissingBatchError
from babylon_rl.training.options import BackendName
from babylon_rl.training.options import embedded_config as train_config
from babylon_rl.training.stages import Stage, reached
from babylon_rl.training.tiny_base import BASE_MODEL_NAME, ensure_base_model
from babylon_rl.training.unit_recipe import LIBRARIES, Recipe, unit_config

__all__ = [
    "LIBRARIES",
    "NO_DATA",
    "REPEATED",
    "TRAINED",
    "DayTraining",
    "ensure_base",
    "project_training",
    "train_config",
    "train_day",
    "unit_config",
]

log = logging.getLogger(__name__)

NO_DATA = "no data"

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
    choice: BackendChoice | None = None
    """Where it was trained and why; None where nothing was."""


async def ensure_base(
    rl: asyncpg.Connection,
    settings: Settings,
    on_step: Callable[[int, float, float], None] | None = None,
    backend: BackendName = "embedded",
) -> ModelRecord:
    """Register the base model as v0.0.0; the embedded backend's is built on first use.

    Raises:
        BaseModelMismatchError: The registry's lineage grows on another base model.
        BackendNotAvailableError: The embedded backend is asked for another model than its own.
    """
    base = settings.base_model_for(backend)
    if backend != "embedded":
        return await registry.ensure_base(rl, base_model=base, manifest={"base_model": base, "files": {}})
    if base != BASE_MODEL_NAME:
        raise BackendNotAvailableError(
            "embedded",
            f"BASE_MODEL is {base}, and it trains {BASE_MODEL_NAME} only",
            "Unset BASE_MODEL, or train that model on a GPU (TRAINING_BACKEND=local) or at W&B (serverless).",
        )
    path = ensure_base_model(settings.home, on_step=on_step)
    return await registry.ensure_base(
        rl, base_model=base, storage_path=path.as_uri(), manifest=read_manifest(path)
    )


async def train_day(
    db: Databases,
    store: ArtifactStore,
    settings: Settings,
    day: str,
    on_step: Progress | None = None,
    track: Track | None = None,
) -> DayTraining:
    """Train a day's frozen batch on its parent and register the checkpoint.

    Args:
        on_step: receives the optimiser's progress.
        track: opens the run that metrics and the checkpoint are logged to.

    Raises:
        MissingBatchError: the day's ``training_batch`` was never built.
        BackendNotAvailableError: the settings ask for a backend that cannot run here.
        UnsupportedOptionError: they ask for what the backend cannot do.
        UnitBusyError: the same unit is being trained elsewhere.
        UnitInDoubtError: an operator must say whether it was trained.
        LostLeaseError: another process took the unit over; nothing was published.
    """
    date = windows.parse_day(day)
    before = await units.find_trained(db.rl, date)
    choice = None if before else choose_backend(settings)
    if choice is not None:
        reached(Stage.BACKEND_CHOSEN)
        await ensure_base(db.rl, settings, backend=choice.name)
    parent = await parent_for_training(db.rl, date)
    uri = await db.rl.fetchval(_BATCH_OF_DAY, date)
    if uri is None:
        raise MissingBatchError(day)
    batch, episodes = load_batch(store, uri)
    reached(Stage.BATCH_LOADED)
    if before is not None and before.version is not None:
        status, model = REPEATED, await registry.get(db.rl, before.version)
    elif batch.status != READY or choice is None:
        return DayTraining(day, NO_DATA, parent.model, parent, batch.reason, batch, {})
    else:
        recipe = Recipe.under(settings, choice.name)
        job = UnitJob(batch, episodes, parent, choice, recipe, day=date)
        status, model = await train_unit(db, settings, job, on_step, track)
    if settings.project_to_game:
        await project_training(db, model, batch, store)
    return DayTraining(
        day, status, model, parent, parent.reason, batch, model.metrics, model.unit_key, choice
    )


async def project_training(
    db: Databases, model: ModelRecord, batch: TrainingBatch, store: ArtifactStore
) -> None:
    """Show the game what was trained; it never decides anything, so a failure is only logged.

    Answers that were asked for anew earned their agent nothing: of them the game gets no rewards.
    """
    rewards = {
        trajectory: episode["reward"]
        for episode in store.get(batch.uri)[1:]
        if not is_residual(episode["window_id"])  # the game was told when it was trained first
        for trajectory in episode["trajectory_ids"]
    }
    unit = await units.find(db.rl, str(model.unit_key))
    row = projection.GameBatch(
        batch_sha256=batch.sha256,
        base_model=model.base_model,
        model_version=model.version,
        trajectory_ids=list(rewards),
        rewards=[] if batch.grouping == RESAMPLE else list(rewards.values()),
        status="completed",
        scenario_id=batch.day,
        training_loss=model.metrics.get("loss/train"),
        started_at=unit.started_at,
        completed_at=unit.completed_at,
    )
    try:
        async with db.game.transaction():
            await projection.project_batch(db.game, row)
            reached(Stage.BATCH_PROJECTED)
            await projection.project_model(db.game, model)
            await projection.mark_trained(db.game, list(rewards), batch.sha256)
        reached(Stage.PROJECTED)
    except (asyncpg.PostgresError, ProjectionConflictError, OSError) as problem:
        log.warning("%s is not shown in the game's tables yet: %s", model.version, problem)
