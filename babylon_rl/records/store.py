"""Immutable, content-hashed files of JSON records: snapshots, scored groups and training batches.

A file is one JSON object per line in canonical form (sorted keys, UTF-8), compressed with zstd, at
`root/<kind>/<name>/<sha256>.jsonl.zst`. The hash covers the lines, not the compressed bytes, so it does not
depend on the compressor. Equal content is stored once; a stored file is never changed.
"""

import hashlib
import io
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any, BinaryIO

import msgspec
import zstandard

from babylon_rl.errors import BabylonError

SUFFIX = ".jsonl.zst"
_LEVEL = 3
_SHA256 = re.compile(r"[0-9a-f]{64}")


class ArtifactError(BabylonError):
    """A stored file that is missing or does not hold what its name promises."""


class Artifact(msgspec.Struct, frozen=True):
    """A stored file."""

    uri: str
    """Path below the store's root, so that a store can be moved."""
    sha256: str
    """Of the uncompressed lines, in hexadecimal."""
    bytes: int
    """Size on disk."""
    count: int
    """Number of records."""


class ArtifactStore:
    """A folder of immutable files. Safe for several processes: files appear whole or not at all."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root).absolute()

    def put(self, kind: str, name: str, records: Iterable[Mapping[str, Any]]) -> Artifact:
        """Stores records in the given order and returns their file; on disk when this returns.

        Args:
            kind: What the records are, for example `trajectories`.
            name: Whose they are, for example a window id.
            records: JSON-compatible mappings; NaN and infinity become null.
        """
        with self.writer(kind, name) as writer:
            for record in records:
                writer.add(record)
            return writer.publish()

    @contextmanager
    def writer(self, kind: str, name: str) -> "Iterator[ArtifactWriter]":
        """Opens a file for more records than fit into memory; without `publish` nothing is kept."""
        folder = PurePosixPath(_safe(kind), _safe(name))
        staging = self.root / "incoming"
        staging.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=staging, suffix=SUFFIX, delete=False) as file:
            try:
                yield ArtifactWriter(self, folder, file)
            finally:
                Path(file.name).unlink(missing_ok=True)

    def get(self, uri_or_sha: str) -> list[dict[str, Any]]:
        """Returns the records of a stored file after checking its hash.

        Args:
            uri_or_sha: An artifact's `uri`, or its `sha256` alone.

        Raises:
            ArtifactError: The file is missing, damaged, or outside the store.
        """
        return [msgspec.json.decode(line) for line in self.lines(uri_or_sha)]

    def lines(self, uri_or_sha: str) -> list[bytes]:
        """Returns the records as JSON texts, for a reader that decodes them into types of its own.

        Raises:
            ArtifactError: The file is missing, damaged, or outside the store.
        """
        path = self.path(uri_or_sha)
        try:
            with path.open("rb") as file:
                content = _decompress(file)
        except FileNotFoundError:
            raise self._missing(uri_or_sha) from None
        except (OSError, zstandard.ZstdError) as error:
            raise _corrupt(path, str(error)) from error
        if hashlib.sha256(content).hexdigest() != path.name.removesuffix(SUFFIX):
            raise _corrupt(path, "its content does not match the hash in its name")
        return content.splitlines()

    def path(self, uri_or_sha: str) -> Path:
        """Returns where a stored file lies.

        Raises:
            ArtifactError: The address leads outside the store, or no file has this hash.
        """
        if _SHA256.fullmatch(uri_or_sha):
            found = next(self.root.glob(f"*/*/{uri_or_sha}{SUFFIX}"), None)
            if found is None:
                raise self._missing(uri_or_sha)
            return found
        path = (self.root / uri_or_sha).resolve()
        name = path.name.removesuffix(SUFFIX)
        if not path.is_relative_to(self.root.resolve()) or not _SHA256.fullmatch(name):
            raise ArtifactError(
                f"{uri_or_sha!r} is not an address in the artifact store {self.root}",
                "Addresses look like trajectories/2026-10-01T14_00/<sha256>.jsonl.zst.",
            )
        return path

    def publish(self, staged: Path, folder: PurePosixPath, sha256: str, count: int) -> Artifact:
        """Moves a finished file to its place, where it stays; for `ArtifactWriter`."""
        uri = str(folder / f"{sha256}{SUFFIX}")
        target = self.root / uri
        if not self._is_intact(target, uri):
            target.parent.mkdir(parents=True, exist_ok=True)
            staged.chmod(0o444)
            os.replace(staged, target)
            for changed in (target.parent, target.parent.parent, self.root):
                _sync_folder(changed)
        return Artifact(uri=uri, sha256=sha256, bytes=target.stat().st_size, count=count)

    def _is_intact(self, target: Path, uri: str) -> bool:
        """Whether the file is there already; a damaged one counts as absent, so storing again heals it."""
        if not target.exists():
            return False
        try:
            self.get(uri)
        except ArtifactError:
            return False
        return True

    def _missing(self, address: str) -> ArtifactError:
        return ArtifactError(
            f"{address} is not in the artifact store {self.root}",
            "Materialize the partition that made it again, or restore the store from its archive.",
        )


class ArtifactWriter:
    """A file of the store while it is being written."""

    def __init__(self, store: ArtifactStore, folder: PurePosixPath, file: IO[bytes]) -> None:
        self._store, self._folder, self._file = store, folder, file
        self._digest, self._count = hashlib.sha256(), 0
        self._compressed = zstandard.ZstdCompressor(level=_LEVEL).stream_writer(file, closefd=False)

    def add(self, record: Mapping[str, Any]) -> None:
        """Writes one JSON-compatible mapping; NaN and infinity become null."""
        line = msgspec.json.encode(record, order="deterministic") + b"\n"
        self._digest.update(line)
        self._compressed.write(line)
        self._count += 1

    def publish(self) -> Artifact:
        """Ends the file and gives it its name; on disk when this returns."""
        self._compressed.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        return self._store.publish(Path(self._file.name), self._folder, self._digest.hexdigest(), self._count)


def _corrupt(path: Path, detail: str) -> ArtifactError:
    return ArtifactError(
        f"{path} is damaged: {detail}",
        "Materialize the partition that made it again (this replaces the file), or restore an archive.",
    )


def _decompress(file: BinaryIO) -> bytes:
    # stream_reader takes a cut file for a short one; the hash finds that, and a frame without end is an error
    # here.
    content = io.BytesIO()
    zstandard.ZstdDecompressor().copy_stream(file, content)
    return content.getvalue()


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _safe(part: str) -> str:
    cleaned = re.sub(r"[^A-Za-z0-9._-]", "_", part)
    if not cleaned.strip("."):
        raise ArtifactError(f"{part!r} is no name for an artifact", "Use letters, digits, '-' and '_'.")
    return cleaned
