"""Snowflake ids, as the game makes them: sortable by time, unique per worker, kept as decimal strings.

Bits, from the highest: 41 of milliseconds since 2024-01-01 UTC, 10 of worker number, 12 of sequence. They
exceed 2**53, so JavaScript and JSON tools must never see them as numbers.
"""

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache

from babylon_rl.settings import get_settings

EPOCH_MS = int(datetime(2024, 1, 1, tzinfo=UTC).timestamp() * 1000)
_WORKER_BITS = 10
_SEQUENCE_BITS = 12
_SEQUENCE_LIMIT = 1 << _SEQUENCE_BITS


class Snowflakes:
    """A source of ids for one worker; safe to share between threads, not between processes.

    Where the game's own source throws when the clock goes back, this one stays at the latest millisecond it
    has used, and takes the next one when a millisecond's 4096 numbers are spent.
    """

    def __init__(self, worker_id: int = 0, *, clock_ms: Callable[[], int] | None = None) -> None:
        """`worker_id`: 0 to 1023, different for each process that records (WORKER_ID)."""
        if not 0 <= worker_id < 1 << _WORKER_BITS:
            raise ValueError(f"worker_id {worker_id} is outside of 0 to {(1 << _WORKER_BITS) - 1}")
        self._worker = worker_id << _SEQUENCE_BITS
        self._clock_ms = clock_ms or _clock_ms
        self._lock = threading.Lock()
        self._last_ms = 0
        self._sequence = 0

    def __call__(self) -> str:
        with self._lock:
            now = self._clock_ms() - EPOCH_MS
            if now > self._last_ms:
                self._last_ms, self._sequence = now, 0
            else:
                self._sequence += 1
                if self._sequence == _SEQUENCE_LIMIT:
                    self._last_ms, self._sequence = self._last_ms + 1, 0
            return str(self._last_ms << (_WORKER_BITS + _SEQUENCE_BITS) | self._worker | self._sequence)


def moment_of(snowflake: str) -> datetime:
    """When an id was made, in UTC, to the millisecond."""
    return datetime.fromtimestamp(((int(snowflake) >> 22) + EPOCH_MS) / 1000, UTC)


def snowflake() -> str:
    """A new id from this process's own source, under the settings' WORKER_ID."""
    return _source()()


@lru_cache(maxsize=1)
def _source() -> Snowflakes:
    return Snowflakes(get_settings().worker_id)


def _clock_ms() -> int:
    return time.time_ns() // 1_000_000
