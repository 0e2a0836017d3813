"""The embedded backend: an ART backend around a small model in this process, on the CPU or one GPU."""

import asyncio
import shutil
import time
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from babylon_rl.policy.checkpoints import load_checkpoint, write_checkpoint
from babylon_rl.policy.engine import EmbeddedEngine
from babylon_rl.policy.server import PolicyServer
from babylon_rl.training.art_import import import_art
from babylon_rl.training.errors import UnknownTrainingArgumentError
from babylon_rl.training.gradient import Progress, _pack, optimise
from babylon_rl.training.networks import Network, open_network
from babylon_rl.training.optimizer_state import OptimizerState
from babylon_rl.training.recipe import EmbeddedTrainConfig
from babylon_rl.training.stages import Stage, reached
from babylon_rl.training.supervised import fine_tune

if TYPE_CHECKING:
    import art

__all__ = ["EmbeddedBackend", "EmbeddedTrainConfig", "Progress", "_pack", "optimise"]


class EmbeddedBackend:
    """An ``art.backend.Backend`` that trains tiny models, whole or by LoRA, in this process.

    Args:
        root: folder for ART's own files.
        checkpoint: directory of the checkpoint that training starts from.
        step: ART's step number of that checkpoint: its depth in the lineage.
        reference: directory of the checkpoint that the KL penalty measures from; the one that a training
            starts from by default.
    """

    def __init__(self, root: Path, checkpoint: Path, step: int, reference: Path | None = None) -> None:
        self.root, self.checkpoint, self.step, self.reference = root, checkpoint, step, reference
        self._server: PolicyServer | None = None

    async def register(self, model: "art.TrainableModel") -> None:
        """Adopt a model; nothing is written before it is trained."""
        model.base_path = str(self.root)

    async def _prepare_backend_for_training(
        self, model: "art.TrainableModel", config: Any = None
    ) -> tuple[str, str]:
        """Serve the current checkpoint, so that ``model.openai_client()`` works; returns address and key."""
        self._server = self._server or PolicyServer(self._engine())
        return self._server.base_url, self._server.api_key

    def _model_inference_name(self, model: "art.Model", step: int | None = None) -> str:
        return f"{model.name}@{self.step if step is None else step}"

    async def _get_step(self, model: "art.TrainableModel") -> int:
        return self.step

    async def _delete_checkpoint_files(self, model: "art.TrainableModel", steps_to_keep: list[int]) -> None:
        """Delete checkpoints in ART's own layout; those of the registry are archived there, never here."""
        kept = {f"{step:04d}" for step in [*steps_to_keep, self.step]}
        for folder in self._art_checkpoints(model).glob("[0-9][0-9][0-9][0-9]"):
            if folder.name not in kept:
                await asyncio.to_thread(shutil.rmtree, folder)

    def supports_automatic_train_step_metrics(self) -> bool:
        """ART adds the wall time of each step to what it logs."""
        return True

    async def train(
        self,
        model: "art.TrainableModel",
        trajectory_groups: "Iterable[art.TrajectoryGroup]",
        *,
        output: Path | None = None,
        config: EmbeddedTrainConfig | None = None,
        manifest: dict[str, Any] | None = None,
        on_step: Progress | None = None,
        **arguments: Any,
    ) -> "art.types.LocalTrainResult":
        """Train the current checkpoint on the groups, write the result to ``output`` and make it the current
        one.

        Args:
            output: directory of the result; by default where ART's LocalBackend would put it.
            manifest: provenance to be stored with the checkpoint.
            arguments: fields of ``EmbeddedTrainConfig`` that replace those of ``config``.

        Raises:
            EmptyBatchError: no group carries signal, so there is nothing to learn.
            UnknownTrainingArgumentError: ``arguments`` names no field.
            CheckpointError: the current checkpoint is unusable.
            CheckpointStorageError: the result cannot be written.
            TrainingDivergedError: the loss is no finite number.
        """
        import_art()
        from art._backend_training import aggregate_rl_training_metrics
        from art.types import LocalTrainResult

        config = _with_arguments(config or EmbeddedTrainConfig(), arguments)
        output = output or self._art_checkpoints(model) / f"{self.step + 1:04d}"
        groups, started = list(trajectory_groups), time.monotonic()
        network = open_network(self.checkpoint, config)
        reached(Stage.MODEL_LOADED)
        samples = self._optimise(network, groups, config, on_step, output, manifest or {})
        metrics = aggregate_rl_training_metrics(
            training_metrics=samples, trajectory_groups=groups, trainer_started=started
        )
        return LocalTrainResult(step=self.step, metrics=metrics, checkpoint_path=str(output))

    def _optimise(
        self,
        network: Network,
        groups: "list[art.TrajectoryGroup]",
        config: EmbeddedTrainConfig,
        on_step: Progress | None,
        output: Path,
        manifest: dict[str, Any],
    ) -> list[dict[str, float]]:
        keeps_state = config.optimizer_state == "continue"
        state = OptimizerState.load(self.checkpoint) if keeps_state else None
        reference = load_checkpoint(self.reference)[0] if self.reference and config.kl_penalty else None
        samples = optimise(
            network.model, network.tokenizer, groups, config, on_step, reference=reference, state=state
        )
        reached(Stage.WEIGHTS_TRAINED)

        def write(folder: Path) -> None:
            network.write(folder)
            if state is not None:
                state.save(folder)
            reached(Stage.FILES_WRITTEN)

        provenance = {"device": network.model.device.type, "train_config": asdict(config), "steps": samples}
        self._save(output, network, write, {**manifest, **provenance})
        return samples

    def _save(
        self, output: Path, network: Network, write: Callable[[Path], None], manifest: dict[str, Any]
    ) -> None:
        """Write the trained network and make it the current checkpoint."""
        write_checkpoint(output, write, {**manifest, **network.provenance, "step": self.step + 1})
        self.adopt(output)

    def adopt(self, checkpoint: Path) -> None:
        """Make a finished checkpoint the current one, one step further, also for those who are served."""
        self.checkpoint, self.step = checkpoint, self.step + 1
        if self._server:
            self._server.swap(self._engine())

    async def _train_sft(
        self,
        model: "art.TrainableModel",
        trajectories: "Iterable[art.Trajectory]",
        config: "art.types.TrainSFTConfig",
        dev_config: Any,
        verbose: bool = False,
    ) -> AsyncIterator[dict[str, float]]:
        """Supervised fine-tuning on the assistant's turns, for ``model.train_sft``; then one step further."""
        recipe = EmbeddedTrainConfig()
        network = open_network(self.checkpoint, recipe)
        for metrics in fine_tune(network, list(trajectories), config, recipe):
            yield metrics
        output = self._art_checkpoints(model) / f"{self.step + 1:04d}"
        self._save(output, network, network.write, {"supervised": config.model_dump()})

    async def close(self) -> None:
        """Stop serving."""
        if self._server:
            await asyncio.to_thread(self._server.close)
            self._server = None

    def _engine(self) -> EmbeddedEngine:
        return EmbeddedEngine.load(self.checkpoint, f"step{self.step}")

    def _art_checkpoints(self, model: "art.Model") -> Path:
        return self.root / model.project / "models" / model.name / "checkpoints"


def _with_arguments(config: EmbeddedTrainConfig, arguments: dict[str, Any]) -> EmbeddedTrainConfig:
    known = {field.name for field in fields(EmbeddedTrainConfig)}
    for name in arguments:
        if name not in known:
            raise UnknownTrainingArgumentError(name, known)
    return replace(config, **arguments)
