"""An admin server of this process on a real port, on the test's own database."""

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import uvicorn
from pydantic import SecretStr

from babylon_rl.api.app import admin_app
from babylon_rl.settings import Settings

TOKEN = "admin-token-0123456789"
CRON = "cron-secret-0123456789"


class Admin:
    """Serves the admin API; an `httpx` client with the right token."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def __enter__(self) -> "Admin":
        listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        config = uvicorn.Config(
            admin_app(self.settings),
            log_level="error",
            access_log=False,
            ws="none",
            timeout_graceful_shutdown=1,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._server.serve(sockets=[listener])), daemon=True
        )
        self._thread.start()
        while not self._server.started:
            assert self._thread.is_alive()
            time.sleep(0.01)
        self._client = httpx.Client(base_url=self.url, timeout=60)
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()
        self._server.should_exit = True
        self._thread.join(timeout=15)

    def ask(self, method: str, path: str, *, token: str | None = TOKEN, **options: Any) -> httpx.Response:
        headers = {**({"authorization": f"Bearer {token}"} if token else {}), **options.pop("headers", {})}
        return self._client.request(method, path, headers=headers, **options)

    def get(self, path: str, **options: Any) -> httpx.Response:
        return self.ask("GET", path, **options)

    def post(self, path: str, body: Any = None, **options: Any) -> httpx.Response:
        return self.ask("POST", path, json={} if body is None else body, **options)


def admin_settings(settings: Settings, **changes: Any) -> Settings:
    """The test's settings with both secrets, and a Dagster that is not there."""
    values = {
        "admin_token": SecretStr(TOKEN),
        "cron_secret": SecretStr(CRON),
        "dagster_url": "http://127.0.0.1:9",
        **changes,
    }
    return settings.model_copy(update=values)


@pytest.fixture
def admin(settings: Settings) -> Iterator[Admin]:
    """An admin server on the test's database."""
    settings.home.mkdir(parents=True, exist_ok=True)
    with Admin(admin_settings(settings)) as started:
        yield started
