"""The contract of a backend as the rest of the pipeline sees it: train one chunk, answer one question."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from babylon_rl.policy.chat import Message
from babylon_rl.training.chunk_ledger import ChunkLedger
from babylon_rl.training.chunks import Chunk
from babylon_rl.training.errors import TrainingError
from babylon_rl.training.gradient import Progress
from babylon_rl.training.options import BackendName

ANSWER_TOKENS = 12
Check = Callable[[], None]
"""Raises when the work has become useless, because the unit is in other hands."""


@dataclass(frozen=True)
class TrainedChunk:
    """What a chunk's training left behind.

    Attributes:
        step: ART's step number of the new checkpoint.
        checkpoint: Its address.
        metrics: Means and sums over the chunk, by ART's names.
        samples: Metrics of each gradient step.
        files: SHA-256 of each file, or of what identifies the checkpoint where its files are elsewhere.
        extra: What the model's record should say besides, such as W&B's run.
    """

    step: int
    checkpoint: str
    metrics: dict[str, float]
    samples: Sequence[Mapping[str, float]] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)


class Trainer(Protocol):
    """One unit's training on one backend; created, used and closed inside one event loop."""

    @property
    def backend(self) -> BackendName:
        """Its name."""
        ...

    async def train(
        self, chunk: Chunk, ledger: ChunkLedger, on_step: Progress | None, check: Check
    ) -> TrainedChunk:
        """Train a chunk, or go on with what an earlier attempt left of it. Chunks come in order.

        Its row is `done` when this returns, and was written before the work started.

        Raises:
            TrainingError: It was not trained; the row says how far it got.
            LostLeaseError: Somebody else has the unit.
        """
        ...

    async def complete(self, messages: list[Message]) -> str:
        """One greedy completion of the newest checkpoint through ART's own client.

        Raises:
            Exception: Whatever an inference service can do wrong.
        """
        ...

    async def close(self) -> None:
        """Release what it holds."""
        ...


class NoAnswerError(TrainingError):
    """A checkpoint gave no text."""


async def complete_through(client: Any, name: str, messages: list[Message]) -> str:
    """Ask an OpenAI client once, greedily.

    Raises:
        NoAnswerError: The answer has no text.
    """
    response = await client.chat.completions.create(
        model=name, messages=messages, max_tokens=ANSWER_TOKENS, temperature=0.0
    )
    text = response.choices[0].message.content
    if text is None:
        raise NoAnswerError("the answer has no text")
    return text


def combined(parts: Sequence[TrainedChunk]) -> dict[str, float]:
    """Metrics of a whole unit: counts and times add up, the rest is the mean over gradient steps."""
    if len(parts) == 1:
        return dict(parts[0].metrics)
    names = {name for part in parts for name in part.metrics}
    return {name: _combine(name, [part for part in parts if name in part.metrics]) for name in sorted(names)}


def _combine(name: str, parts: Sequence[TrainedChunk]) -> float:
    values = [part.metrics[name] for part in parts]
    if name.startswith(("data/step_", "dropped/", "time/", "costs/")):
        return sum(values)
    weights = [max(1, len(part.samples)) for part in parts]
    return sum(value * weight for value, weight in zip(values, weights, strict=True)) / sum(weights)
