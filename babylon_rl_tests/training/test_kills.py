"""Kill -9 at every named point of a training: the rerun completes, one step is trained, one version is."""

import asyncio
import os
import shutil
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from babylon_rl.database.connection import connect
from babylon_rl.deployment.registry import list_models
from babylon_rl.policy.checkpoints import read_manifest
from babylon_rl.policy.engine import EmbeddedEngine
from babylon_rl.records.store import ArtifactStore
from babylon_rl.scoring.groups import ScoredGroup
from babylon_rl.settings import Settings
from babylon_rl.training import resolve
from babylon_rl.training.batch import BatchRules, build_batch
from babylon_rl.training.chunk_ledger import read_chunks
from babylon_rl.training.stages import EMBEDDED_STAGES, SERVERLESS_STAGES, Stage
from babylon_rl_tests.played import DAY, play_day, store_groups
from babylon_rl_tests.shared_database import dsn, file_dsn
from babylon_rl_tests.skipping import skip
from babylon_rl_tests.training_processes import Ended, Nursery
from babylon_rl_tests.training_server import TrainingServer

pytestmark = [pytest.mark.anyio, pytest.mark.long]

__all__ = ["dsn", "file_dsn"]

LEASE = 0.6
"""Seconds; a killed process blocks its unit for that long."""
CHUNKS = 2


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    with Nursery() as running:
        yield running


@pytest.fixture(scope="module")
def played(base_engine: EmbeddedEngine) -> list[ScoredGroup]:
    return play_day(base_engine, windows=4, agents=3, seed=4)


@pytest.fixture
async def rl(anyio_backend: str, dsn: str) -> AsyncIterator[asyncpg.Connection]:
    opened = await connect(dsn)
    yield opened
    await opened.close()


class Place:
    """A database, a home and a batch to be trained."""

    def __init__(
        self, nursery: Nursery, rl: asyncpg.Connection, settings: Settings, extra: dict[str, str]
    ) -> None:
        assert settings.database_url is not None
        self.nursery, self.rl, self.home = nursery, rl, settings.home
        self.environment = {
            "BABYLON_HOME": str(settings.home),
            "DATABASE_URL": settings.database_url.get_secret_value(),
            "TRAINING_LEASE_SECONDS": str(LEASE),
            "CHECKPOINT_FREQUENCY": "2",
            **extra,
        }

    async def train(self, **options: Any) -> Ended:
        return await asyncio.to_thread(self.nursery.train, self.environment, DAY, **options)

    async def train_after_lease(self, **options: Any) -> Ended:
        """Run again; a killed predecessor's lease has to run out first, which the refusal says."""
        for _ in range(40):
            ended = await self.train(**options)
            if ended.result.get("error") != "UnitBusyError":
                return ended
            assert "is being trained by" in ended.result["message"]
            await asyncio.sleep(0.1)
        raise AssertionError("the unit is blocked for ever")

    async def assert_trained_once(self) -> None:
        models = await list_models(self.rl)
        assert [(m.version, m.status) for m in models] == [("v0.0.1", "ready"), ("v0.0.0", "ready")]
        [unit] = await self.rl.fetch("SELECT * FROM rl.training_units")
        assert (unit["status"], unit["version"], unit["lease_until"]) == ("done", "v0.0.1", None)
        rows = await read_chunks(self.rl, unit["unit_key"])
        assert [(row.status, row.step_before, row.step_after) for row in rows] == [
            ("done", 0, 1),
            ("done", 1, 2),
        ]
        days = await self.rl.fetch("SELECT version, unit_key FROM rl.trained_days")
        assert [tuple(day) for day in days] == [("v0.0.1", unit["unit_key"])]
        windows = await self.rl.fetch("SELECT window_id, version FROM rl.trained_windows ORDER BY window_id")
        assert [tuple(window) for window in windows] == [(f"{DAY}T{h:02d}:00", "v0.0.1") for h in range(4)]
        shown = await self.rl.fetch('SELECT "modelVersion", "status" FROM "training_batches"')
        assert [tuple(row) for row in shown] == [("v0.0.1", "completed")]
        shown = await self.rl.fetch('SELECT "version", "status" FROM "trained_models"')
        assert [tuple(row) for row in shown] == [("v0.0.1", "ready")]


@pytest.fixture
async def prepare(
    settings: Settings,
    home_with_base: Path,
    nursery: Nursery,
    rl: asyncpg.Connection,
    played: list[ScoredGroup],
) -> Callable[[dict[str, str]], Any]:
    async def make(extra: dict[str, str]) -> Place:
        store = ArtifactStore(settings.home / "artifacts")
        await store_groups(rl, store, played)
        await build_batch(rl, store, DAY, BatchRules(min_groups=1, min_episodes=2))
        return Place(nursery, rl, settings, extra)

    return make


@pytest.fixture
async def embedded(prepare: Callable[[dict[str, str]], Any], settings: Settings) -> Place:
    return await prepare({"TRAINING_BACKEND": "embedded", "MODEL_STORAGE_URL": str(settings.home / "stored")})


@pytest.fixture
def remote() -> Iterator[TrainingServer]:
    with TrainingServer() as running:
        yield running


@pytest.fixture
async def serverless(prepare: Callable[[dict[str, str]], Any], remote: TrainingServer) -> Place:
    return await prepare(
        {
            "TRAINING_BACKEND": "auto",
            "WANDB_API_KEY": remote.api_key,
            "TRAINING_API_URL": remote.base_url,
            "TRAINING_POLL_SECONDS": "0.02",
            "TRAINING_GRACE_SECONDS": "2",
        }
    )


_expected: dict[str, dict[str, str]] = {}


async def test_a_training_that_nobody_disturbs(embedded: Place) -> None:
    """What the killed ones must arrive at; and every stage of its kind is passed."""
    ended = await embedded.train()
    assert ended.result == {"status": "trained", "version": "v0.0.1"}
    await embedded.assert_trained_once()
    [model, _] = await list_models(embedded.rl)
    _expected["files"] = model.manifest["files"]
    again = await embedded.train()
    assert again.result == {"status": "trained before", "version": "v0.0.1"}


def test_there_are_enough_points() -> None:
    assert len(EMBEDDED_STAGES) >= 20 and len(SERVERLESS_STAGES) >= 20


@pytest.mark.parametrize("stage", EMBEDDED_STAGES, ids=lambda stage: stage.name.lower())
async def test_embedded_survives_being_killed(embedded: Place, stage: Stage) -> None:
    killed = await embedded.train(kill_at=stage)
    assert killed.killed, f"{stage} was never reached: {killed.result}"
    ended = await embedded.train_after_lease()
    assert ended.result.get("version") == "v0.0.1", ended.result
    await embedded.assert_trained_once()
    [model, _] = await list_models(embedded.rl)
    assert model.manifest["files"] == _expected["files"], "the same bytes as without a kill"
    stored = embedded.home / "stored" / Path(str(model.storage_path)).name
    assert read_manifest(stored)["files"] == _expected["files"]
    assert not [p for p in os.listdir(embedded.home / "checkpoints") if p.startswith(".saving")]


@pytest.mark.parametrize("stage", SERVERLESS_STAGES, ids=lambda stage: stage.name.lower())
async def test_serverless_survives_being_killed(
    serverless: Place, remote: TrainingServer, stage: Stage
) -> None:
    killed = await serverless.train(kill_at=stage)
    assert killed.killed, f"{stage} was never reached: {killed.result}"
    ended = await serverless.train_after_lease()
    if stage is Stage.SUBMITTING:  # nobody can know that the POST was not sent
        assert ended.result["error"] == "UnitInDoubtError" and not remote.jobs
        [doubt] = await resolve.doubts(serverless.rl)
        await resolve.not_trained(serverless.rl, doubt.unit.unit_key)
        ended = await serverless.train()
    assert ended.result.get("version") == "v0.0.1", ended.result
    await serverless.assert_trained_once()
    assert remote.step == len(remote.jobs) == CHUNKS, "each chunk was submitted once"


@pytest.mark.parametrize(
    "stage", [Stage.SUBMITTED, Stage.JOB_NOTED, Stage.JOB_STARTED, Stage.CHUNK_RECORDED], ids=str
)
async def test_a_later_chunk_survives_too(serverless: Place, remote: TrainingServer, stage: Stage) -> None:
    assert (await serverless.train(kill_at=stage, occurrence=2)).killed
    ended = await serverless.train_after_lease()
    assert ended.result.get("version") == "v0.0.1", ended.result
    await serverless.assert_trained_once()
    assert remote.step == len(remote.jobs) == CHUNKS


async def test_killed_again_and_again(embedded: Place) -> None:
    for stage in (Stage.CHUNK_STARTED, Stage.FILES_WRITTEN, Stage.UPLOAD_STARTED, Stage.REGISTERED):
        ended = await embedded.train_after_lease(kill_at=stage)
        assert ended.killed, ended.result
    ended = await embedded.train_after_lease()
    assert ended.result["status"] == "trained"
    await embedded.assert_trained_once()


@pytest.mark.parametrize("stage", [Stage.GRADIENT_STEP, Stage.PUBLISHING], ids=str)
async def test_a_trainer_stopped_past_its_lease_does_not_publish(embedded: Place, stage: Stage) -> None:
    pid = await asyncio.to_thread(embedded.nursery.start, embedded.environment, DAY, stop_at=stage)
    await _until_stopped(pid)
    await asyncio.sleep(LEASE)
    successor = embedded.train_after_lease()
    if stage is Stage.PUBLISHING:
        # It stands inside its transaction and holds the unit's row: the successor waits for it, then finds
        # the version that it makes.
        waiting = asyncio.create_task(successor)
        await asyncio.sleep(0.5)
        os.kill(pid, signal.SIGCONT)
        first = await asyncio.to_thread(embedded.nursery.wait, pid)
        assert first.result == {"status": "trained", "version": "v0.0.1"}
        assert (await waiting).result["version"] == "v0.0.1"
    else:
        assert (await successor).result == {"status": "trained", "version": "v0.0.1"}
        os.kill(pid, signal.SIGCONT)
        late = await asyncio.to_thread(embedded.nursery.wait, pid)
        assert late.result["error"] == "LostLeaseError" and "Nothing was published" in late.result["message"]
    await embedded.assert_trained_once()


async def test_of_two_triggers_one_trains_and_the_other_says_why_not(embedded: Place) -> None:
    first = await asyncio.to_thread(
        embedded.nursery.start, embedded.environment, DAY, stop_at=Stage.CHUNK_STARTED
    )
    await _until_stopped(first)
    second = await embedded.train()
    assert second.result["error"] == "UnitBusyError"
    assert f":{first} until at least" in second.result["message"]
    os.kill(first, signal.SIGCONT)
    assert (await asyncio.to_thread(embedded.nursery.wait, first)).result["status"] == "trained"
    await embedded.assert_trained_once()


async def test_a_database_that_is_lost_in_the_middle(embedded: Place, dsn: str) -> None:
    """Every connection is cut while the first chunk trains: a clear error, and the rerun completes."""
    pid = await asyncio.to_thread(
        embedded.nursery.start, embedded.environment, DAY, stop_at=Stage.WEIGHTS_TRAINED
    )
    await _until_stopped(pid)
    cut = """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
              WHERE datname = current_database() AND pid <> pg_backend_pid()"""
    await embedded.rl.execute(cut)
    os.kill(pid, signal.SIGCONT)
    lost = await asyncio.to_thread(embedded.nursery.wait, pid)
    assert lost.result["error"] == "LostDatabaseError", lost.result
    assert "the database was lost" in lost.result["message"] and "again" in lost.result["message"]
    ended = await embedded.train_after_lease()
    assert ended.result["status"] == "trained"
    await embedded.assert_trained_once()


async def test_a_disk_that_is_full_while_the_checkpoint_is_written(embedded: Place, tmp_path: Path) -> None:
    """A file system of half a megabyte; freeing space and running again is all it takes."""
    small = embedded.home / "checkpoints"
    small.mkdir(parents=True)
    mounted = await _run("mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(small))
    if mounted:
        skip("a small file system cannot be mounted here")
    try:
        full = await embedded.train()
        assert full.result["error"] == "CheckpointStorageError", full.result
        assert (
            "No space left on device" in full.result["message"]
            and "Free some space" in full.result["message"]
        )
        assert not os.listdir(small)
        assert [model.version for model in await list_models(embedded.rl)] == ["v0.0.0"]
    finally:
        await _run("umount", str(small))
    ended = await embedded.train()
    assert ended.result["status"] == "trained"
    await embedded.assert_trained_once()


async def _run(*command: str) -> int:
    if shutil.which(command[0]) is None:
        return 1
    process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.DEVNULL)
    return await process.wait()


async def _until_stopped(pid: int) -> None:
    until = time.monotonic() + 60
    while _state(pid) != "T":
        assert time.monotonic() < until, "the process never stopped"
        await asyncio.sleep(0.05)


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
