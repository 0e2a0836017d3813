"""The watch over rollouts beside the gateway: decides whether a candidate stays, also with Dagster down.

    python -m babylon_rl.serving.watcher               (ends when its standard input does)

A process of its own, so that measuring takes no time from answers. Every gateway has one; the lease in
PostgreSQL makes one of them lead. Orders that the pipeline has not valued are valued here, under the judge's
role, where this database user may take it.
"""

import asyncio
import logging
import os
import socket
import sys
import uuid
from contextlib import suppress

from babylon_rl.database.connection import open_databases
from babylon_rl.deployment.watch import step_down, watch
from babylon_rl.deployment.watching import pricing, rules
from babylon_rl.settings import Settings, get_settings

log = logging.getLogger(__name__)

ROLE = "babylon_gateway"
RESTART_SECONDS = 2.0
STOP_SECONDS = 5.0


async def run(settings: Settings, ended: asyncio.Event) -> None:
    """Looks every few seconds until `ended` is set; a database that is away only delays it."""
    owner = f"gateway {socket.gethostname()} {os.getpid()} {uuid.uuid4().hex[:8]}"
    pause = settings.rollout_watch_seconds
    while not ended.is_set():
        try:
            async with open_databases(settings, role=ROLE) as databases:
                while not ended.is_set():
                    await watch(databases.rl, None, rules(settings), owner=owner, pricing=pricing(settings))
                    await _wait(ended, pause)
                await step_down(databases.rl, owner)
        except Exception as error:  # whatever happens, the next look may find it well again
            log.warning("the watch over rollouts failed and is tried again: %s", error)
            await _wait(ended, max(pause, RESTART_SECONDS))


async def _wait(ended: asyncio.Event, seconds: float) -> None:
    with suppress(TimeoutError):
        await asyncio.wait_for(ended.wait(), seconds)


class WatcherProcess:
    """Keeps a watch running beside the gateway."""

    def __init__(self) -> None:
        self._process: asyncio.subprocess.Process | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        await self._launch()
        self._task = asyncio.create_task(self._supervise())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        if self._process is None or self._process.stdin is None:
            return
        self._process.stdin.close()
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await self._process.wait()
        except TimeoutError:  # a decision is one transaction: it is made or it is not
            self._process.kill()
            await self._process.wait()

    async def _launch(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "babylon_rl.serving.watcher",
            stdin=asyncio.subprocess.PIPE,
            start_new_session=True,
        )

    async def _supervise(self) -> None:
        while True:
            assert self._process is not None
            status = await self._process.wait()
            log.error("the watch over rollouts ended with status %s and is started again", status)
            await asyncio.sleep(RESTART_SECONDS)
            await self._launch()


async def _main() -> None:
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    source = sys.stdin.fileno()

    def read() -> None:
        if not os.read(source, 4096):
            loop.remove_reader(source)
            ended.set()

    loop.add_reader(source, read)
    await run(get_settings(), ended)


if __name__ == "__main__":
    from babylon_rl.logs import start_logging

    start_logging(get_settings())
    asyncio.run(_main())
