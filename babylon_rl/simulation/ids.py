"""Snowflake ids of simulated time: the game's format, but a pure function of the simulation.

An id is 41 bits of milliseconds since 2024-01-01, 10 bits of worker and 12 bits of sequence. Here every day
is a worker of its own: a day's transaction also writes rows that are dated into the next day, and the next
day's rows must not meet their ids.
"""

from collections import Counter
from datetime import UTC, datetime, timedelta

EPOCH = datetime(2024, 1, 1, tzinfo=UTC)
WORKERS = 1 << 10
_SEQUENCES = 1 << 12


class SimulatedIds:
    """Hands out ids at simulated moments; called without arguments, at the moment in `now`.

    Args:
        worker: Distinguishes writers of rows with the same time, 0 to `WORKERS` - 1.
        now: The simulated time.
    """

    def __init__(self, worker: int, now: datetime) -> None:
        self.worker = worker
        self.now = now
        self._taken: Counter[int] = Counter()

    @classmethod
    def of_day(cls, number: int, now: datetime) -> "SimulatedIds":
        """The ids of the day with the number 0, 1, ...; worker 0 is left to a world's first rows."""
        return cls(1 + number % (WORKERS - 1), now)

    def __call__(self) -> str:
        return self.at(self.now)

    def at(self, moment: datetime) -> str:
        """The next id of a moment, as the decimal text that the game keeps."""
        millisecond = (moment - EPOCH) // timedelta(milliseconds=1)
        while self._taken[millisecond] == _SEQUENCES:
            millisecond += 1
        sequence = self._taken[millisecond]
        self._taken[millisecond] += 1
        return str(millisecond << 22 | self.worker << 12 | sequence)
