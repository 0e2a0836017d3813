"""What a job's events and a checkpoint's metrics say."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from babylon_rl.training.chunks import Chunk
from babylon_rl.training.serverless.service import Event


@dataclass(frozen=True)
class JobReport:
    """A job as far as its events go.

    Attributes:
        sequences: Gradient steps that the job announced; 0 before it started.
        samples: Metrics of each gradient step, by ART's names.
        failure: Its own message, if it failed.
        metrics: Of the checkpoint, where the events are unknown.
    """

    sequences: int = 0
    samples: Sequence[Mapping[str, float]] = ()
    ended: bool = False
    failure: str | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)

    def mean(self) -> dict[str, float]:
        """Mean of each metric over the gradient steps that have it."""
        names = {name for sample in self.samples for name in sample}
        values = {name: [s[name] for s in self.samples if name in s] for name in sorted(names)}
        means = {name: sum(found) / len(found) for name, found in values.items()}
        return {**_renamed(self.metrics), **means}


def read_report(events: Iterable[Event]) -> JobReport:
    """Read a job's events; unknown kinds and values that are no numbers are passed over."""
    sequences, samples, ended, failure = 0, [], False, None
    for event in events:
        if event.type == "training_started":
            announced = event.data.get("num_sequences")
            sequences = int(announced) if isinstance(announced, int | float) else 1
        elif event.type == "gradient_step":
            samples.append(_renamed(event.data))
        elif event.type == "training_ended":
            ended = True
        elif event.type == "training_failed":
            failure = str(event.data.get("error_message") or "no reason given")
    return JobReport(sequences, samples, ended, failure)


def _renamed(values: Mapping[str, object]) -> dict[str, float]:
    """Metrics by ART's names; the service's names differ."""
    from art.serverless.backend import _canonicalize_upstream_metrics

    numbers = {
        name: float(value)
        for name, value in values.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and value == value
    }
    return _canonicalize_upstream_metrics(numbers)


@dataclass(frozen=True)
class Counts:
    """How much a chunk holds, to be compared with what a checkpoint was trained on."""

    groups: int
    trajectories: int
    tokens: int

    @classmethod
    def of(cls, chunk: Chunk) -> "Counts":
        return cls(chunk.groups, chunk.trajectories, chunk.tokens)

    def metrics(self) -> dict[str, float]:
        """As ART counts a submission."""
        return {
            "data/step_num_groups_submitted": float(self.groups),
            "data/step_num_trajectories": float(self.trajectories),
            "data/step_trainer_tokens": float(self.tokens),
        }


@dataclass(frozen=True)
class Proof:
    """Whether a checkpoint's metrics prove that it was trained on a chunk, and what was found."""

    matching: bool
    finding: str


def matches(metrics: Mapping[str, float], counts: Counts) -> Proof:
    """Compare a checkpoint's counts with a chunk's: at least one must be there, and all must agree."""
    expected, found = counts.metrics(), _renamed(metrics)
    shared = sorted(name for name in expected if name in found)
    if not shared:
        return Proof(False, "its checkpoint carries no counts to compare")
    wrong = [name for name in shared if found[name] != expected[name]]
    if wrong:
        name = wrong[0]
        return Proof(
            False, f"its checkpoint has {name} {found[name]:g} where the chunk has {expected[name]:g}"
        )
    return Proof(True, f"its checkpoint's {', '.join(shared)} are the chunk's")
