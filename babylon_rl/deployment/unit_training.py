"""One unit of training from its claim to its version: once, however often it is asked for, on any backend.

    job = UnitJob(batch, episodes, parent, choice, Recipe.under(settings, choice.name), day=day)
    status, model = await train_unit(db, settings, job)

Every step leaves something that a later attempt finds: the unit's row, its chunks' rows, checkpoints on disk
or at the service, the uploaded copy. The version appears last, in the transaction that checks the lease.
"""

import logging
import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import asyncpg

from babylon_rl.database.connection import Databases, connect, resolve_rl_dsn
from babylon_rl.database.loss import loss_explained
from babylon_rl.deployment import model_storage, registry
from babylon_rl.deployment.lineage import ancestors
from babylon_rl.deployment.registry import ModelRecord
from babylon_rl.deployment.trainers import Ground, open_trainer
from babylon_rl.deployment.unit_jobs import UnitJob, left_out, provenance
from babylon_rl.policy.checkpoints import read_manifest
from babylon_rl.settings import Settings
from babylon_rl.tracking import NullRun, Run
from babylon_rl.training import units
from babylon_rl.training.chunk_ledger import ChunkLedger
from babylon_rl.training.chunks import Chunk, cut
from babylon_rl.training.completion import Completion, ask
from babylon_rl.training.costs import cost_of_run, read_prices
from babylon_rl.training.gradient import Progress
from babylon_rl.training.lease import Hold, hold
from babylon_rl.training.progress import ProgressMeter
from babylon_rl.training.stages import Stage, reached
from babylon_rl.training.trainer import TrainedChunk, Trainer, combined

log = logging.getLogger(__name__)

TRAINED, REPEATED = "trained", "trained before"

Track = Callable[[UnitJob, str], Run]
"""Opens the tracked run of a unit; receives the job and the unit's key."""

_TRAINED_WINDOWS = """
INSERT INTO rl.trained_windows (window_id, unit_key, version, branch)
SELECT window_id, $2, $3, $4 FROM unnest($1::text[]) AS window_id ON CONFLICT (window_id, unit_key) DO NOTHING
"""


async def train_unit(
    db: Databases,
    settings: Settings,
    job: UnitJob,
    on_step: Progress | None = None,
    track: Track | None = None,
) -> tuple[str, ModelRecord]:
    """Train the unit and register its checkpoint, or return what was made of it before.

    Args:
        on_step: Receives the optimiser's progress.
        track: Opens the run that metrics and the checkpoint are logged to.

    Returns:
        ``trained`` or ``trained before``, and the model.

    Raises:
        UnitBusyError: Somebody else trains it now.
        UnitInDoubtError: An operator must say whether it was trained.
        LostLeaseError: Another process took it over; nothing was published.
        TrainingError: It could not be trained; the next attempt goes on where this one ended.
        ModelStorageError: The checkpoint is trained, but could not be uploaded.
        LostDatabaseError: The database went away; what was trained is found again.
    """
    remedy = "Run the training again once the database answers: it goes on where this one ended."
    with loss_explained(db.rl, remedy=remedy):
        return await _train_held(db, settings, job, on_step, track)


async def _train_held(
    db: Databases, settings: Settings, job: UnitJob, on_step: Progress | None, track: Track | None
) -> tuple[str, ModelRecord]:
    dsn, owner = resolve_rl_dsn(settings), f"{socket.gethostname()}:{os.getpid()}"
    ttl = timedelta(seconds=settings.training_lease_seconds)
    async with hold(db.rl, job.unit, owner=owner, connect=lambda: connect(dsn), ttl=ttl) as held:
        if held.lease.version is not None:
            return REPEATED, await registry.get(db.rl, held.lease.version)
        reached(Stage.UNIT_CLAIMED)
        run = track(job, held.lease.unit.key) if track else NullRun("")
        reached(Stage.TRACKING_OPENED)
        try:
            model = await _Attempt(db, settings, job, held, run).run(on_step)
        except BaseException:
            run.close(failed=True)
            raise
        run.summary({"version": model.version})
        run.close()
        reached(Stage.TRACKING_CLOSED)
        return TRAINED, model


class _Attempt:
    """One process's attempt at a unit that it holds."""

    def __init__(self, db: Databases, settings: Settings, job: UnitJob, held: Hold, run: Run) -> None:
        self.db, self.settings, self.job, self.held, self.wandb = db, settings, job, held, run
        self.key = held.lease.unit.key
        self.started = (time.monotonic(), time.process_time())

    async def run(self, on_step: Progress | None) -> ModelRecord:
        chunks = cut(self.job.episodes, self.job.recipe.cut)
        ledger = await ChunkLedger.open(self.db.rl, self.held.lease, chunks)
        reached(Stage.CHUNKS_RECORDED)
        lineage = await ancestors(self.db.rl, self.job.parent.model.version)
        manifest = provenance(self.job, self.key, lineage)
        ground = Ground(
            lineage=lineage,
            output=self.settings.home / "checkpoints" / self.key[:16],
            manifest=manifest,
            branch=self.job.branch,
            rejected=[m for m in await registry.list_models(self.db.rl) if m.verdict == "rejected"],
        )
        trainer = open_trainer(self.settings, self.job.recipe, ground)
        try:
            parts, answers = await self._train(trainer, chunks, ledger, on_step)
        finally:
            await trainer.close()
        return await self._publish(chunks, parts, answers, manifest)

    async def _train(
        self, trainer: Trainer, chunks: Sequence[Chunk], ledger: ChunkLedger, on_step: Progress | None
    ) -> tuple[list[TrainedChunk], list[Completion]]:
        parts: list[TrainedChunk] = []
        answers: list[Completion] = []
        steps = 0
        meter = ProgressMeter(self.job.name, on_step)

        def note(done: int, total: int, metrics: dict[str, float]) -> None:
            meter(done, total, metrics)
            assert meter.last is not None
            pace = {"throughput/trainer_tokens_per_s": meter.last.tokens_per_second}
            self.wandb.log({**metrics, **pace}, step=steps + done)

        for chunk in chunks:
            parts.append(await trainer.train(chunk, ledger, note, self.held.check))
            steps += len(parts[-1].samples)
            reached(Stage.CHUNK_RECORDED)
            question = list(chunk.episodes[0].calls[0].messages)
            answers.append(await ask(trainer, question, parts[-1].step))
        return parts, answers

    async def _publish(
        self,
        chunks: Sequence[Chunk],
        parts: Sequence[TrainedChunk],
        answers: Sequence[Completion],
        manifest: dict[str, Any],
    ) -> ModelRecord:
        last = parts[-1]
        address, manifest = last.checkpoint, {**manifest, "files": dict(last.files), "step": last.step}
        if (folder := _folder(address)) is not None:
            manifest = read_manifest(folder)
            address = self._upload(folder)
        metrics = self._metrics(chunks, parts, answers)
        metrics["wandb"] = self._log_checkpoint(last, metrics)

        async def register(rl: asyncpg.Connection) -> str:
            reached(Stage.PUBLISHING)
            record = await registry.register(
                rl,
                parent_version=self.job.parent.model.version,
                storage_path=address,
                unit_key=self.key,
                batch_sha256=self.job.batch.sha256,
                day=self.job.day,
                manifest=manifest,
                metrics=metrics,
                branch=self.job.branch,
            )
            # Whoever repeats this unit takes its own windows, not those that it pays residuals of.
            own = {episode.recorded_window for episode in self.job.episodes if not episode.is_residual}
            await rl.execute(_TRAINED_WINDOWS, sorted(own), self.key, record.version, self.job.branch)
            reached(Stage.REGISTERED)
            return record.version

        version = await units.publish(self.db.rl, self.held.lease, register, metrics)
        reached(Stage.PUBLISHED)
        return await registry.get(self.db.rl, version)

    def _upload(self, folder: Path) -> str:
        root = self.settings.model_storage_url
        reached(Stage.UPLOAD_STARTED)
        address = model_storage.upload(folder, root) if root else folder.as_uri()
        reached(Stage.UPLOADED)
        return address

    def _metrics(
        self, chunks: Sequence[Chunk], parts: Sequence[TrainedChunk], answers: Sequence[Completion]
    ) -> dict[str, Any]:
        metrics = combined(parts) | left_out(self.job)
        wall, cpu = time.monotonic() - self.started[0], time.process_time() - self.started[1]
        cost = cost_of_run(
            read_prices(self.settings.price_table),
            self.job.choice.name,
            chunks=len(chunks),
            tokens=sum(chunk.tokens for chunk in chunks),
            seconds=cpu if self.job.choice.name == "embedded" else wall,
            metrics=metrics,
        )
        losses = [sample["loss/train"] for part in parts for sample in part.samples if "loss/train" in sample]
        return {
            **metrics,
            **cost.metrics(),
            "duration/train_s": wall,
            "losses": losses,
            "chunks": len(chunks),
            "completions": [asdict(answer) for answer in answers],
        }

    def _log_checkpoint(self, last: TrainedChunk, metrics: Mapping[str, Any]) -> dict[str, Any]:
        """Log the checkpoint with its lineage; what identifies run and artifact goes into the registry."""
        batch = self.wandb.log_artifact(
            "training_batch",
            "dataset",
            metadata={"sha256": self.job.batch.sha256, "episodes": self.job.batch.episodes},
            aliases=[self.job.name],
            used=True,
        )
        folder = _folder(last.checkpoint)
        artifact = self.wandb.log_artifact(
            self.settings.model_name,
            "model" if getattr(self.job.recipe.config, "method", "lora") == "full" else "lora",
            path=folder,
            metadata={
                "unit_key": self.key,
                "parent": self.job.parent.model.version,
                "batch_sha256": self.job.batch.sha256,
                "branch": self.job.branch,
                "files": dict(last.files),
                "checkpoint": None if folder else last.checkpoint,
            },
            aliases=[f"step{last.step}", f"unit-{self.key[:16]}"],
            inputs=[batch],
        )
        numbers = {name: value for name, value in metrics.items() if isinstance(value, int | float)}
        self.wandb.summary(numbers)
        found = {
            "wandb_run_id": self.wandb.id or None,
            "wandb_artifact_id": artifact.digest and f"{artifact.name}@{artifact.digest}",
            "degraded": self.wandb.degraded,
        }
        return {**found, **{name: value for name, value in last.extra.items() if value}}


def _folder(address: str) -> Path | None:
    """The directory of a checkpoint on this machine; None for any other address."""
    parts = urlparse(address)
    return Path(unquote(parts.path)) if parts.scheme == "file" else None
