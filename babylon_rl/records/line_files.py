"""Files of JSON lines under zstd: written and read as streams, named by the hash of their lines."""

import hashlib
import io
from collections.abc import AsyncIterable, Iterable, Iterator
from pathlib import Path

import msgspec
import zstandard

from babylon_rl.errors import BabylonError

_LEVEL = 3


class LineFileError(BabylonError):
    """A file that is damaged."""


class LineFile(msgspec.Struct, frozen=True):
    """What a file holds."""

    sha256: str
    """Of the uncompressed lines: it does not depend on the compressor."""
    records: int
    bytes: int
    """Size on disk."""


class LineWriter:
    """A file while it is being written; use it as a context manager."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._digest, self._count = hashlib.sha256(), 0

    def __enter__(self) -> "LineWriter":
        self._file = self._path.open("wb")
        self._compressed = zstandard.ZstdCompressor(level=_LEVEL).stream_writer(self._file, closefd=False)
        return self

    def add(self, line: bytes) -> None:
        """Adds one JSON text without its line end."""
        self._digest.update(line + b"\n")
        self._compressed.write(line + b"\n")
        self._count += 1

    def __exit__(self, *_: object) -> None:
        self._compressed.close()
        self._file.close()

    @property
    def result(self) -> LineFile:
        """What was written; after the end."""
        return LineFile(self._digest.hexdigest(), self._count, self._path.stat().st_size)


def write_lines(path: Path, lines: Iterable[bytes]) -> LineFile:
    """Writes JSON texts to a new file."""
    with LineWriter(path) as writer:
        for line in lines:
            writer.add(line)
    return writer.result


async def write_lines_async(path: Path, lines: AsyncIterable[bytes]) -> LineFile:
    """Writes JSON texts, as they come, to a new file."""
    with LineWriter(path) as writer:
        async for line in lines:
            writer.add(line)
    return writer.result


def read_lines(path: Path) -> Iterator[bytes]:
    """Yields the JSON texts of a file, without line ends.

    Raises:
        LineFileError: The file is damaged or cut.
    """
    with path.open("rb") as file:
        reader = zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=False)
        try:
            for line in io.BufferedReader(reader, 1 << 18):  # type: ignore[arg-type]
                yield line.rstrip(b"\n")
        except zstandard.ZstdError as problem:
            raise LineFileError(f"{path.name} is damaged: {problem}", "Fetch another copy of it.") from None


def verify(path: Path, sha256: str) -> None:
    """Raises LineFileError where a file does not hold the lines with this hash."""
    digest = hashlib.sha256()
    for line in read_lines(path):
        digest.update(line + b"\n")
    if digest.hexdigest() != sha256:
        raise LineFileError(
            f"{path.name} is damaged: its lines do not have the hash that was promised",
            "Fetch another copy of it.",
        )
