"""An append-only spool on disk: what was appended survives the end of this process (`process`), or of the
machine (`power`, one fdatasync for all that wait).

A folder holds segments, named so that they sort by age; each is a row of frames

    length (4 bytes)  CRC-32 (4 bytes)  payload

and is locked by its writer for as long as that lives. A frame that is cut short at the end of a segment
without a writer was never acknowledged.
"""

import asyncio
import fcntl
import os
import struct
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

from babylon_rl.serving.errors import GatewayError

Level = Literal["process", "power"]

HEADER = struct.Struct("<II")
SUFFIX = ".spool"
MAX_FRAME = 64 << 20
FULL_RETRY_SECONDS = 5.0


class SpoolError(GatewayError):
    """A call cannot be kept, so it is not answered."""

    def __init__(self, problem: str) -> None:
        super().__init__(
            503, "capture_unavailable", problem, "Try again later.", retry_after=FULL_RETRY_SECONDS
        )


class Spool:
    """Writes frames.

    Args:
        folder: made if missing; several writers may share it.
        level: what an append survives.
        capacity: bytes on disk at which `admit` refuses.
        segment_bytes: size at which a new segment begins; a drained segment gives its room back.
    """

    def __init__(self, folder: Path, level: Level, capacity: int, segment_bytes: int | None = None) -> None:
        self.folder, self.capacity = folder, capacity
        self.level: Level = level
        self._segment_bytes = segment_bytes or max(4096, min(16 << 20, capacity // 8))
        self._name = f"{time.time_ns():020d}-{os.getpid()}"
        self._number = 0
        self._fd: int | None = None
        self._size = 0
        self._used = 0
        self._unsynced: set[int] = set()
        self._syncing: set[int] = set()
        self._waiting: list[asyncio.Future[None]] = []
        self._syncer: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, "spool-sync") if level == "power" else None
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.measure()

    @property
    def used(self) -> int:
        """Bytes on disk when last measured, and what was appended since."""
        return self._used

    def measure(self) -> int:
        """Looks at the folder: a drainer gives room back."""
        self._used = sum(_size(path) for path in segments(self.folder))
        return self._used

    def admit(self) -> None:
        """Checks that there is room for another call.

        Raises:
            SpoolError: there is none.
        """
        if self._used >= self.capacity:
            raise SpoolError("Answers cannot be kept at the moment: the spool is full")

    async def append(self, payload: bytes) -> None:
        """Keeps a frame; on return it survives what the level promises.

        Raises:
            SpoolError: it could not be written as promised.
        """
        frame = HEADER.pack(len(payload), zlib.crc32(payload)) + payload
        try:
            fd = self._segment()
            written = os.write(fd, frame)
        except OSError as error:
            raise self._abandon(error) from error
        if written != len(frame):
            raise self._abandon(OSError(f"{written} of {len(frame)} bytes were written"))
        self._size += written
        self._used += written
        if self.level == "power":
            self._unsynced.add(fd)
            await self._synced()

    async def close(self) -> None:
        """Ends the segment, so that a drainer can finish it."""
        if self._syncer is not None:
            await self._syncer
        self._end_segment()
        if self._thread is not None:
            self._thread.shutdown()

    def _segment(self) -> int:
        if self._fd is not None and self._size < self._segment_bytes:
            return self._fd
        self._end_segment()
        self._number += 1
        path = self.folder / f"{self._name}-{self._number:08d}{SUFFIX}"
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        fcntl.flock(fd, fcntl.LOCK_EX)
        if self.level == "power":
            _sync_folder(self.folder)
        self._fd, self._size = fd, 0
        return fd

    def _end_segment(self) -> None:
        if self._fd is not None and self._fd not in self._unsynced | self._syncing:
            os.close(self._fd)
        self._fd = None  # an unsynced one is closed after its sync

    def _abandon(self, error: OSError) -> SpoolError:
        """A frame may be cut: nothing more goes into that segment."""
        self._end_segment()
        return SpoolError(f"An answer could not be kept ({error.strerror or error})")

    async def _synced(self) -> None:
        waiting = asyncio.get_running_loop().create_future()
        self._waiting.append(waiting)
        if self._syncer is None or self._syncer.done():
            self._syncer = asyncio.create_task(self._sync())
        await waiting

    async def _sync(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            waiting, self._waiting = self._waiting, []
            self._syncing, self._unsynced = self._unsynced, set()
            problem: SpoolError | None = None
            try:
                await loop.run_in_executor(self._thread, _sync_files, self._syncing)
            except OSError as error:
                problem = self._abandon(error)
            ended, self._syncing = self._syncing - self._unsynced - {self._fd}, set()
            for fd in ended:
                os.close(fd)
            for future in waiting:
                if not future.done():
                    future.set_exception(problem) if problem else future.set_result(None)


def segments(folder: Path) -> list[Path]:
    """The segments of a spool, oldest first."""
    return sorted(folder.glob(f"*{SUFFIX}"))


def has_writer(path: Path) -> bool:
    """Whether a process still writes to a segment."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


class UnreadableError(ValueError):
    """Bytes that no frame begins with: what follows cannot be read either."""


def read_frames(data: bytes) -> Iterator[tuple[bytes, int, bool]]:
    """Payload, offset behind the frame, and whether its checksum matches; stops before a frame that is cut.

    Raises:
        UnreadableError: there is no frame where one should begin (zeros after a power cut, for example).
    """
    offset = 0
    while offset + HEADER.size <= len(data):
        length, checksum = HEADER.unpack_from(data, offset)
        if not 0 < length <= MAX_FRAME:
            raise UnreadableError(f"a frame of {length} bytes")
        end = offset + HEADER.size + length
        if end > len(data):
            return
        payload = data[offset + HEADER.size : end]
        yield payload, end, zlib.crc32(payload) == checksum
        offset = end


def _sync_files(fds: set[int]) -> None:
    for fd in fds:
        os.fdatasync(fd)


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # drained a moment ago
        return 0
