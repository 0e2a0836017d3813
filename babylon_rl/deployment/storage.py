"""Where a registered checkpoint lies, and the engine that it becomes."""

from pathlib import Path
from urllib.parse import unquote, urlparse

from babylon_rl.deployment.errors import DeploymentError
from babylon_rl.deployment.registry import ModelRecord
from babylon_rl.policy.engine import EmbeddedEngine


class RemoteCheckpointError(DeploymentError):
    """A checkpoint is not stored on this machine."""


def local_path(model: ModelRecord) -> Path:
    """The directory of a model's checkpoint.

    Raises:
        RemoteCheckpointError: it is stored elsewhere, or nowhere yet.
    """
    address = urlparse(model.storage_path or "")
    if address.scheme != "file":
        raise RemoteCheckpointError(
            f"the checkpoint of {model.version} is at {model.storage_path!r}, not on this machine",
            "Choose a version whose checkpoint is here; `babylon models` lists them.",
        )
    return Path(unquote(address.path))


def open_engine(model: ModelRecord) -> EmbeddedEngine:
    """Load a registered checkpoint into the embedded engine.

    Raises:
        RemoteCheckpointError: it is not on this machine.
        CheckpointError: it is not what its manifest says.
    """
    return EmbeddedEngine.load(local_path(model), model.version)
