"""From a route to an answer: attempts, backoff, the circuit breaker, and the base model as the last resort.

Once a stream's first token has reached the client there is neither retry nor fallback: `stream` returns only
when that token is there.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from babylon_rl.serving.answers import Answer
from babylon_rl.serving.errors import GatewayError, UpstreamFailure
from babylon_rl.serving.protocol import ChatCall
from babylon_rl.serving.routing import Route
from babylon_rl.serving.upstream import Deltas, Target

log = logging.getLogger(__name__)

T = TypeVar("T")

FIRST_BACKOFF = 0.1
LONGEST_BACKOFF = 2.0
LONGEST_WISH = 5.0
"""Seconds of an upstream's ``Retry-After`` that are waited for; what wants more falls back."""

_STATUS = {"first_token_timeout": 504, "total_timeout": 504, "connect_timeout": 504}


class Observer(Protocol):
    """Is told what happens on the way (metrics)."""

    def failed(self, target: Target, reason: str) -> None: ...

    def retried(self, target: Target) -> None: ...

    def fell_back(self, reason: str) -> None: ...


@dataclass
class Progress:
    """What happened so far; complete also where it ended in an error."""

    target: Target | None = None
    fallback: bool = False
    reason: str | None = None
    """Why the routed target did not answer."""
    attempts: int = 0


class Dispatcher:
    """Asks targets.

    Args:
        retries: further attempts at one target before the next one.
        observer: is told of failures.
        rng: jitter; a seeded one makes tests repeatable.
    """

    def __init__(self, retries: int, observer: Observer, rng: random.Random | None = None) -> None:
        self._retries, self._observer = retries, observer
        self._rng = rng or random.Random()

    async def complete(
        self, route: Route, call: ChatCall, trace: dict[str, str], progress: Progress
    ) -> tuple[Answer, Target]:
        """A whole answer and who gave it; `progress` is kept up to date.

        Raises:
            GatewayError: the request is at fault, or nobody answers.
        """

        return await self._walk(
            route, lambda target: target.upstream.complete(call, target.model, trace), progress
        )

    async def stream(
        self, route: Route, call: ChatCall, trace: dict[str, str], progress: Progress
    ) -> tuple[Deltas, Target]:
        """A stream whose first token has arrived; raises as `complete` does.

        One that breaks later is to be reported with `broke`.
        """
        return await self._walk(
            route, lambda target: target.upstream.open_stream(call, target.model, trace), progress
        )

    def broke(self, target: Target, failure: UpstreamFailure) -> None:
        """A stream failed after its first token."""
        self._failed(target, failure)

    def _failed(self, target: Target, failure: UpstreamFailure) -> None:
        log.info("%s at %s: %s", target.model, target.upstream.name, failure)
        opened = target.breaker.opened
        target.breaker.fail()
        self._observer.failed(target, failure.reason)
        if target.breaker.opened > opened:
            log.error("%s at %s is left alone for a while: %s", target.model, target.upstream.name, failure)

    def _succeeded(self, target: Target) -> None:
        if target.breaker.state != "closed":
            log.warning("%s at %s answers again", target.model, target.upstream.name)
        target.breaker.succeed()

    async def _walk(
        self, route: Route, ask: Callable[[Target], Awaitable[T]], progress: Progress
    ) -> tuple[T, Target]:
        wait = 0.0
        for target in filter(None, (route.target, route.fallback)):
            if progress.target is not None:
                progress.fallback = True
                self._observer.fell_back(progress.reason or "unknown")
            progress.target = target
            try:
                result, reason, wait = await self._try(target, ask, progress)
            except GatewayError:
                if progress.fallback:  # what only the fallback refuses is not the request's fault
                    break
                raise
            if result is not None:
                return result, target
            progress.reason = reason if progress.reason is None else progress.reason
        raise _unanswered(progress, wait)

    async def _try(
        self, target: Target, ask: Callable[[Target], Awaitable[T]], progress: Progress
    ) -> tuple[T | None, str, float]:
        """A result, or None with the reason and the seconds after which asking again makes sense."""
        reason, wish = "circuit_open", 0.0
        for attempt in range(1 + self._retries):
            if not target.breaker.allow():
                return None, reason, target.breaker.wait
            progress.attempts += 1
            try:
                result = await ask(target)
            except UpstreamFailure as failure:
                self._failed(target, failure)
                reason, wish = failure.reason, failure.retry_after or 0.0
                if not failure.retry or wish > LONGEST_WISH:
                    break
            except GatewayError:  # the request is at fault, the target is well
                target.breaker.succeed()
                raise
            except BaseException:
                target.breaker.cancel()
                raise
            else:
                self._succeeded(target)
                return result, "", 0.0
            if attempt < self._retries:
                self._observer.retried(target)
                await asyncio.sleep(max(wish, self._backoff(attempt)))
        return None, reason, max(wish, 1.0)

    def _backoff(self, attempt: int) -> float:
        """Full jitter (https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/)."""
        return self._rng.uniform(0.0, min(LONGEST_BACKOFF, FIRST_BACKOFF * 2**attempt))


def _unanswered(progress: Progress, wait: float) -> GatewayError:
    reason = progress.reason or "unknown"
    if reason == "circuit_open":
        problem = "The model is not available at the moment"
        return GatewayError(503, "model_unavailable", problem, "Try again later.", retry_after=wait)
    if reason == "http_429":
        problem = "The model's server is at its limit"
        return GatewayError(503, "model_overloaded", problem, "Try again later.", retry_after=wait)
    status = _STATUS.get(reason, 502)
    return GatewayError(
        status, "upstream_error", f"The model's server failed ({reason})", "Try again.", retry_after=wait
    )
