"""Training a unit on a GPU of this machine: ART's LocalBackend in its process, its adapters in our layout."""

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

from babylon_rl.policy.adapters import ADAPTER_WEIGHTS, read_config
from babylon_rl.policy.chat import Message
from babylon_rl.policy.checkpoints import ADAPTER_CONFIG, read_manifest, write_checkpoint
from babylon_rl.policy.errors import CheckpointError
from babylon_rl.settings import Settings
from babylon_rl.training.backends import ENVIRONMENT, environment_python
from babylon_rl.training.chunk_ledger import ChunkLedger
from babylon_rl.training.chunks import Chunk
from babylon_rl.training.conversion import to_art_groups
from babylon_rl.training.embedded_trainer import chunk_folder, finished, identity
from babylon_rl.training.gradient import Progress
from babylon_rl.training.local_gpu.driver import Limits, Outcome, Request, run_trainer
from babylon_rl.training.options import BackendName, LocalTrainConfig
from babylon_rl.training.stages import Stage, reached
from babylon_rl.training.trainer import Check, NoAnswerError, TrainedChunk


def open_local_trainer(
    settings: Settings,
    config: LocalTrainConfig,
    base_model: str,
    parent: Path | None,
    step: int,
    output: Path,
    manifest: dict[str, Any],
) -> "LocalTrainer":
    """The trainer of one unit.

    Args:
        parent: Adapter to start from; None for the base model.
        step: ART's step number of the parent.
    """
    limits = Limits(60 * settings.local_gpu_silence_minutes, 60 * settings.training_deadline_minutes)
    names = {"name": settings.model_name, "project": settings.wandb_project, "base_model": base_model}
    work = settings.home / ENVIRONMENT / "work" / output.name
    return LocalTrainer(
        environment_python(settings), config, names, parent, step, output, manifest, work, limits
    )


class LocalTrainer:
    """Trains one unit with ART's LocalBackend; see `training.trainer.Trainer`."""

    backend: BackendName = "local"

    def __init__(
        self,
        python: Path,
        config: LocalTrainConfig,
        names: dict[str, str],
        parent: Path | None,
        step: int,
        output: Path,
        manifest: dict[str, Any],
        work: Path,
        limits: Limits,
    ) -> None:
        self._python, self._config, self._names, self._limits = python, config, names, limits
        self._parent, self._step = parent, step
        self._output, self._manifest, self._work = output, manifest, work
        self._outcome: Outcome | None = None

    async def train(
        self, chunk: Chunk, ledger: ChunkLedger, on_step: Progress | None, check: Check
    ) -> TrainedChunk:
        """Train a chunk, or take its checkpoint where an earlier attempt has written it; see `Trainer.train`.

        Raises:
            GpuTrainerError: It was not trained.
            CheckpointError: ART's checkpoint is not what we load.
            CheckpointStorageError: The result cannot be written.
        """
        path = chunk_folder(self._output, chunk)
        if (found := finished(path, chunk)) is None:
            check()
            await ledger.write(chunk.index, "training", step_before=self._step)
            reached(Stage.CHUNK_STARTED)
            outcome = await self._run(chunk, on_step, check)
            reached(Stage.WEIGHTS_TRAINED)
            assert outcome.checkpoint is not None
            found = self._import(outcome, path, chunk)
            self._outcome = outcome
            reached(Stage.CHECKPOINT_SAVED)
        self._parent, self._step = path, self._step + 1
        metrics = dict(found.get("metrics", {}))
        uri = path.as_uri()
        await ledger.write(chunk.index, "done", step_after=self._step, checkpoint=uri, metrics=metrics)
        return TrainedChunk(self._step, uri, metrics, found["steps"], read_manifest(path)["files"])

    async def complete(self, messages: list[Message]) -> str:
        """What the checkpoint answered before its process ended, which is when its server ends too."""
        if self._outcome is None:
            raise NoAnswerError("the checkpoint was trained by an earlier run, whose server has ended")
        if self._outcome.answer is None:
            raise NoAnswerError(self._outcome.answer_problem or "the trainer asked nothing")
        return self._outcome.answer

    async def close(self) -> None:
        """Remove what the process worked with; its log stays."""
        await asyncio.to_thread(shutil.rmtree, self._work / "art", ignore_errors=True)

    async def _run(self, chunk: Chunk, on_step: Progress | None, check: Check) -> Outcome:
        groups = self._work / "groups.jsonl"
        groups.parent.mkdir(parents=True, exist_ok=True)
        lines = [json.dumps(group.model_dump(mode="json")) for group in to_art_groups(chunk.episodes)]
        groups.write_text("\n".join(lines))
        options = {
            "learning_rate": self._config.learning_rate,
            "kl_penalty_coef": self._config.kl_penalty_coef,
            "scale_rewards": False,
            "loss_fn": "cispo" if self._config.epsilon is None else "ppo",
            "epsilon": self._config.epsilon,
        }
        request = Request(
            **self._names,
            art_path=str(self._work / "art"),
            parent=str(self._parent) if self._parent else None,
            step=self._step,
            groups=str(groups),
            train=options,
            peft={"r": self._config.lora_rank, "lora_alpha": self._config.lora_alpha},
            question=[dict(message) for message in chunk.episodes[0].calls[0].messages],
        )

        def note(done: int, metrics: dict[str, float]) -> None:
            check()
            reached(Stage.GRADIENT_STEP)
            if on_step:
                on_step(done, int(metrics.get("data/step_num_gradient_steps", done)), metrics)

        return await run_trainer(self._python, request, self._work, self._limits, note)

    def _import(self, outcome: Outcome, path: Path, chunk: Chunk) -> dict[str, Any]:
        """Copy ART's adapter into a checkpoint of ours, once it is clear that it is one."""
        source = outcome.checkpoint
        assert source is not None
        read_config(source)
        if not (source / ADAPTER_WEIGHTS).is_file():
            raise CheckpointError(source, f"{ADAPTER_WEIGHTS} is missing")

        def write(folder: Path) -> None:
            for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
                shutil.copyfile(source / name, folder / name)
            reached(Stage.FILES_WRITTEN)

        extra = {"steps": outcome.samples, "metrics": outcome.metrics, "device": outcome.gpu}
        manifest = {**self._manifest, **identity(chunk), **extra, "step": self._step + 1}
        return write_checkpoint(path, write, manifest)
