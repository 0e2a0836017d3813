"""The circuit breaker of one target: after enough failures it is left alone until a probe succeeds."""

import time
from collections import deque
from collections.abc import Callable
from typing import Literal

CONSECUTIVE = 5
"""Failures in a row that open the circuit."""
WINDOW_SECONDS = 10.0
WINDOW_CALLS = 20
WINDOW_SHARE = 0.5
"""Also opened by this share of failures among at least ``WINDOW_CALLS`` calls of the window."""
FIRST_PAUSE = 2.0
LONGEST_PAUSE = 60.0

State = Literal["closed", "open", "half_open"]


class Breaker:
    """Counts outcomes; ``allow`` says whether to ask.

    While the circuit is open nothing passes. After a pause (2 s, doubled with each failed probe up to a
    minute) one call at a time goes through as a probe; its success closes the circuit.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._in_a_row = 0
        self._outcomes: deque[tuple[float, bool]] = deque()
        self._failures = 0
        self._pause = FIRST_PAUSE
        self._open_until: float | None = None
        self._probing = False
        self.opened = 0
        """How often the circuit was opened."""

    @property
    def state(self) -> State:
        if self._open_until is None:
            return "closed"
        return "open" if self._clock() < self._open_until else "half_open"

    @property
    def wait(self) -> float:
        """Seconds until a probe is allowed; 0 when calls pass."""
        return 0.0 if self._open_until is None else max(0.0, self._open_until - self._clock())

    def allow(self) -> bool:
        """Whether to ask now. After True, exactly one of the outcome methods must be called."""
        if self._open_until is None:
            return True
        if self._probing or self._clock() < self._open_until:
            return False
        self._probing = True
        return True

    def succeed(self) -> None:
        probe, self._probing = self._probing, False
        if self._open_until is not None:
            if not probe:
                return  # a call from before the circuit opened
            self._open_until, self._pause = None, FIRST_PAUSE
            self._outcomes.clear()
            self._failures = 0
        self._in_a_row = 0
        self._note(True)

    def fail(self) -> None:
        probe, self._probing = self._probing, False
        self._in_a_row += 1
        self._note(False)
        if self._open_until is not None:
            if probe:
                self._pause = min(LONGEST_PAUSE, 2 * self._pause)
                self._open_until = self._clock() + self._pause
            return  # a call from before the circuit opened
        calls = len(self._outcomes)
        if self._in_a_row >= CONSECUTIVE or (
            calls >= WINDOW_CALLS and self._failures >= WINDOW_SHARE * calls
        ):
            self._open_until = self._clock() + self._pause
            self.opened += 1

    def cancel(self) -> None:
        """The call ended without telling anything about the target (the client went away)."""
        self._probing = False

    def _note(self, success: bool) -> None:
        now = self._clock()
        self._outcomes.append((now, success))
        self._failures += not success
        while self._outcomes and self._outcomes[0][0] < now - WINDOW_SECONDS:
            self._failures -= not self._outcomes.popleft()[1]
