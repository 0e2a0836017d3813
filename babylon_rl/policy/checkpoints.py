"""Checkpoints on disk: a directory of safetensors, configuration, tokenizer and a manifest that vouches for
them.

    model.safetensors  config.json  tokenizer.json  tokenizer_config.json  manifest.json      a whole model
    adapter_model.safetensors  adapter_config.json  manifest.json      a LoRA adapter (see `policy.adapters`)

The manifest lists the SHA-256 of every other file. Nothing is loaded before all of them match, no pickle is
ever read, no remote code is run, and only architectures on the allow-list are built.
"""

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from babylon_rl.policy.errors import CheckpointError, CheckpointStorageError
from babylon_rl.policy.threads import fit_threads

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

MANIFEST = "manifest.json"
ADAPTER_CONFIG = "adapter_config.json"
ALLOWED_ARCHITECTURES = frozenset({"LlamaForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"})
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")


Write = Callable[[Path], None]
"""Writes a checkpoint's files into an empty folder."""

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def save_checkpoint(
    path: Path, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", manifest: Mapping[str, Any]
) -> dict[str, Any]:
    """Write a whole model; see `write_checkpoint`."""
    return write_checkpoint(path, lambda folder: write_model(folder, model, tokenizer), manifest)


def write_model(folder: Path, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase") -> None:
    """Write a whole model's files."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    model.save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)


def write_checkpoint(path: Path, write: Write, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Write a checkpoint atomically and return its manifest with the hashes of its files.

    The directory appears under its name only when everything is on disk. An existing checkpoint with the same
    files is left as it is; one with different files is an error, because checkpoints are immutable.

    Raises:
        CheckpointError: there is another checkpoint of this name.
        CheckpointStorageError: the disk is full or does not take it; nothing is left behind.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for left in path.parent.glob(f".saving-{path.name}-*"):  # by a process that was killed
            shutil.rmtree(left, ignore_errors=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".saving-{path.name}-", dir=path.parent))
    except OSError as problem:
        raise CheckpointStorageError(path, problem.strerror or str(problem)) from problem
    try:
        write(scratch)
        files = {file.name: _sha256(file) for file in sorted(scratch.iterdir())}
        complete = {**manifest, "files": files}
        (scratch / MANIFEST).write_text(json.dumps(complete, indent=2, sort_keys=True) + "\n")
        for file in (*scratch.iterdir(), scratch):
            _flush(file)
        if path.exists():
            if read_manifest(path)["files"] != files:
                raise CheckpointError(path, "it exists already with other contents")
            if _is_intact(path, files):
                return read_manifest(path)
            shutil.rmtree(path)  # damaged since: what is written here are the same bytes, whole
        os.replace(scratch, path)
        _flush(path.parent)
        return complete
    except Exception as problem:
        if (reason := _storage_problem(problem)) is None:
            raise
        raise CheckpointStorageError(path, reason) from problem
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _is_intact(path: Path, files: Mapping[str, str]) -> bool:
    return all((path / name).is_file() and _sha256(path / name) == sha for name, sha in files.items())


def _storage_problem(problem: Exception) -> str | None:
    """What the disk said; safetensors has an error class of its own that only quotes it."""
    if isinstance(problem, OSError):
        return problem.strerror or str(problem)
    quoted = next((code for code in _FULL if f"os error {code}" in str(problem)), None)
    return os.strerror(quoted) if quoted is not None else None


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a checkpoint directory.

    Raises:
        CheckpointError: there is no directory, no manifest, or it is not readable.
    """
    if not path.is_dir():
        raise CheckpointError(path, "there is no such directory")
    try:
        manifest = json.loads((path / MANIFEST).read_text())
    except FileNotFoundError:
        raise CheckpointError(path, f"{MANIFEST} is missing") from None
    except ValueError as error:
        raise CheckpointError(path, f"{MANIFEST} is not JSON ({error})") from None
    if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), dict):
        raise CheckpointError(path, f"{MANIFEST} lists no files")
    return manifest


def verify_checkpoint(path: Path) -> dict[str, Any]:
    """Check every file against the manifest, and what they describe against the allow-lists; returns the
    manifest.

    Raises:
        CheckpointError: names the first file that is missing, altered, unlisted or of a forbidden kind.
    """
    manifest = read_manifest(path)
    present = {file.name for file in path.iterdir()} - {MANIFEST}
    for name in sorted(present):
        if name.endswith(PICKLES):
            raise CheckpointError(path, f"{name} may hold a pickle, and pickles are never loaded")
        if name not in manifest["files"]:
            raise CheckpointError(path, f"{name} is not listed in {MANIFEST}")
    for name, expected in manifest["files"].items():
        if name not in present:
            raise CheckpointError(path, f"{name} is missing")
        if _sha256(path / name) != expected:
            raise CheckpointError(path, f"{name} does not match its checksum")
    if is_adapter(path):
        from babylon_rl.policy.adapters import read_config

        read_config(path)
    else:
        _check_architecture(path)
    return manifest


def is_adapter(path: Path) -> bool:
    """Whether the directory holds a LoRA adapter and not a whole model."""
    return (path / ADAPTER_CONFIG).is_file()


def _check_architecture(path: Path) -> None:
    try:
        config = json.loads((path / "config.json").read_text())
    except FileNotFoundError:
        raise CheckpointError(path, "config.json is missing") from None
    except ValueError as error:
        raise CheckpointError(path, f"config.json is not JSON ({error})") from None
    if not isinstance(config, dict) or "auto_map" in config:
        raise CheckpointError(path, "config.json asks for code of its own (auto_map), which is never run")
    architectures = config.get("architectures")
    if not isinstance(architectures, list) or not architectures or set(architectures) - ALLOWED_ARCHITECTURES:
        allowed = ", ".join(sorted(ALLOWED_ARCHITECTURES))
        raise CheckpointError(path, f"config.json: architecture {architectures} is not one of {allowed}")


def load_checkpoint(path: Path) -> tuple["PreTrainedModel", "PreTrainedTokenizerBase"]:
    """Verify and load a checkpoint; the model is in evaluation mode, on the GPU if there is one.

    An adapter is merged into the model that it was trained on.

    Raises:
        CheckpointError: see ``verify_checkpoint``; also when tensors do not fit the configuration.
    """
    verify_checkpoint(path)
    if is_adapter(path):
        from babylon_rl.policy.adapters import load_merged

        return load_merged(path)
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    options = {"local_files_only": True, "trust_remote_code": False}
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, **options)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            path, use_safetensors=True, dtype=torch.float32, output_loading_info=True, **options
        )
        model, info = loaded
    except Exception as error:  # safetensors and tokenizers raise classes of their own
        raise CheckpointError(path, _first_line(error)) from error
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if info.get(problem):
            raise CheckpointError(path, f"{problem.replace('_', ' ')}: {sorted(info[problem])[:3]}")
    fit_threads(model.num_parameters())
    return model.to("cuda" if torch.cuda.is_available() else "cpu").eval(), tokenizer


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
