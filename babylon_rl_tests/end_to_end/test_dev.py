"""`babylon dev`: UI, daemon and gateway come up together and leave together."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import psutil
import pytest

from babylon_rl.settings import Settings


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(url: str, seconds: float = 120.0) -> httpx.Response:
    deadline = time.monotonic() + seconds
    while True:
        try:
            return httpx.get(url, timeout=5)
        except httpx.HTTPError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


@pytest.mark.long
def test_everything_starts_answers_and_stops_on_ctrl_c(
    settings: Settings, home_with_base: Path, empty_dsn: str, tmp_path: Path
):
    ui, gateway, admin = free_port(), free_port(), free_port()
    names = ("BABYLON_HOME", "DATABASE_URL", "PATH")
    environment = {name: os.environ[name] for name in names}
    environment |= {"DAGSTER_PG": empty_dsn, "PORT": str(gateway), "WANDB_MODE": "none"}
    environment |= {"ADMIN_PORT": str(admin)}
    log = tmp_path / "dev.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            # As a script starts it in the background: with SIGINT ignored.
            ["sh", "-c", 'trap "" INT; exec "$@"', "sh"]
            + [sys.executable, "-m", "babylon_rl.cli", "dev", "--port", str(ui)],
            env=environment,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    try:
        assert "dagster_webserver_version" in wait_for(f"http://127.0.0.1:{ui}/server_info").json()
        answer = httpx.post(
            f"http://127.0.0.1:{ui}/graphql",
            json={"query": "{ assetNodes { assetKey { path } } }"},
            timeout=60,
        ).json()
        keys = {node["assetKey"]["path"][0] for node in answer["data"]["assetNodes"]}
        assert {"trajectories", "trained_checkpoint", "deployed_model"} <= keys
        wait_for(f"http://127.0.0.1:{gateway}/v1/models")
        page = wait_for(f"http://127.0.0.1:{admin}/admin/training")
        assert page.status_code == 200 and "token " in log.read_text()
        family = psutil.Process(process.pid).children(recursive=True)
        assert len(family) >= 5, "webserver, daemon, code server, gateway, dashboard"
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=90) == 0, log.read_text()[-2000:]
        gone, alive = psutil.wait_procs(family, timeout=30)
        assert not alive, [child.cmdline() for child in alive]
        assert "stopped" in log.read_text()
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
