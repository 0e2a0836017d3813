"""The processes of the benchmark: mock upstreams, the gateway on a database of its own, LiteLLM's proxy."""

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from babylon_rl.database.connection import open_databases
from babylon_rl.deployment import registry
from babylon_rl.deployment.deploy import deploy
from babylon_rl.settings import Settings

SERVE = [sys.executable, "-c", "from babylon_rl.cli import main; main()", "serve", "--port"]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


class Process:
    """A child process with an address."""

    def __init__(self, process: "subprocess.Popen[Any]", url: str) -> None:
        self.process, self.url = process, url

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self, seconds: float = 60.0) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(seconds)
            except subprocess.TimeoutExpired:
                self.kill()

    def cpu(self) -> float:
        """CPU seconds so far."""
        times = psutil.Process(self.process.pid).cpu_times()
        return times.user + times.system

    def rss(self) -> int:
        return psutil.Process(self.process.pid).memory_info().rss


@contextmanager
def mock(tokens: int) -> Iterator[Process]:
    """A mock upstream."""
    port = free_port()
    script = Path(__file__).with_name("mock_upstream.py")
    process = Process(
        subprocess.Popen([sys.executable, str(script), str(port), str(tokens)]), f"http://127.0.0.1:{port}/v1"
    )
    wait_for(port, process.process)
    try:
        yield process
    finally:
        process.stop(5)


def wait_for(port: int, process: "subprocess.Popen[Any]", seconds: float = 120.0) -> None:
    """Until something listens there."""
    limit = time.monotonic() + seconds
    while time.monotonic() < limit and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 0.2).close()
            return
        except OSError:
            time.sleep(0.1)
    raise RuntimeError(f"{process.args} does not listen")


@contextmanager
def gateway(settings: Settings, upstream: str, **environment: str) -> Iterator[Process]:
    """The gateway before an upstream, on a port of its choice."""
    variables = os.environ | {
        "BABYLON_HOME": str(settings.home),
        "GATEWAY_UPSTREAM_URL": upstream,
        "GATEWAY_RATE_PER_MINUTE": "0",
        "GATEWAY_MAX_REQUESTS": "2000",
        "WANDB_MODE": "none",
    }
    command = [*SERVE, "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=variables | environment)
    assert process.stdout is not None
    announced = process.stdout.readline()
    found = re.search(r"(v\S+) at (http://\S+/v1)", announced)
    if found is None:
        raise RuntimeError(f"the gateway did not start: {announced!r}")
    started = Process(process, found[2])
    try:
        yield started
    finally:
        started.stop()


@contextmanager
def litellm(executable: str, upstream: str, folder: Path) -> Iterator[Process]:
    """LiteLLM's proxy before the same upstream, without a database and with its logging off."""
    config = folder / "litellm.yaml"
    model = {"model": "openai/babylon-agent-v0.0.1", "api_base": upstream, "api_key": "none"}
    settings = {"model_list": [{"model_name": "babylon-agent", "litellm_params": model}]}
    config.write_text(json.dumps(settings))
    port = free_port()
    command = [executable, "--config", str(config), "--host", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen(
        [*command, "--num_workers", "1", "--telemetry", "False"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=folder,
        env=os.environ | {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR", "NO_DOCS": "True"},
    )
    try:
        wait_for(port, process)
        yield Process(process, f"http://127.0.0.1:{port}/v1")
    finally:
        Process(process, "").stop(10)


def prepare(settings: Settings) -> None:
    """A base model and a deployed version in the database; both live at the upstream."""

    async def run() -> None:
        async with open_databases(settings) as db:
            await registry.ensure_base(db.rl, base_model="mock-base")
            model = await registry.register(db.rl, parent_version="v0.0.0", storage_path="file:///none")
            await deploy(db.rl, None, model.version, reason="benchmark", verdict_required=False)

    asyncio.run(run())


def stored(settings: Settings, column: str = "response_id") -> list[str]:
    """That column of all captured calls."""

    async def fetch() -> list[str]:
        async with open_databases(settings) as db:
            return [row[0] for row in await db.rl.fetch(f"SELECT {column} FROM rl.llm_calls")]

    return asyncio.run(fetch())


def ready(url: str) -> dict[str, Any]:
    """What `/readyz` says."""
    with urllib.request.urlopen(f"{url.removesuffix('/v1')}/readyz", timeout=2) as answer:
        return json.load(answer)
