"""The admin API with a real Dagster: webserver, daemon, queue, and a run that trains the tiny model."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from babylon_rl.database.connection import connect, open_databases
from babylon_rl.deployment.candidates import ensure_base
from babylon_rl.orchestration.instance import LIBRARY_ENVIRONMENT, prepare_dagster_home, workspace_file
from babylon_rl.policy.engine import EmbeddedEngine
from babylon_rl.records.store import ArtifactStore
from babylon_rl.settings import Settings, get_settings
from babylon_rl_tests.api.conftest import Admin, admin_settings
from babylon_rl_tests.end_to_end.test_dev import free_port
from babylon_rl_tests.played import play_day, store_groups

DAY, NEXT = "2026-10-02", "2026-10-03"
WINDOWS, AGENTS = 4, 6
TRIGGER = "/api/admin/training/trigger"

_KNOWN = """
INSERT INTO rl.recorded_windows (window_id, rows, agents, good_rows, fingerprint, taken, settled)
VALUES ($1, $2, $2, $2, 'f', 'f', true)
"""
_ROW = """
INSERT INTO rl.window_rows (trajectory_id, agent_id, window_id, start_time, created_at, fingerprint)
VALUES ($1, 'agent-0', $2, now() AT TIME ZONE 'UTC', now() AT TIME ZONE 'UTC', 'f')
"""


@pytest.fixture
def played(
    monkeypatch: pytest.MonkeyPatch,
    settings: Settings,
    home_with_base: Path,
    empty_dsn: str,
    base_engine: EmbeddedEngine,
    dsn: str,
) -> Settings:
    """Two scored days of the base model, and a Dagster storage of its own."""
    for name in ("DAGSTER_HOME", *LIBRARY_ENVIRONMENT):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("DAGSTER_PG", empty_dsn)
    monkeypatch.setenv("WANDB_MODE", "none")
    get_settings.cache_clear()
    groups = [
        group
        for number, day in enumerate((DAY, NEXT))
        for group in play_day(base_engine, WINDOWS, AGENTS, day=day, seed=number)
    ]

    async def store() -> None:
        async with open_databases(get_settings()) as db:
            await ensure_base(db.rl, get_settings())
            await store_groups(db.rl, ArtifactStore(settings.home / "artifacts"), groups)
            await db.rl.execute("UPDATE rl.window_state SET episodes = agents")
            for group in groups:
                await db.rl.execute(_KNOWN, group.window_id, AGENTS)
                await db.rl.execute(_ROW, f"row of {group.window_id}", group.window_id)

    asyncio.run(store())
    return get_settings()


@pytest.fixture
def dagster_url(played: Settings, tmp_path: Path) -> Iterator[str]:
    """`dagster dev` on the instance of these settings."""
    home, port = prepare_dagster_home(played), free_port()
    names = ("BABYLON_HOME", "DATABASE_URL", "DAGSTER_PG", "PATH", "WANDB_MODE", *LIBRARY_ENVIRONMENT)
    environment = {name: os.environ[name] for name in names} | {"DAGSTER_HOME": str(home)}
    command = [sys.executable, "-m", "dagster", "dev", "-w", str(workspace_file()), "-h", "127.0.0.1"]
    with (tmp_path / "dagster.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "-p", str(port)], env=environment, stdout=log, stderr=log, start_new_session=True
        )
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                httpx.get(f"{url}/server_info", timeout=5)
                break
            except httpx.HTTPError:
                assert process.poll() is None and time.monotonic() < deadline
                time.sleep(0.5)
        yield url
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def until(admin: Admin, job: str, *statuses: str, seconds: float = 240) -> tuple[dict[str, Any], list[float]]:
    """The job once it has one of the statuses, and the progress that it told on the way."""
    told: list[float] = []
    deadline = time.monotonic() + seconds
    while True:
        body = admin.get(f"/api/admin/training/jobs/{job}").json()
        told.append(body["progress"])
        if body["status"] in statuses:
            return body, told
        assert body["status"] in ("starting", "queued", "running"), body
        assert time.monotonic() < deadline, body
        time.sleep(0.3)


@pytest.mark.long
def test_trigger_trains_with_a_real_run_and_cancel_stops_one(
    played: Settings, dagster_url: str, dsn: str
) -> None:
    with Admin(admin_settings(played, dagster_url=dagster_url)) as admin:
        refused = admin.post(TRIGGER)
        assert refused.status_code == 409 and "more trajectories" in refused.json()["error"]

        started = admin.post(TRIGGER, {"force": True, "batchSize": 10})
        assert started.status_code == 202, started.text
        job = started.json()["jobId"]
        answer = httpx.post(
            f"{dagster_url}/graphql",
            json={"query": f'{{ runOrError(runId: "{job}") {{ ... on Run {{ jobName }} }} }}'},
            timeout=60,
        ).json()
        assert answer["data"]["runOrError"]["jobName"] == "daily_job", "the id is Dagster's own"
        busy = admin.post(TRIGGER, {"force": True})
        assert busy.status_code == 409 and busy.json()["jobId"] == job
        body, told = until(admin, job, "succeeded")
        assert told == sorted(told) and told[-1] == 1.0 and any(0 < one < 1 for one in told)
        assert body["modelVersion"] == "v0.0.1" and body["day"] == DAY
        versions = {m["version"] for m in admin.get("/api/admin/training/models").json()["models"]}
        assert versions == {"v0.0.0", "v0.0.1"}
        dashboard = admin.get("/api/admin/training/dashboard").json()
        assert dashboard["curve"][0]["version"] == "v0.0.1"
        assert dashboard["curve"][0]["model"]["low"] is not None

        async def trained() -> Any:
            connection = await connect(dsn)
            episodes = await connection.fetchval(
                "SELECT episodes FROM rl.training_batches WHERE status = 'ready'"
            )
            await connection.execute(
                """INSERT INTO training_batches
                          ("id", "batchId", "baseModel", "modelVersion", "trajectoryIds", "rewardsJson")
                   VALUES ('asked', 'asked', 'tiny', 'v0.0.0', $1, '[]')""",
                f'["row of {NEXT}T00:00"]',
            )
            await connection.close()
            return episodes

        assert 2 <= asyncio.run(trained()) <= 10

        claimed = admin.post("/train", {"batchId": "asked", "source": "test"})
        assert claimed.status_code in (202, 409), claimed.text  # the follower may have been faster
        job = admin.get("/api/admin/training/status").json()["automation"]["training"]["currentJob"]
        until(admin, job, "running")
        assert admin.post(f"/api/admin/training/jobs/{job}/cancel").status_code == 202
        until(admin, job, "cancelled", seconds=90)

        async def status() -> Any:
            connection = await connect(dsn)
            try:
                return await connection.fetchval(
                    'SELECT "status" FROM training_batches WHERE "id" = \'asked\''
                )
            finally:
                await connection.close()

        deadline = time.monotonic() + 10
        while asyncio.run(status()) != "failed":
            assert time.monotonic() < deadline
            time.sleep(0.2)
