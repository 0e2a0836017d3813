"""What answers a call: an upstream that serves models by name, and one model of it, the target of a route."""

import asyncio
import math
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Protocol

from babylon_rl.serving.answers import Answer, Delta, LogprobsOf
from babylon_rl.serving.breaker import Breaker
from babylon_rl.serving.protocol import ChatCall


class Deltas:
    """A stream whose first token has arrived.

    Args:
        first: the pieces up to and including the first token.
        rest: the later ones, as many at a time as arrive together.
    """

    def __init__(self, first: list[Delta], rest: AsyncIterator[list[Delta]]) -> None:
        self.first, self.rest = first, rest

    async def __aiter__(self) -> AsyncIterator[list[Delta]]:
        yield self.first
        async for pieces in self.rest:
            yield pieces

    async def close(self) -> None:
        """Let go of the upstream; safe to call at any point."""
        close = getattr(self.rest, "aclose", None)
        if close is not None:
            await close()


class Upstream(Protocol):
    """Serves models. Both methods take time for as long as the upstream's own limits allow."""

    name: str
    logprobs_of: LogprobsOf
    """Distribution of its log-probabilities."""

    async def complete(self, call: ChatCall, model: str, trace: dict[str, str]) -> Answer:
        """The whole answer.

        Args:
            model: the model's name at this upstream.
            trace: headers that continue a trace.

        Raises:
            UpstreamFailure: no answer; another attempt or upstream may have one.
            GatewayError: the request itself is at fault.
        """
        ...

    async def open_stream(self, call: ChatCall, model: str, trace: dict[str, str]) -> Deltas:
        """A stream, once its first token is there; raises as ``complete`` does, and so does iterating."""
        ...


@dataclass(frozen=True)
class Target:
    """A version and who serves it."""

    version: str
    """``v0.0.3``; ``v0.0.0`` is the base model."""
    upstream: Upstream
    model: str
    """Its name at the upstream."""
    breaker: Breaker = field(default_factory=Breaker, compare=False)

    @property
    def model_id(self) -> str:
        """The name that clients know it by."""
        return f"babylon-agent-{self.version}"


@dataclass(frozen=True)
class Timeouts:
    """Seconds that an upstream may take."""

    connect: float = 2.0
    first_token: float = 20.0
    total: float = 120.0


class Clock:
    """Time left of one attempt."""

    def __init__(self, timeouts: Timeouts) -> None:
        self._loop = asyncio.get_running_loop()
        self._timeouts = timeouts
        self._start = self._loop.time()

    def limit(self, first_token: bool) -> asyncio.Timeout:
        """A time limit for what follows: until the first token, or until the end."""
        seconds = (
            min(self._timeouts.first_token, self._timeouts.total) if first_token else self._timeouts.total
        )
        return asyncio.timeout_at(self._start + (seconds if math.isfinite(seconds) else 1e9))
