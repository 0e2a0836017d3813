"""Processes that die over a training day, or meet over it, under both groupings."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from babylon_rl.database.connection import Databases, open_databases
from babylon_rl.orchestration.alerts import find_alerts
from babylon_rl.training.stages import Stage
from babylon_rl_tests.deployment.scored_days import DAY, TrainingDay, dsn, scored_day, training_day
from babylon_rl_tests.training_processes import Nursery

__all__ = ["dsn", "scored_day", "training_day"]

pytestmark = [pytest.mark.anyio, pytest.mark.long]

LEASE = "0.6"
LIMIT = 180
"""Seconds after which a command counts as stuck."""


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    with Nursery() as running:
        yield running


@pytest.fixture
async def db(training_day: TrainingDay) -> AsyncIterator[Databases]:
    async with open_databases(training_day.settings) as databases:
        await training_day.build(databases)
        yield databases


@pytest.fixture
def environment(training_day: TrainingDay, dsn: str) -> dict[str, str]:
    names = ("BABYLON_HOME", "PATH", "GROUPING", "RESAMPLE_PROMPTS", "RESAMPLE_ANSWERS")
    return {name: os.environ[name] for name in names} | {
        "DATABASE_URL": dsn,
        "TRAINING_LEASE_SECONDS": LEASE,
        "TRAINING_MIN_GROUPS": "1",
        "TRAINING_MIN_TRAJECTORIES": "2",
        "WANDB_MODE": "none",
    }


async def state(db: Databases) -> dict[str, list[str]]:
    """Versions, units and trained days."""
    queries = {
        "versions": "SELECT version FROM rl.models ORDER BY 1",
        "units": "SELECT status FROM rl.training_units",
        "days": "SELECT version FROM rl.trained_days",
    }
    return {name: [row[0] for row in await db.rl.fetch(query)] for name, query in queries.items()}


TRAINED_ONCE = {"versions": ["v0.0.0", "v0.0.1"], "units": ["done"], "days": ["v0.0.1"]}


async def test_a_training_that_died_hours_ago_is_told_and_finished_by_the_next(
    training_day: TrainingDay, db: Databases, nursery: Nursery, environment: dict[str, str]
) -> None:
    killed = await asyncio.to_thread(nursery.train, environment, DAY, kill_at=Stage.GRADIENT_STEP)
    assert killed.killed, killed.result
    long_ago = "now() - interval '5 hours'"
    await db.rl.execute(f"UPDATE rl.training_units SET started_at = {long_ago}, lease_until = {long_ago}")
    stuck = await find_alerts(db.rl, training_day.settings, datetime.now(UTC))
    assert "stuck_training" in {alert.kind for alert in stuck}
    ended = await asyncio.to_thread(nursery.train, environment, DAY)
    assert ended.result == {"status": "trained", "version": "v0.0.1"}
    assert await state(db) == TRAINED_ONCE
    calm = await find_alerts(db.rl, training_day.settings, datetime.now(UTC))
    assert "stuck_training" not in {alert.kind for alert in calm}


async def test_a_worker_and_a_command_do_not_train_one_batch_twice(
    db: Databases, nursery: Nursery, environment: dict[str, str], empty_dsn: str
) -> None:
    worker = await asyncio.to_thread(nursery.start, environment, DAY, stop_at=Stage.CHUNK_STARTED)
    await _until_stopped(worker)
    await db.rl.execute("UPDATE rl.training_units SET lease_until = now() + interval '1 hour'")
    command = environment | {"DAGSTER_PG": empty_dsn, "OMP_NUM_THREADS": "1"}
    refused = await asyncio.to_thread(_train, command)
    assert refused.returncode != 0 and f":{worker} until at least" in " ".join(refused.stderr.split())
    os.kill(worker, signal.SIGCONT)
    ended = await asyncio.to_thread(nursery.wait, worker)
    assert ended.result == {"status": "trained", "version": "v0.0.1"}
    again = await asyncio.to_thread(_train, command)
    assert again.returncode == 0, again.stderr
    assert await state(db) == TRAINED_ONCE


def _train(environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "babylon_rl.cli", "train", "--day", DAY]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=LIMIT)


async def _until_stopped(pid: int) -> None:
    until = time.monotonic() + 60
    while _state(pid) != "T":
        assert time.monotonic() < until, "the process never stopped"
        await asyncio.sleep(0.05)


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
