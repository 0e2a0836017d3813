"""How far a training is: tokens per second and the time that is left."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from babylon_rl.training.gradient import Progress

log = logging.getLogger(__name__)

LOG_SECONDS = 10.0
"""A long training writes a line this often."""


@dataclass(frozen=True)
class Pace:
    """A training after one more step.

    Attributes:
        tokens_per_second: Trained tokens (of answers) per second of wall time since the first step began.
        seconds_left: Estimate from the mean step so far.
    """

    done: int
    total: int
    tokens_per_second: float
    seconds_left: float
    loss: float | None

    def __str__(self) -> str:
        loss = f", loss {self.loss:+.4f}" if self.loss is not None else ""
        return (
            f"step {self.done} of {self.total}{loss}, {self.tokens_per_second:,.0f} tokens/s, "
            f"{self.seconds_left:.0f} s left"
        )


Watcher = Callable[[str, Pace], None]
_watchers: list[Watcher] = []


@contextmanager
def watching(watcher: Watcher) -> Iterator[None]:
    """Have a function called with name and pace at every step of this process's trainings."""
    _watchers.append(watcher)
    try:
        yield
    finally:
        _watchers.remove(watcher)


class ProgressMeter:
    """A `Progress` that measures, writes a line now and then, and tells the watchers.

    Args:
        name: What is trained, for the lines.
        on_step: Receives the raw progress too.
    """

    def __init__(
        self,
        name: str,
        on_step: Progress | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name, self._on_step, self._clock = name, on_step, clock
        self._started = self._told = clock()
        self._tokens = 0.0
        self.last: Pace | None = None

    def __call__(self, done: int, total: int, metrics: dict[str, float]) -> None:
        """Take one step's progress; a lower `done` than before is the next chunk."""
        now = self._clock()
        if self.last is not None and done <= self.last.done:
            self._started, self._tokens = now, 0.0
        self._tokens += metrics.get("data/step_trainer_tokens", 0.0)
        elapsed = max(now - self._started, 1e-9)
        left = elapsed / done * (total - done)
        self.last = Pace(done, total, self._tokens / elapsed, left, metrics.get("loss/train"))
        if now - self._told >= LOG_SECONDS:
            self._told = now
            log.info("%s: %s", self._name, self.last)
        for watcher in tuple(_watchers):
            watcher(self._name, self.last)
        if self._on_step:
            self._on_step(done, total, metrics)
