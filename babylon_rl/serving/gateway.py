"""The gateway as a program: chat completions from the deployed model until it is told to stop."""

import asyncio
import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import uvicorn
from starlette.applications import Starlette

from babylon_rl.database.connection import open_databases
from babylon_rl.policy.server import chat_app, listen
from babylon_rl.serving.deployed import DeployedPolicy
from babylon_rl.settings import Settings

REFRESH_SECONDS = 2.0
"""How soon a new deployment answers."""

log = logging.getLogger(__name__)


async def run_gateway(settings: Settings, *, host: str = "127.0.0.1", port: int | None = None) -> None:
    """Serve until interrupted. The port is taken, and the model loaded, before anything is announced.

    Args:
        host: address to listen on; there is no login, so it is this machine by default.
        port: 0 takes a free one; ``PORT`` by default.

    Raises:
        PortInUseError: another program listens there.
        BabylonError: no model can be loaded.
    """
    listener = listen(host, settings.port if port is None else port)
    policy = DeployedPolicy(settings)
    async with open_databases(settings) as databases:
        await policy.refresh(databases.rl)
    app = chat_app(policy)
    app.router.lifespan_context = _following(policy, settings)
    address = f"http://{host}:{listener.getsockname()[1]}/v1"
    print(f"babylon gateway: {policy.version} at {address} (process {os.getpid()})", flush=True)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=10))
    await server.serve(sockets=[listener])


def _following(policy: DeployedPolicy, settings: Settings):  # noqa: ANN202 - Starlette's lifespan type
    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        task = asyncio.create_task(_follow(policy, settings))
        yield
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    return lifespan


async def _follow(policy: DeployedPolicy, settings: Settings) -> None:
    """Look for a new deployment every few seconds; a database that is away only delays the next change."""
    while True:
        try:
            async with open_databases(settings) as databases:
                while True:
                    await asyncio.sleep(REFRESH_SECONDS)
                    await policy.refresh(databases.rl)
        except Exception as error:  # the gateway keeps answering whatever happens to the database
            log.warning("cannot look for deployments: %s", error)
            await asyncio.sleep(REFRESH_SECONDS)
