"""What can go wrong in training, each with what to do about it."""

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

    def __init__(self, backend: str, because: str = "") -> None:
        super().__init__(
            f"The training backend {backend!r} cannot run here{': ' + because if because else ''}",
            "Set TRAINING_BACKEND=embedded (or auto), the backend that trains on this machine's CPU.",
        )
