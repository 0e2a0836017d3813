"""Checkpoints that come from elsewhere: a packed directory, checked before anything of it is believed.

A zip is unpacked under names that are allowed and counted byte by byte as it grows, since what it says of
itself may be a lie. Only safetensors and JSON come in, never a pickle; architecture, adapter and tensors are
checked against the allow-lists of `policy.checkpoints`. An upload is a branch of its own: it is no parent of
a day, and the gate has not seen it.
"""

import asyncio
import re
import shutil
import stat
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import asyncpg

from babylon_rl.deployment import registry
from babylon_rl.deployment.errors import DeploymentError, VersionTakenError
from babylon_rl.deployment.model_storage import upload
from babylon_rl.deployment.registry import ModelRecord
from babylon_rl.deployment.storage import local_path
from babylon_rl.deployment.versions import BASE, parse_version
from babylon_rl.policy.adapters import describe_base
from babylon_rl.policy.checkpoints import (
    MANIFEST,
    PICKLES,
    is_adapter,
    verify_checkpoint,
    write_checkpoint,
)
from babylon_rl.policy.errors import CheckpointError
from babylon_rl.settings import Settings

BRANCH = "upload"
MOST_FILES = 64
ALLOWED = (".safetensors", ".json", ".txt", ".jinja", ".md")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_PIECE = 1 << 20


class UploadError(DeploymentError):
    """A packed checkpoint that is refused."""


class UploadTooLargeError(UploadError):
    """It holds more than ADMIN_UPLOAD_BYTES."""


async def take_upload(
    rl: asyncpg.Connection,
    settings: Settings,
    packed: IO[bytes],
    version: str,
    metadata: Mapping[str, Any],
) -> ModelRecord:
    """Unpacks, checks, stores and registers a checkpoint under a version that somebody chose.

    Raises:
        UploadError: The archive, or what is in it, is refused; nothing of it stays.
        InvalidVersionError: `version` is none.
        VersionTakenError: It is registered.
        UnknownVersionError: There is no base model yet.
    """
    name = str(parse_version(version))
    base = await registry.get(rl, str(BASE))
    free = await rl.fetchval("SELECT NOT EXISTS (SELECT FROM rl.models WHERE version = $1)", name)
    if not free:  # before the work; `register` decides
        raise VersionTakenError(f"{name} is registered already", "Choose a free version.")
    folder = await asyncio.to_thread(_store, settings, packed, name, base, dict(metadata))
    try:
        address = folder.as_uri()
        if settings.model_storage_url:
            address = await asyncio.to_thread(upload, folder, settings.model_storage_url)
        return await registry.register(
            rl,
            parent_version=str(BASE),
            storage_path=address,
            manifest=verify_checkpoint(folder),
            metrics={"uploaded": dict(metadata)},
            branch=BRANCH,
            version=name,
        )
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def unpack(packed: IO[bytes], folder: Path, most_bytes: int) -> None:
    """Unpacks a zip of one flat directory into an empty folder.

    Raises:
        UploadError: It is no zip, is damaged or encrypted, or has a file that is not allowed.
        UploadTooLargeError: Unpacked it is larger than `most_bytes`.
    """
    try:
        with zipfile.ZipFile(packed) as archive:
            entries = archive.infolist()
            _check_entries(entries)
            left = most_bytes
            for entry in entries:
                with archive.open(entry) as source, (folder / entry.filename).open("xb") as target:
                    while piece := source.read(_PIECE):
                        left -= len(piece)
                        if left < 0:
                            raise UploadTooLargeError(
                                f"unpacked, the checkpoint is larger than {most_bytes} bytes",
                                "ADMIN_UPLOAD_BYTES sets the limit.",
                            )
                        target.write(piece)
    except UploadError:
        raise
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, ValueError, OSError) as problem:
        reason = " ".join(str(problem).split())[:200] or type(problem).__name__
        raise UploadError(f"the file is no zip that can be unpacked: {reason}", _HOW) from None
    except Exception as problem:  # zlib, bz2 and lzma have errors of their own
        raise UploadError(f"the zip is damaged: {type(problem).__name__}", _HOW) from None


_HOW = "Pack it with `zip -j checkpoint.zip DIRECTORY/*`."


def _check_entries(entries: list[zipfile.ZipInfo]) -> None:
    names = [entry.filename for entry in entries]
    if not names or len(names) > MOST_FILES:
        raise UploadError(f"the zip holds {len(names)} files; 1 to {MOST_FILES} are expected", _HOW)
    if len({name.lower() for name in names}) != len(names):
        raise UploadError("the zip holds one name twice", _HOW)
    for entry in entries:
        shown = repr(entry.filename[:100])
        if entry.flag_bits & 1:
            raise UploadError(f"{shown} is encrypted", _HOW)
        if stat.S_IFMT(entry.external_attr >> 16) not in (0, stat.S_IFREG):
            raise UploadError(f"{shown} is a link or no plain file", _HOW)
        if not _NAME.fullmatch(entry.filename):
            raise UploadError(f"{shown} is not a plain file name of one flat directory", _HOW)
        if entry.filename.lower().endswith(PICKLES):
            raise UploadError(
                f"{shown} may hold a pickle, and pickles are never loaded", "Save it as safetensors."
            )
        if not entry.filename.endswith(ALLOWED):
            raise UploadError(f"{shown} does not belong in a checkpoint", f"Only {', '.join(ALLOWED)}.")


def _store(
    settings: Settings, packed: IO[bytes], version: str, base: ModelRecord, metadata: dict[str, Any]
) -> Path:
    """The checkpoint in its place; nothing is left behind where it is refused."""
    parent = settings.home / "checkpoints"
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".uploading-", dir=parent) as scratch:
        unpacked = Path(scratch)
        unpack(packed, unpacked, settings.admin_upload_bytes)
        try:
            if (unpacked / MANIFEST).is_file():
                verify_checkpoint(unpacked)
            _check_tensors(unpacked)
            manifest: dict[str, Any] = {
                "version": version,
                "base_model": base.base_model,
                "uploaded": metadata,
            }
            if is_adapter(unpacked):
                # What its own manifest calls the base is not believed.
                manifest["base_checkpoint"] = describe_base(local_path(base, settings))
            files = [file for file in unpacked.iterdir() if file.name != MANIFEST]
            target = Path(tempfile.mkdtemp(prefix=f"upload-{version}-", dir=parent))
            try:
                target.rmdir()  # only its name is wanted: the checkpoint appears under it whole
                write_checkpoint(target, lambda to: _copy(files, to), manifest)
                verify_checkpoint(target)
            except BaseException:
                shutil.rmtree(target, ignore_errors=True)
                raise
            return target
        except CheckpointError as problem:
            _, _, told = problem.problem.partition(" is unusable: ")
            raise UploadError(f"the checkpoint is unusable: {told or 'it cannot be stored'}", _HOW) from None


def _copy(files: list[Path], to: Path) -> None:
    for file in files:
        shutil.copyfile(file, to / file.name)


def _check_tensors(folder: Path) -> None:
    """Reads the head of every tensor file: a pickle under another name has none that fits."""
    from safetensors import safe_open

    tensors = sorted(folder.glob("*.safetensors"))
    if not tensors:
        raise CheckpointError(folder, "it holds no .safetensors file")
    for file in tensors:
        try:
            with safe_open(file, framework="numpy") as opened:
                if not list(opened.keys()):
                    raise CheckpointError(folder, f"{file.name} holds no tensor")
        except CheckpointError:
            raise
        except Exception as problem:  # safetensors raises a class of its own
            reason = " ".join(str(problem).split())[:200]
            raise CheckpointError(folder, f"{file.name} is no safetensors file: {reason}") from None
