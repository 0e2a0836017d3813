"""`babylon admin`: the admin API and the dashboard as a process of their own.

Not in the gateway's: that one holds no admin secret, has a narrower database role, and its event loop answers
agents, which uploads, Dagster and counting queries would hold up.
"""

import asyncio
import os

import uvicorn

from babylon_rl.api.app import admin_app
from babylon_rl.errors import BabylonError
from babylon_rl.policy.server import listen
from babylon_rl.settings import Settings


class AdminSetupError(BabylonError):
    """The admin API cannot start as it is configured."""


def serve(settings: Settings, *, host: str = "127.0.0.1", port: int | None = None) -> None:
    """Answers until interrupted.

    Raises:
        PortInUseError: another program listens there.
        AdminSetupError: there is no token, so nobody could ever log in.
    """
    if settings.admin_token is None:
        raise AdminSetupError(
            "ADMIN_TOKEN is not set, so nobody could log in",
            'Make one with `python -c "import secrets; print(secrets.token_urlsafe(24))"`.',
        )
    listener = listen(host, settings.admin_port if port is None else port)
    address = f"http://{host}:{listener.getsockname()[1]}"
    print(f"babylon admin: {address}/admin/training (process {os.getpid()})", flush=True)
    config = uvicorn.Config(
        admin_app(settings),
        http="httptools",
        loop="uvloop",
        ws="none",
        lifespan="on",
        log_level="warning",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=10,
    )
    asyncio.run(uvicorn.Server(config).serve(sockets=[listener]))
