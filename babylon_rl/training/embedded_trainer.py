"""Training a unit in this process: a checkpoint directory per chunk, found again by whoever comes later."""

from pathlib import Path
from typing import Any

from babylon_rl.policy.chat import Message
from babylon_rl.policy.checkpoints import read_manifest, verify_checkpoint
from babylon_rl.policy.errors import CheckpointError
from babylon_rl.training.chunk_ledger import ChunkLedger
from babylon_rl.training.chunks import Chunk
from babylon_rl.training.conversion import to_art_groups, tokenizer_for
from babylon_rl.training.embedded import EmbeddedBackend, EmbeddedTrainConfig
from babylon_rl.training.errors import EmptyBatchError
from babylon_rl.training.gradient import Progress
from babylon_rl.training.options import BackendName
from babylon_rl.training.stages import Stage, reached
from babylon_rl.training.trainer import Check, TrainedChunk, complete_through


class EmbeddedTrainer:
    """Trains one unit with the embedded backend; see `training.trainer.Trainer`.

    Args:
        backend: Stands at the parent checkpoint.
        model: ART's model.
        output: Directory of the unit's checkpoint; with several chunks each has one beside it.
        manifest: Provenance that every checkpoint of the unit carries.
    """

    backend: BackendName = "embedded"

    def __init__(
        self,
        backend: EmbeddedBackend,
        model: Any,
        output: Path,
        config: EmbeddedTrainConfig,
        manifest: dict[str, Any],
    ) -> None:
        self._backend, self._model = backend, model
        self._output, self._config, self._manifest = output, config, manifest
        self._trained = False

    async def train(
        self, chunk: Chunk, ledger: ChunkLedger, on_step: Progress | None, check: Check
    ) -> TrainedChunk:
        """Train a chunk, or take its checkpoint where an earlier attempt has written it; see `Trainer.train`.

        A chunk of several that has nothing to teach leaves the checkpoint as it is; if that holds for all of
        them, the last one says so.

        Raises:
            EmptyBatchError: No group carries signal.
            CheckpointError: The parent is unusable.
            CheckpointStorageError: The result cannot be written.
            TrainingDivergedError: The loss is no finite number.
        """
        path = chunk_folder(self._output, chunk)
        if (found := finished(path, chunk)) is not None:
            self._backend.adopt(path)
            return await self._record(chunk, ledger, path, _means(found["steps"]), found["steps"])
        check()
        before = self._backend.step
        await ledger.write(chunk.index, "training", step_before=before)
        reached(Stage.CHUNK_STARTED)

        def note(done: int, total: int, metrics: dict[str, float]) -> None:
            check()
            reached(Stage.GRADIENT_STEP)
            if on_step:
                on_step(done, total, metrics)

        try:
            result = await self._backend.train(
                self._model,
                to_art_groups(chunk.episodes, tokenizer_for(chunk.episodes, self._backend.checkpoint)),
                output=path,
                config=self._config,
                manifest={**self._manifest, **identity(chunk)},
                on_step=note,
            )
        except EmptyBatchError:
            last = chunk.index == chunk.of - 1
            if chunk.of == 1 or (last and not self._trained):
                raise
            return await self._record(chunk, ledger, self._backend.checkpoint, {}, [])
        reached(Stage.CHECKPOINT_SAVED)
        metrics = {name: float(value) for name, value in result.metrics.items()}
        return await self._record(chunk, ledger, path, metrics, read_manifest(path)["steps"])

    async def complete(self, messages: list[Message]) -> str:
        """Ask the newest checkpoint through a server in this process and ART's client for it."""
        await self._model.register(self._backend)
        return await complete_through(self._model.openai_client(), self._model.get_inference_name(), messages)

    async def close(self) -> None:
        """Stop serving."""
        await self._backend.close()

    async def _record(
        self,
        chunk: Chunk,
        ledger: ChunkLedger,
        path: Path,
        metrics: dict[str, float],
        samples: list[dict[str, float]],
    ) -> TrainedChunk:
        self._trained = self._trained or bool(samples)
        step, uri = self._backend.step, path.as_uri()
        await ledger.write(chunk.index, "done", step_after=step, checkpoint=uri, metrics=metrics)
        return TrainedChunk(step, uri, metrics, samples, read_manifest(path)["files"])


def chunk_folder(output: Path, chunk: Chunk) -> Path:
    """Where a chunk's checkpoint lies: the unit's own folder, or one of several beside it."""
    return output if chunk.of == 1 else output.with_name(f"{output.name}-{chunk.index + 1}of{chunk.of}")


def identity(chunk: Chunk) -> dict[str, Any]:
    """What a checkpoint's manifest says of the chunk that it was trained on."""
    return {"chunk": chunk.index, "chunks": chunk.of, "chunk_sha256": chunk.sha256}


def finished(path: Path, chunk: Chunk) -> dict[str, Any] | None:
    """The manifest of a whole checkpoint of this chunk; the folder is named after the unit and its recipe."""
    try:
        manifest = verify_checkpoint(path)
    except CheckpointError:
        return None
    matching = all(manifest.get(name) == value for name, value in identity(chunk).items())
    return manifest if matching and isinstance(manifest.get("steps"), list) else None


def _means(samples: list[dict[str, float]]) -> dict[str, float]:
    """What ART's aggregation gives, as far as the steps alone tell it."""
    names = sorted({name for sample in samples for name in sample})
    return {name: sum(sample[name] for sample in samples) / len(samples) for name in names}
