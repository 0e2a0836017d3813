"""What can go wrong between a prompt and its answer."""

from pathlib import Path

from babylon_rl.errors import BabylonError


class PolicyError(BabylonError):
    """A policy cannot answer."""


class PromptTooLongError(PolicyError):
    """A prompt and its answer do not fit the model's context."""

    def __init__(self, prompt_tokens: int, answer_tokens: int, context: int) -> None:
        super().__init__(
            f"The prompt has {prompt_tokens} tokens and the answer may have {answer_tokens}, "
            f"but the model's context is {context} tokens",
            "Shorten the messages or lower max_tokens.",
        )


class CheckpointError(PolicyError):
    """A checkpoint directory is missing, incomplete, altered or of a kind that is not loaded."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(
            f"The checkpoint {path} is unusable: {problem}",
            "Restore the directory from a backup, or deploy another version (`babylon models`).",
        )


class AdapterMismatchError(CheckpointError):
    """An adapter does not belong to the model, or does not have the shape, that it is to be used with."""


class CheckpointStorageError(PolicyError):
    """A checkpoint could not be written; what was there before is unchanged."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(
            f"The checkpoint {path} could not be written: {reason}",
            "Nothing was published and nothing half-written is left. Free some space there (the folder must "
            "be writable), then run the training again.",
        )


class PortInUseError(PolicyError):
    """Another program listens on the port that a server was to use."""

    def __init__(self, host: str, port: int) -> None:
        super().__init__(
            f"Port {port} on {host} is in use",
            "Stop the program that listens there, or choose another port.",
        )
