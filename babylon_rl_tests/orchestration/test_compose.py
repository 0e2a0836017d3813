"""compose.yaml as its services run it, and the CI workflow of the docs against them; without containers."""

import asyncio
import fnmatch
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from babylon_rl.database.connection import open_databases
from babylon_rl.deployment.candidates import ensure_base
from babylon_rl.orchestration.instance import REPOSITORY
from babylon_rl.policy.engine import EmbeddedEngine
from babylon_rl.records.store import ArtifactStore
from babylon_rl.settings import Settings, get_settings
from babylon_rl_tests.end_to_end.test_dev import free_port
from babylon_rl_tests.played import play_day, store_groups
from babylon_rl_tests.skipping import require_tool

COMPOSE: dict[str, Any] = yaml.safe_load((REPOSITORY / "compose.yaml").read_text())["services"]
WORKFLOW = yaml.safe_load((REPOSITORY / "docs/examples/train.yml").read_text())
DAYS, WINDOWS, AGENTS = ("2026-10-02", "2026-10-03"), 3, 4
TOKEN = "admin-token-0123456789"
SETTLED = """
INSERT INTO rl.recorded_windows (window_id, rows, agents, good_rows, fingerprint, taken, settled)
VALUES ($1, $2, $2, $2, 'f', 'f', true)
"""
EMPTY = """
INSERT INTO rl.window_state (window_id, rows, agents, episodes, group_status)
SELECT to_char(hour, 'YYYY-MM-DD"T"HH24:MI'), 0, 0, 0, 'empty'
  FROM generate_series($1::text::timestamp, $1::text::timestamp + interval '23 hours', interval '1 hour')
       AS hour
    ON CONFLICT DO NOTHING
"""


def test_every_service_waits_for_what_it_needs_and_is_checked():
    assert set(COMPOSE) == {"migrate", "code", "webserver", "daemon", "gateway", "admin"}
    for name, service in COMPOSE.items():
        for needed, how in service.get("depends_on", {}).items():
            checked = "healthcheck" in COMPOSE[needed]
            assert how["condition"] == ("service_healthy" if checked else "service_completed_successfully")
        assert ("healthcheck" in service) == (name != "migrate")
        published = [port.split(":") for port in service.get("ports", [])]
        assert all(address == "127.0.0.1" for address, *_ in published)


def test_the_image_gets_what_it_copies_and_nothing_secret():
    text = (REPOSITORY / "deploy" / "Dockerfile").read_text()
    copied = [word for line in text.splitlines() if line.startswith("COPY") for word in line.split()[1:-1]]
    lines = (REPOSITORY / ".dockerignore").read_text().splitlines()
    allowed = [line[1:] for line in lines if line.startswith("!")]
    assert "*" in lines and copied
    for path in copied:
        assert (REPOSITORY / path).exists(), path
        assert path.split("/")[0] in allowed, path
    for secret in (".env", "production.env", ".babylon", ".git"):
        assert not any(fnmatch.fnmatch(secret, pattern) for pattern in allowed)


class Composed:
    """Starts the services in the order of `depends_on`, with free ports instead of those of the file."""

    def __init__(self, environment: dict[str, str], folder: Path) -> None:
        self.environment, self.folder = environment, folder
        self.ports = {name: free_port() for name in ("code", "webserver", "gateway", "admin")}
        self.started: dict[str, psutil.Popen] = {}

    def up(self, name: str) -> None:
        """Starts a service after those that it needs, and waits until its healthcheck succeeds."""
        service = COMPOSE[name]
        for needed in service.get("depends_on", {}):
            if needed not in self.started:
                self.up(needed)
        line = self._line(service["command"], name)
        if "--code-host" in line:
            line += ["--code-port", str(self.ports["code"])]
        with (self.folder / f"{name}.log").open("wb") as log:
            # As a script starts it in the background: with SIGINT ignored.
            line = ["sh", "-c", 'trap "" INT; exec "$@"', "sh", *line]
            self.started[name] = psutil.Popen(line, env=self._environment(service), stdout=log, stderr=log)
        if "healthcheck" not in service:
            assert self.started[name].wait(timeout=120) == 0, self.log(name)
            return
        deadline = time.monotonic() + 180
        while not self.healthy(name):
            assert self.started[name].is_running() and time.monotonic() < deadline, self.log(name)

    def healthy(self, name: str) -> bool:
        kind, program, *arguments = COMPOSE[name]["healthcheck"]["test"]
        assert (kind, program) == ("CMD", "babylon")
        checked = subprocess.run(
            self._line(arguments, name), env=self._environment(COMPOSE[name]), capture_output=True, text=True
        )
        assert checked.returncode in (0, 1), checked.stderr
        return checked.returncode == 0

    def down(self) -> dict[str, int]:
        """Stops them as `docker stop` does, the last one first; returns the exit statuses."""
        statuses = {}
        for name, process in reversed(self.started.items()):
            family = process.children(recursive=True) if process.is_running() else []
            if process.is_running():
                process.terminate()
            statuses[name] = process.wait(timeout=60)
            _, alive = psutil.wait_procs(family, timeout=20)
            assert not alive, f"{name} left {alive}"
        return statuses

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(errors="replace")[-3000:]

    def _line(self, arguments: list[str], name: str) -> list[str]:
        """`babylon` with the file's arguments; the other containers are this machine."""
        here = ["127.0.0.1" if argument in COMPOSE else argument for argument in arguments[3:]]
        ports = ["--port", str(self.ports[name])] if name in self.ports else []
        return [sys.executable, "-m", "babylon_rl.cli", *arguments[:3], *here, *ports]

    def _environment(self, service: dict[str, Any]) -> dict[str, str]:
        stated = dict(service["environment"])
        assert stated["DAGSTER_URL"] == "http://webserver:3000"
        stated["DAGSTER_URL"] = f"http://127.0.0.1:{self.ports['webserver']}"
        return {**self.environment, **stated}


@pytest.fixture
def composed(
    settings: Settings,
    dsn: str,
    empty_dsn: str,
    home_with_base: Path,
    base_engine: EmbeddedEngine,
    tmp_path: Path,
) -> Iterator[Composed]:
    """The services on two days of which a few windows were played, in an environment of their own."""
    groups = [
        group
        for number, day in enumerate(DAYS)
        for group in play_day(base_engine, WINDOWS, AGENTS, day=day, seed=number)
    ]

    async def store() -> None:
        async with open_databases(get_settings()) as db:
            await ensure_base(db.rl, get_settings())
            await store_groups(db.rl, ArtifactStore(settings.home / "artifacts"), groups)
            await db.rl.execute("UPDATE rl.window_state SET episodes = agents")
            await db.rl.executemany(EMPTY, [(day,) for day in DAYS])
            for group in groups:
                await db.rl.execute(SETTLED, group.window_id, AGENTS)

    asyncio.run(store())
    environment = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    environment |= {"BABYLON_HOME": str(settings.home), "DATABASE_URL": dsn, "DAGSTER_PG": empty_dsn}
    environment |= {"ADMIN_TOKEN": TOKEN, "GATEWAY_API_KEYS": "gateway-key-0123456789"}
    # Nothing here was asked of the gateway.
    environment |= {"UNCONFIRMED_CALLS": "train"}
    environment |= {"TRAINING_MIN_TRAJECTORIES": "4", "TRAINING_MIN_GROUPS": "2", "WANDB_MODE": "none"}
    services = Composed(environment, tmp_path)
    yield services
    for process in services.started.values():
        if process.is_running():
            for child in [*process.children(recursive=True), process]:
                child.kill()


def workflow(url: str, token: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs the shell step of docs/examples/train.yml as a runner does, asking every second."""
    [step] = WORKFLOW["jobs"]["train"]["steps"]
    values = {
        "${{ vars.BABYLON_ADMIN_URL }}": url,
        "${{ secrets.BABYLON_ADMIN_TOKEN }}": token,
        "${{ inputs.day }}": "",
    }
    script = folder / "step.sh"
    script.write_text("sleep() { command sleep 1; }\n" + step["run"])
    environment = {"PATH": os.environ["PATH"]} | {name: values[text] for name, text in step["env"].items()}
    line = ["bash", "--noprofile", "--norc", "-eo", "pipefail", str(script)]
    return subprocess.run(line, env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.long
def test_the_services_run_as_the_compose_file_says_and_the_workflow_trains(
    composed: Composed, tmp_path: Path
):
    require_tool("jq")
    require_tool("curl")
    for name in COMPOSE:
        if name not in composed.started:
            composed.up(name)
    for name in COMPOSE.keys() - {"migrate"}:
        assert composed.healthy(name), composed.log(name)
    url = f"http://127.0.0.1:{composed.ports['admin']}"
    refused = workflow(url, "another-token-0123456789", tmp_path)
    assert refused.returncode != 0 and "not started" in refused.stdout, refused
    # On the hour the schedule takes a day by itself: one is left for the workflow, none for its last call.
    trained, *_, last = [workflow(url, TOKEN, tmp_path) for _ in range(len(DAYS) + 1)]
    assert trained.returncode == 0 and trained.stdout.splitlines()[-1].endswith("succeeded"), trained
    assert last.returncode == 0 and "::notice::not started" in last.stdout, last
    statuses = composed.down()
    assert set(statuses.values()) <= {0, -15}, json.dumps(statuses)
    assert not composed.healthy("webserver")
