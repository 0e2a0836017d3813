"""Open-loop load over keep-alive connections: requests leave when they are due, whether or not earlier ones
are answered, and a latency counts from the moment at which the request was due (no coordinated omission).
"""

import asyncio
import gc
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

import numpy as np

MOST_CONNECTIONS = 1000


@dataclass
class Result:
    """What came back."""

    offered: int = 0
    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    """Of good answers, in seconds."""
    acknowledged: list[str] = field(default_factory=list)
    """Request ids of good answers."""
    statuses: dict[int, int] = field(default_factory=dict)
    broken: int = 0
    """Connections that ended without an answer."""
    skipped: int = 0
    """Requests that did not leave, because all connections were busy."""

    @property
    def rate(self) -> float:
        """Good answers a second."""
        return len(self.latencies) / self.seconds if self.seconds else 0.0

    @property
    def errors(self) -> int:
        bad = sum(count for status, count in self.statuses.items() if status != 200)
        return bad + self.broken + self.skipped

    def ms(self, percentile: float) -> float:
        """A percentile of the latencies in milliseconds."""
        return 1e3 * float(np.percentile(self.latencies, percentile)) if self.latencies else float("nan")


class _Connection(asyncio.Protocol):
    def __init__(self, load: "OpenLoop") -> None:
        self._load = load
        self._data = bytearray()
        self.due = 0.0
        self.busy = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance

    def ask(self, due: float) -> None:
        self.due, self.busy = due, True
        self.transport.write(self._load.request)

    def data_received(self, data: bytes) -> None:
        self._data += data
        end = self._data.find(b"\r\n\r\n")
        if end < 0:
            return
        head = bytes(self._data[:end]).lower()
        length = int(_header(head, b"content-length") or 0)
        if len(self._data) < end + 4 + length:
            return
        status = int(head[9:12])
        self._data.clear()
        self.busy = False
        self._load.answered(self, status, head)

    def connection_lost(self, error: Exception | None) -> None:
        self._load.lost(self)


class OpenLoop:
    """Sends one request over and over.

    Args:
        url: `http://127.0.0.1:PORT/path`; nothing else is ever asked.
        body: the request's body.
    """

    def __init__(self, url: str, body: bytes, seed: int = 0) -> None:
        host, _, path = url.removeprefix("http://").partition("/")
        name, _, port = host.partition(":")
        assert name == "127.0.0.1", "this benchmark loads the machine that it runs on, and no other"
        self._port = int(port)
        self.request = (
            f"POST /{path} HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\n\r\n"
        ).encode() + body
        self._rng = random.Random(seed)
        self._idle: list[_Connection] = []
        self._all: set[_Connection] = set()
        self._waiting = 0
        self._result = Result()

    async def run(
        self, rate: float, seconds: float, connections: int = 32, stop: Callable[[], bool] = lambda: False
    ) -> Result:
        """Offers `rate` requests a second, as a Poisson process, for `seconds`, then waits for answers."""
        loop = asyncio.get_running_loop()
        await asyncio.gather(*(self._connect() for _ in range(connections)))
        gc.collect()
        gc.disable()
        began = time.perf_counter()
        due = began
        try:
            while due < began + seconds and not stop():
                due += self._rng.expovariate(rate)
                wait = due - time.perf_counter()
                if wait > 0:
                    await asyncio.sleep(wait)
                self._send(due, loop)
                self._result.offered += 1
            self._result.seconds = time.perf_counter() - began
            for _ in range(500):
                if not self._waiting:
                    break
                await asyncio.sleep(0.01)
        finally:
            gc.enable()
            for connection in list(self._all):
                connection.transport.abort()
        return self._result

    def _send(self, due: float, loop: asyncio.AbstractEventLoop) -> None:
        if self._idle:
            self._waiting += 1
            self._idle.pop().ask(due)
        elif len(self._all) + self._waiting < 2 * MOST_CONNECTIONS and len(self._all) < MOST_CONNECTIONS:
            self._waiting += 1
            loop.create_task(self._connect_and_ask(due))
        else:
            self._result.skipped += 1

    async def _connect(self) -> _Connection | None:
        try:
            _, connection = await asyncio.get_running_loop().create_connection(
                lambda: _Connection(self), "127.0.0.1", self._port
            )
        except OSError:
            return None
        self._all.add(connection)
        self._idle.append(connection)
        return connection

    async def _connect_and_ask(self, due: float) -> None:
        connection = await self._connect()
        if connection is None:
            self._waiting -= 1
            self._result.broken += 1
        elif connection in self._idle:
            self._idle.remove(connection)
            connection.ask(due)

    def answered(self, connection: _Connection, status: int, head: bytes) -> None:
        result = self._result
        self._waiting -= 1
        result.statuses[status] = result.statuses.get(status, 0) + 1
        if status == 200:
            result.latencies.append(time.perf_counter() - connection.due)
            result.acknowledged.append(_header(head, b"x-request-id").decode())
        self._idle.append(connection)

    def lost(self, connection: _Connection) -> None:
        self._all.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        if connection.busy:
            self._waiting -= 1
            self._result.broken += 1


def _header(head: bytes, name: bytes) -> bytes:
    start = head.find(b"\r\n" + name + b":")
    if start < 0:
        return b""
    start += len(name) + 3
    end = head.find(b"\r\n", start)
    return head[start : end if end >= 0 else None].strip()
