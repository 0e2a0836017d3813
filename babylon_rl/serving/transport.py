"""Bodies in, answers out: patience with slow clients, and noticing those that went away."""

import asyncio
from typing import Any

from babylon_rl.serving.errors import GatewayError
from babylon_rl.serving.exchange import Headers

Receive = Any
Send = Any


class ClientGoneError(Exception):
    """The client closed the connection, or does not read."""


async def read_body(receive: Receive, declared: bytes, limit: int, seconds: float) -> bytes:
    """A request's whole body.

    Args:
        declared: the header `content-length`.

    Raises:
        GatewayError: 413 if it is larger than `limit`, 408 if it takes longer than `seconds`.
        ClientGoneError: the client went away.
    """
    too_large = GatewayError(
        413, "request_too_large", f"The body may have {limit} bytes", "Shorten it.", close=True
    )
    if declared.isdigit() and int(declared) > limit:
        raise too_large
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(seconds):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientGoneError
                part = message.get("body", b"")
                size += len(part)
                if size > limit:
                    raise too_large
                parts.append(part)
                if not message.get("more_body", False):
                    return parts[0] if len(parts) == 1 else b"".join(parts)
    except TimeoutError:
        problem = f"The body did not arrive within {seconds:g} s"
        raise GatewayError(408, "request_timeout", problem, "Send it faster.", close=True) from None


async def respond(send: Send, status: int, headers: Headers, body: bytes) -> None:
    """A whole answer."""
    headers.append((b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})


async def send_piece(send: Send, body: bytes, seconds: float, *, last: bool = False) -> None:
    """A piece of an answer.

    Raises:
        ClientGoneError: the client has not read what was sent for `seconds`.
    """
    try:
        async with asyncio.timeout(seconds):
            await send({"type": "http.response.body", "body": body, "more_body": not last})
    except (TimeoutError, OSError):
        raise ClientGoneError from None


class Watch:
    """Cancels the current task when its client goes away.

    An asynchronous context manager that turns that cancellation into `ClientGoneError`. It begins to look
    after `delay` seconds: most answers are there before, and looking costs.
    """

    def __init__(self, receive: Receive, delay: float) -> None:
        self._receive, self._delay = receive, delay
        self._looking: asyncio.Task[None] | None = None
        self._gone = False

    async def __aenter__(self) -> "Watch":
        loop = asyncio.get_running_loop()
        self._owner = asyncio.current_task()
        self._timer = loop.call_later(self._delay, self._begin, loop)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        self._timer.cancel()
        if self._looking is not None:
            self._looking.cancel()
        if self._gone and kind is not None and issubclass(kind, asyncio.CancelledError):
            assert self._owner is not None
            if self._owner.uncancel() == 0:
                raise ClientGoneError from None

    def _begin(self, loop: asyncio.AbstractEventLoop) -> None:
        self._looking = loop.create_task(self._look())

    async def _look(self) -> None:
        message = await self._receive()
        if message["type"] == "http.disconnect" and self._owner is not None:
            self._gone = True
            self._owner.cancel()
