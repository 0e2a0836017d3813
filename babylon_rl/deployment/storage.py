"""Where a registered checkpoint lies, and the engine that it becomes."""

from pathlib import Path
from urllib.parse import unquote, urlparse

from babylon_rl.deployment.errors import DeploymentError
from babylon_rl.deployment.model_storage import download
from babylon_rl.deployment.registry import ModelRecord
from babylon_rl.policy.engine import EmbeddedEngine
from babylon_rl.settings import Settings, get_settings


class RemoteCheckpointError(DeploymentError):
    """A checkpoint is not stored on this machine."""


def local_path(model: ModelRecord, settings: Settings | None = None) -> Path:
    """The directory of a model's checkpoint; one below MODEL_STORAGE_URL is fetched on first use.

    Raises:
        RemoteCheckpointError: it is stored elsewhere, or nowhere yet.
        ModelStorageError: it cannot be fetched.
    """
    settings, stored = settings or get_settings(), model.storage_path or ""
    address = urlparse(stored)
    if settings.model_storage_url and _is_below(stored, _with_scheme(settings.model_storage_url)):
        name = unquote(address.path).rstrip("/").rpartition("/")[2]
        return download(stored, settings.home / "checkpoints" / name)
    if address.scheme != "file":
        raise RemoteCheckpointError(
            f"the checkpoint of {model.version} is at {model.storage_path!r}, not on this machine",
            "Choose a version whose checkpoint is here; `babylon models` lists them.",
        )
    return Path(unquote(address.path))


def _with_scheme(url: str) -> str:
    """The root of the place for checkpoints, as stored addresses begin."""
    return url if "://" in url else Path(url).absolute().as_uri()


def _is_below(address: str, root: str) -> bool:
    return address.startswith(f"{root.rstrip('/')}/") and ".." not in unquote(address).split("/")


def open_engine(model: ModelRecord) -> EmbeddedEngine:
    """Load a registered checkpoint into the embedded engine.

    Raises:
        RemoteCheckpointError: it is not on this machine.
        CheckpointError: it is not what its manifest says.
    """
    return EmbeddedEngine.load(local_path(model), model.version)
