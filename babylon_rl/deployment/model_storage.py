"""The private place where every trained checkpoint is copied to: any address that fsspec knows.

A checkpoint is uploaded before its version exists, so a version that is ready can be fetched. The manifest
goes last: a copy without one is unfinished and is simply written again.
"""

import hashlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from babylon_rl.deployment.errors import DeploymentError
from babylon_rl.policy.checkpoints import MANIFEST, read_manifest


class ModelStorageError(DeploymentError):
    """The place for checkpoints does not take or give one."""


def upload(checkpoint: Path, root: str) -> str:
    """Copy a checkpoint below an address, check the copy, and return its address. Repeating is harmless.

    Raises:
        ModelStorageError: It cannot be reached, written, or does not hold what was written.
    """
    files = read_manifest(checkpoint)["files"]
    try:
        system, folder = _open(f"{root.rstrip('/')}/{checkpoint.name}")
        if _is_local(system):
            Path(folder).mkdir(parents=True, exist_ok=True, mode=0o700)
        else:
            system.makedirs(folder, exist_ok=True)
        for name in [*sorted(files), MANIFEST]:
            system.put_file(str(checkpoint / name), f"{folder}/{name}")
            if _is_local(system):
                os.chmod(f"{folder}/{name}", 0o600)
        for name, expected in files.items():
            with system.open(f"{folder}/{name}", "rb") as stream:
                if hashlib.file_digest(stream, "sha256").hexdigest() != expected:
                    raise ModelStorageError(
                        f"the copy of {name} at {root} differs from what was written",
                        "Look at the storage, then train again: nothing was published.",
                    )
        return system.unstrip_protocol(folder)
    except ModelStorageError:
        raise
    except Exception as problem:  # each fsspec implementation has errors of its own
        raise _failed(f"{checkpoint.name} cannot be stored at {root}", problem) from problem


def download(address: str, target: Path) -> Path:
    """Fetch a stored checkpoint into a folder, whole or not at all; an existing folder is returned as it is.

    Raises:
        ModelStorageError: It cannot be reached or is not whole.
    """
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=".fetching-", dir=target.parent))
    try:
        system, folder = _open(address)
        system.get_file(f"{folder}/{MANIFEST}", str(scratch / MANIFEST))
        for name in read_manifest(scratch)["files"]:
            if "/" in name or name.startswith("."):
                raise ModelStorageError(f"the manifest at {address} names {name!r}", "Do not use this copy.")
            system.get_file(f"{folder}/{name}", str(scratch / name))
        os.replace(scratch, target)
        return target
    except ModelStorageError:
        raise
    except Exception as problem:
        raise _failed(f"the checkpoint at {address} cannot be fetched", problem) from problem
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _open(address: str) -> tuple[Any, str]:
    import fsspec

    system, path = fsspec.url_to_fs(address)
    return system, str(path).rstrip("/")


def _is_local(system: Any) -> bool:
    return "file" in (system.protocol if isinstance(system.protocol, tuple | list) else (system.protocol,))


def _failed(what: str, problem: Exception) -> ModelStorageError:
    reason = " ".join(str(problem).split())[:300] or type(problem).__name__
    return ModelStorageError(
        f"{what}: {reason}",
        "Check MODEL_STORAGE_URL, its credentials and its package; nothing was published.",
    )
