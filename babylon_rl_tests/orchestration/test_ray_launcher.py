"""Runs as Ray jobs: the instance file of docs/scaling.md, a head node with its job server, a real run."""

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import dagster as dg
import httpx
import psutil
import pytest

from babylon_rl.orchestration.instance import open_instance
from babylon_rl.orchestration.runs import HOURLY_JOB, launch_through_workspace
from babylon_rl.settings import Settings, get_settings
from babylon_rl_tests.skipping import require_module

pytestmark = pytest.mark.long

WINDOW = "2026-10-02T14:00"
AGENTS = ["agent-1", "agent-2", "agent-3"]
LIMIT = 120


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def head(settings: Settings) -> Iterator[str]:
    """A Ray head with its job server, as `ray start --head` makes one; all of it ends with the test."""
    require_module("ray")
    require_module("dagster_ray")
    port, jobs = free_port(), free_port()
    with tempfile.TemporaryDirectory(dir="/tmp", ignore_cleanup_errors=True) as folder:
        line = ["--head", "--block", f"--port={port}", f"--dashboard-port={jobs}", "--num-cpus=1"]
        line += ["--include-dashboard=true", f"--temp-dir={folder}", "--object-store-memory=200000000"]
        here = str(Path(sys.executable).parent)
        command = [f"{here}/ray", "start", *line, "--disable-usage-stats"]
        # As in an activated environment: a job's command is `dagster api execute_run …`.
        active = {**os.environ, "PATH": f"{here}{os.pathsep}{os.environ['PATH']}"}
        with Path(folder, "head.log").open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, env=active)
        try:
            address = f"http://127.0.0.1:{jobs}"
            wait_for(address, process, Path(folder, "head.log"))
            yield address
        finally:
            root = psutil.Process(process.pid)
            family = [root, *root.children(recursive=True)]
            for one in family:
                one.kill()
            psutil.wait_procs(family, timeout=20)


def wait_for(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + LIMIT
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(f"{address}/api/version", timeout=5).status_code == 200:
                return
        except httpx.HTTPError:
            time.sleep(0.5)
    raise AssertionError(f"the job server did not start: {log.read_text()[-3000:]}")


@pytest.fixture
def on_ray(
    head: str, dagster_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> Iterator[dg.DagsterInstance]:
    monkeypatch.setenv("DAGSTER_INSTANCE_FILE", "deploy/dagster-ray.yaml")
    monkeypatch.setenv("RAY_JOBS_ADDRESS", head)
    get_settings.cache_clear()
    with open_instance(get_settings()) as instance:
        yield instance


def jobs_of(head: str) -> list[dict[str, Any]]:
    return httpx.get(f"{head}/api/jobs/", timeout=30).json()


def test_a_run_is_a_ray_job(head: str, on_ray: dg.DagsterInstance, record: Callable[..., None]) -> None:
    record(AGENTS, WINDOW)
    finished = launch_through_workspace(on_ray, HOURLY_JOB, WINDOW, timeout=LIMIT)
    run = on_ray.get_run_by_id(finished.run_id)
    assert run is not None and run.is_success
    (job,) = jobs_of(head)
    assert finished.run_id in job["submission_id"] and "execute_run" in job["entrypoint"]
    for asset in ("trajectories", "market_outcomes", "scored_groups"):
        assert on_ray.get_materialized_partitions(dg.AssetKey(asset)) == {WINDOW}


def test_a_run_whose_job_server_is_gone_fails_with_a_line_and_can_be_repeated(
    head: str, on_ray: dg.DagsterInstance, record: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    record(AGENTS, WINDOW)
    monkeypatch.setenv("RAY_JOBS_ADDRESS", f"http://127.0.0.1:{free_port()}")
    with open_instance(get_settings()) as nowhere, pytest.raises(ConnectionError, match="connect to Ray"):
        launch_through_workspace(nowhere, HOURLY_JOB, WINDOW, timeout=LIMIT)
    assert jobs_of(head) == []
    monkeypatch.setenv("RAY_JOBS_ADDRESS", head)
    finished = launch_through_workspace(on_ray, HOURLY_JOB, WINDOW, timeout=LIMIT)
    assert on_ray.get_run_by_id(finished.run_id).is_success  # type: ignore[union-attr]
