"""The gateway as a program of its own: it follows the deployments and stops cleanly."""

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import openai
import pytest

from babylon_rl.database.connection import open_databases
from babylon_rl.deployment import registry
from babylon_rl.deployment.candidates import ensure_base
from babylon_rl.deployment.deploy import deploy
from babylon_rl.deployment.errors import UnknownVersionError
from babylon_rl.deployment.storage import local_path
from babylon_rl.policy.checkpoints import load_checkpoint, save_checkpoint
from babylon_rl.policy.errors import PortInUseError
from babylon_rl.policy.server import listen
from babylon_rl.serving.gateway import run_gateway
from babylon_rl.settings import Settings

PROGRAM = [sys.executable, "-c", "from babylon_rl.cli import main; main()", "serve"]


@contextmanager
def gateway(settings: Settings, log: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The running program and its address."""
    assert settings.database_url is not None
    environment = os.environ | {"OMP_NUM_THREADS": "1", "BABYLON_HOME": str(settings.home)}
    with log.open("w") as errors:
        process = subprocess.Popen(
            [*PROGRAM, "--port", "0"], stdout=subprocess.PIPE, stderr=errors, text=True, env=environment
        )
    try:
        assert process.stdout is not None
        announced = process.stdout.readline()
        found = re.search(r"(v\d+\.\d+\.\d+) at (http://127\.0\.0\.1:\d+/v1)", announced)
        assert found, f"{announced!r}, {log.read_text()}"
        yield process, found[2]
    finally:
        process.kill()
        process.communicate()


def ask(address: str) -> str:
    """The version that answers."""
    client = openai.OpenAI(base_url=address, api_key="none", max_retries=0)
    messages: list = [{"role": "user", "content": "AURUM crash"}]
    model = client.chat.completions.create(model="babylon-agent", messages=messages, logprobs=True).model
    return re.findall(r"v\d+\.\d+\.\d+", model)[0]


def wait_until_answered_by(address: str, version: str, seconds: float = 30.0) -> None:
    limit = time.monotonic() + seconds
    while ask(address) != version:
        assert time.monotonic() < limit, f"{version} does not answer"
        time.sleep(0.2)


def deploy_next(settings: Settings, folder: Path, *, spoil: bool = False) -> None:
    """Deploys the base model with a little noise on its weights as the next version; spoiled on request."""
    import torch

    async def run() -> None:
        async with open_databases(settings) as db:
            number = len(await registry.list_models(db.rl))
            model, tokenizer = load_checkpoint(local_path(await registry.get(db.rl, "v0.0.0")))
            torch.manual_seed(number)
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter += 0.02 * torch.randn_like(parameter)
            path = folder / f"version-{number}"
            manifest = save_checkpoint(path, model, tokenizer, {"parent": "v0.0.0"})
            if spoil:
                (path / "model.safetensors").write_bytes(b"spoiled")
            record = await registry.register(
                db.rl, parent_version="v0.0.0", storage_path=path.as_uri(), manifest=manifest
            )
            await deploy(db.rl, None, record.version, reason="test", verdict_required=False)

    asyncio.run(run())


def register_base(settings: Settings) -> None:
    async def run() -> None:
        async with open_databases(settings) as db:
            await ensure_base(db.rl, settings)

    asyncio.run(run())


def test_it_follows_deployments_survives_a_corrupt_one_and_stops_cleanly(
    settings: Settings, home_with_base: Path, tmp_path: Path
) -> None:
    register_base(settings)
    log = tmp_path / "log.txt"
    with gateway(settings, log) as (process, address):
        assert ask(address) == "v0.0.0", "the base model, before anything is deployed"
        deploy_next(settings, tmp_path)
        wait_until_answered_by(address, "v0.0.1")

        deploy_next(settings, tmp_path, spoil=True)
        limit = time.monotonic() + 30
        while "v0.0.1" not in log.read_text() or "checksum" not in log.read_text():
            assert ask(address) == "v0.0.1" and time.monotonic() < limit
            time.sleep(0.2)
        assert ask(address) == "v0.0.1", "what works goes on"
        deploy_next(settings, tmp_path)
        wait_until_answered_by(address, "v0.0.3")

        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) in (0, -signal.SIGTERM, 128 + signal.SIGTERM)
    assert "Traceback" not in log.read_text(), log.read_text()
    port = int(re.findall(r":(\d+)/", address)[0])
    listen("127.0.0.1", port).close()


def test_an_occupied_port_is_said_before_anything_else(settings: Settings) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(PortInUseError, match=rf"Port {port} on 127\.0\.0\.1 is in use"):
            asyncio.run(run_gateway(settings, port=port))


def test_without_a_model_it_does_not_start(settings: Settings) -> None:
    with pytest.raises(UnknownVersionError, match=r"there is no model v0\.0\.0"):
        asyncio.run(run_gateway(settings, port=0))


@pytest.mark.long
def test_an_occupied_port_is_one_line_and_a_failure(settings: Settings) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        command = [*PROGRAM, "--port", str(other.getsockname()[1])]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode != 0 and done.stdout == ""
    [line] = done.stderr.strip().splitlines()
    assert "is in use" in line and "choose another port" in line
