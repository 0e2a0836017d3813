"""Capture: a call is in the spool before its last byte is sent, and in PostgreSQL soon after."""

import asyncio
import logging
import sys
from contextlib import suppress
from typing import Literal, Protocol

import msgspec

from babylon_rl.serving.calls import CapturedCall
from babylon_rl.serving.spool import Spool

log = logging.getLogger(__name__)

MEASURE_SECONDS = 0.25
RESTART_SECONDS = 1.0
STOP_SECONDS = 15.0

CaptureLevel = Literal["off", "process", "power"]

_encoder = msgspec.msgpack.Encoder()


class Capture(Protocol):
    """Where served calls go."""

    level: CaptureLevel

    def admit(self) -> None:
        """Raises GatewayError (503) where no call could be kept."""
        ...

    async def keep(self, call: CapturedCall) -> None:
        """Keeps a call at the promised level; raises GatewayError (503) where that fails."""
        ...


class NoCapture:
    """Keeps nothing."""

    level: CaptureLevel = "off"

    def admit(self) -> None:
        return

    async def keep(self, call: CapturedCall) -> None:
        return


class SpoolCapture:
    """Keeps calls in a spool."""

    def __init__(self, spool: Spool) -> None:
        self.spool = spool
        self.level: CaptureLevel = spool.level
        self.admit = spool.admit

    async def keep(self, call: CapturedCall) -> None:
        call.level = self.level
        await self.spool.append(_encoder.encode(call))


class DrainerProcess:
    """Keeps a drainer running beside the gateway, and knows how much waits for it.

    Args:
        spool: what is drained.
        dsn: the database with schema `rl`.
    """

    def __init__(self, spool: Spool, dsn: str) -> None:
        self._spool, self._dsn = spool, dsn
        self._process: asyncio.subprocess.Process | None = None
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    async def start(self) -> None:
        await self._launch()
        self._tasks = [asyncio.create_task(self._supervise()), asyncio.create_task(self._measure())]

    async def stop(self) -> None:
        """Lets the drainer finish what is there, if it can within a few seconds; the rest waits on disk."""
        for task in self._tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        if self._process is None or self._process.stdin is None:
            return
        self._process.stdin.close()
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await self._process.wait()
        except TimeoutError:
            log.warning("captured calls stay in the spool until the next start: %s", self._spool.folder)
            self._process.kill()
            await self._process.wait()

    async def _launch(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "babylon_rl.serving.drainer",
            str(self._spool.folder),
            stdin=asyncio.subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for the gateway, which stops the drainer last
        )
        assert self._process.stdin is not None
        self._process.stdin.write(f"{self._dsn}\n".encode())

    async def _supervise(self) -> None:
        while True:
            assert self._process is not None
            status = await self._process.wait()
            log.error("the drainer of captured calls ended with status %s and is started again", status)
            await asyncio.sleep(RESTART_SECONDS)
            await self._launch()

    async def _measure(self) -> None:
        while True:
            await asyncio.sleep(MEASURE_SECONDS)
            self._spool.measure()
