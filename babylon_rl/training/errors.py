"""What can go wrong in training, each with what to do about it."""

from babylon_rl.errors import BabylonError


class TrainingError(BabylonError):
    """Training cannot go on."""


class EmptyBatchError(TrainingError):
    """There is nothing to learn from."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem, "Check the day's windows with `babylon windows check`.")
