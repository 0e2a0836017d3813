"""The gateway as a process of its own, as `babylon serve` starts it."""

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import openai

from babylon_rl.database.connection import Databases, open_databases
from babylon_rl.settings import Settings

T = TypeVar("T")

PROGRAM = [sys.executable, "-c", "from babylon_rl.cli import main; main()", "serve"]
ASK: Any = [{"role": "user", "content": "AURUM crash"}]


class Program:
    """A running gateway."""

    def __init__(self, process: "subprocess.Popen[str]", address: str) -> None:
        self.process, self.address = process, address

    def client(self, **options: Any) -> openai.OpenAI:
        key = options.pop("key", "none")
        return openai.OpenAI(base_url=self.address, api_key=key, max_retries=0, **options)

    def ask(self, **fields: Any) -> str:
        """The version that answers."""
        answer = self.client().chat.completions.create(model="babylon-agent", messages=ASK, **fields)
        return answer.model.removeprefix("babylon-agent-")

    def wait_until_answered_by(self, version: str, seconds: float = 60.0) -> None:
        limit = time.monotonic() + seconds
        while self.ask() != version:
            assert time.monotonic() < limit, f"{version} does not answer"
            time.sleep(0.2)

    def kill(self) -> None:
        """kill -9."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=60)


@contextmanager
def gateway(settings: Settings, log: Path, **environment: str) -> Iterator[Program]:
    """Starts it on a free port; killed at the end."""
    assert settings.database_url is not None
    variables = os.environ | {"OMP_NUM_THREADS": "1", "BABYLON_HOME": str(settings.home)}
    variables |= {"GATEWAY_RATE_PER_MINUTE": "0"} | environment
    with log.open("a") as errors:
        process = subprocess.Popen(
            [*PROGRAM, "--port", "0"], stdout=subprocess.PIPE, stderr=errors, text=True, env=variables
        )
    try:
        assert process.stdout is not None
        announced = process.stdout.readline()
        found = re.search(r"(v\d+\.\d+\.\d+) at (http://127\.0\.0\.1:\d+/v1)", announced)
        assert found, f"{announced!r}, {log.read_text()}"
        yield Program(process, found[2])
    finally:
        process.kill()
        process.communicate()


def in_database(settings: Settings, work: Callable[[Databases], Awaitable[T]]) -> T:
    """Runs something with connections of its own."""

    async def run() -> T:
        async with open_databases(settings) as db:
            return await work(db)

    return asyncio.run(run())


def stored(settings: Settings, columns: str = "response_id") -> list[tuple[Any, ...]]:
    """Rows of `rl.llm_calls`, oldest first."""

    async def fetch(db: Databases) -> list[tuple[Any, ...]]:
        rows = await db.rl.fetch(f"SELECT {columns} FROM rl.llm_calls ORDER BY started_at")
        return [tuple(row) for row in rows]

    return in_database(settings, fetch)


def wait_for_stored(settings: Settings, count: int, seconds: float = 10.0) -> list[tuple[Any, ...]]:
    limit = time.monotonic() + seconds
    while len(rows := stored(settings)) < count:
        assert time.monotonic() < limit, f"{len(rows)} of {count} calls are stored"
        time.sleep(0.05)
    return rows
