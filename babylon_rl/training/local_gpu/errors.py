"""What can go wrong with the GPU trainer's process."""

from pathlib import Path

from babylon_rl.training.errors import TrainingError


class GpuTrainerError(TrainingError):
    """The GPU trainer did not train; nothing was saved."""


class GpuOutOfMemoryError(GpuTrainerError):
    """The GPU's memory, or this machine's, does not suffice."""

    def __init__(self, message: str, log: Path) -> None:
        super().__init__(
            f"The GPU trainer ran out of memory: {message}",
            "Use a smaller BASE_MODEL, a lower LORA_RANK, or train at W&B (set WANDB_API_KEY). "
            f"The process's own words are in {log}.",
        )


class GpuTrainerCrashError(GpuTrainerError):
    """The process ended before it was done."""

    def __init__(self, how: str, last_words: str, log: Path) -> None:
        said = f": {last_words}" if last_words else ""
        super().__init__(f"The GPU trainer {how}{said}", f"Its whole output is in {log}; then train again.")


class GpuTrainerHungError(GpuTrainerError):
    """The process gave no sign of life, or took too long, and was stopped."""

    def __init__(self, what: str, setting: str, log: Path) -> None:
        super().__init__(
            f"The GPU trainer was stopped: {what}",
            f"See {log}. If it was only slow, raise {setting}; a stuck GPU may need a reset by its owner.",
        )


class GpuEnvironmentError(GpuTrainerError):
    """The GPU trainer's environment is missing or cannot be made."""
