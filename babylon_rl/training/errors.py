"""What can go wrong in training, each with what to do about it."""

import difflib
from collections.abc import Iterable

from babylon_rl.errors import BabylonError


class TrainingError(BabylonError):
    """Training cannot go on."""


class EmptyBatchError(TrainingError):
    """There is nothing to learn from."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem, "Check the day's windows with `babylon windows check`.")


class MissingBatchError(TrainingError):
    """A day was to be trained before its batch was built."""

    def __init__(self, day: str) -> None:
        super().__init__(
            f"There is no training batch of {day}",
            f"Materialize the partition {day} of training_batch first.",
        )


class BackendNotAvailableError(TrainingError):
    """The settings ask for a training backend that cannot run here."""

    def __init__(self, backend: str, because: str = "", remedy: str = "") -> None:
        super().__init__(
            f"The training backend {backend!r} cannot run here{': ' + because if because else ''}",
            remedy or "Set TRAINING_BACKEND=embedded (or auto), which trains on this machine's CPU.",
        )


class TrainingDivergedError(TrainingError):
    """The loss or the gradient became infinite or no number; nothing was saved."""

    def __init__(self, step: int, learning_rate: float) -> None:
        super().__init__(
            f"Training diverged at optimiser step {step}: the loss is no finite number",
            f"Lower LEARNING_RATE (it was {learning_rate:g}), or look for extreme rewards in the batch.",
        )


class UnknownTrainingArgumentError(TrainingError):
    """A training was given an argument that its backend does not have."""

    def __init__(self, name: str, known: Iterable[str], backend: str = "embedded") -> None:
        known = sorted(known)
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"Did you mean {close[0]}? " if close else ""
        super().__init__(
            f"The {backend} backend has no training argument {name!r}",
            f"{hint}It has {', '.join(known)}.",
        )
