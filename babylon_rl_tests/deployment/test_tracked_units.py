"""A training in W&B: the real client against a server with its protocol, online, offline and synced."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from babylon_rl.database.connection import Databases, open_databases
from babylon_rl.deployment import registry
from babylon_rl.deployment.candidates import DayTraining, train_day
from babylon_rl.deployment.storage import local_path
from babylon_rl.orchestration.resources import WandbResource
from babylon_rl.policy.engine import EmbeddedEngine
from babylon_rl.records.store import ArtifactStore
from babylon_rl.scoring.groups import ScoredGroup
from babylon_rl.settings import Settings, get_settings
from babylon_rl.tracking import open as opening
from babylon_rl.tracking import run_id
from babylon_rl.training.batch import BatchRules, build_batch
from babylon_rl_tests.played import DAY, play_day, store_groups
from babylon_rl_tests.wandb_server import WandbServer, md5

pytestmark = pytest.mark.anyio

KEY = "k" * 40


@pytest.fixture(scope="module")
def played(base_engine: EmbeddedEngine) -> list[ScoredGroup]:
    return play_day(base_engine, windows=2, agents=4, seed=4)


@pytest.fixture
def wandb() -> Iterator[WandbServer]:
    with WandbServer() as running:
        yield running


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Undoes, at the end, what the client and we set."""
    for name in list(os.environ):
        if name.startswith("WANDB_"):
            monkeypatch.delenv(name)
    for name in (
        "DIR",
        "DATA_DIR",
        "CACHE_DIR",
        "CONFIG_DIR",
        "MODE",
        "BASE_URL",
        "SILENT",
        "ERROR_REPORTING",
    ):
        monkeypatch.setenv(f"WANDB_{name}", "offline" if name == "MODE" else "")


@pytest.fixture
async def db(
    anyio_backend: str, settings: Settings, home_with_base: Path, played: list[ScoredGroup]
) -> AsyncIterator[Databases]:
    async with open_databases(settings) as databases:
        store = ArtifactStore(settings.home / "artifacts")
        await store_groups(databases.rl, store, played)
        await build_batch(databases.rl, store, DAY, BatchRules(min_groups=1, min_episodes=2))
        yield databases


async def train(
    db: Databases, settings: Settings, monkeypatch: pytest.MonkeyPatch, **tracking: object
) -> DayTraining:
    """As the asset does it: the W&B resource follows the process's settings."""
    tracked = settings.model_copy(update=tracking)
    get_settings.cache_clear()
    monkeypatch.setattr("babylon_rl.orchestration.resources.get_settings", lambda: tracked)
    track = WandbResource().tracker("dagster-run")
    # The key is W&B's alone here; the training itself stays embedded.
    return await train_day(db, ArtifactStore(settings.home / "artifacts"), settings, DAY, track=track)


def online(wandb: WandbServer) -> dict[str, object]:
    return {
        "wandb_mode": "online",
        "wandb_api_key": SecretStr(KEY),
        "wandb_entity": "team",
        "wandb_base_url": wandb.base_url,
    }


def check(wandb: WandbServer, trained: DayTraining, settings: Settings) -> None:
    """What W&B must have of a training, whichever way it came there."""
    unit = str(trained.unit_key)
    run = run_id(DAY, "train", unit[:16])
    assert wandb.unknown == [] and list(wandb.runs) == [run]
    rows = wandb.history(run)
    assert [row["step"] for row in rows] == list(range(1, 17))
    assert [row["loss/train"] for row in rows] == pytest.approx(trained.metrics["losses"])
    assert all(row["throughput/trainer_tokens_per_s"] > 0 for row in rows)
    summary = wandb.summary(run)
    assert summary["version"] == "v0.0.1" and summary["costs/actual_usd"] == 0
    config = wandb.config(run)
    assert config["unit_key"] == unit and config["dagster_run"] == "dagster-run" and config["learning_rate"]
    assert set(wandb.runs[run]["tags"]) == {"embedded", "babylon-tiny", "live"}
    by_name = {artifact.name: artifact for artifact in wandb.artifacts}
    batch, model = by_name["training_batch"], by_name["babylon-agent"]
    assert {artifact.state for artifact in by_name.values()} == {"COMMITTED"}
    assert batch.metadata["sha256"] == trained.batch.sha256 and DAY in batch.aliases
    assert model.type == "model" and {"step1", "latest", f"unit-{unit[:16]}"} <= set(model.aliases)
    assert model.metadata["parent"] == "v0.0.0" and model.metadata["files"] == trained.model.manifest["files"]
    assert [entry["digest"] for entry in model.metadata["inputs"]] == [batch.digest]
    folder = local_path(trained.model, settings)
    arrived = {name: entry["digest"] for name, entry in model.manifest["contents"].items()}
    assert arrived == {file.name: md5(file.read_bytes()) for file in folder.iterdir()}
    for name in arrived:
        assert wandb.blobs[f"files/{model.id}/{name}"] == (folder / name).read_bytes()
    noted = trained.metrics["wandb"]
    assert noted["wandb_run_id"] == run and noted["degraded"] is None
    assert noted["wandb_artifact_id"] == f"babylon-agent@{model.digest}"
    sent = b"".join(wandb.blobs.values()) + json.dumps(wandb._stream).encode()
    assert b"Trade perpetuals" not in sent.replace((folder / "tokenizer.json").read_bytes(), b"")
    assert KEY.encode() not in sent


async def test_online(
    db: Databases, settings: Settings, wandb: WandbServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = await train(db, settings, monkeypatch, **online(wandb))
    check(wandb, trained, settings)
    assert wandb.exit_code(trained.metrics["wandb"]["wandb_run_id"]) == 0 and wandb.keys == {KEY}
    [batch] = [artifact.id for artifact in wandb.artifacts if artifact.name == "training_batch"]
    assert wandb.used == [(trained.metrics["wandb"]["wandb_run_id"], batch)]
    shown = await db.game.fetchrow('SELECT "wandbRunId", "wandbArtifactId" FROM "trained_models"')
    assert shown is not None and shown["wandbRunId"] in wandb.runs


async def test_offline_and_synced_later(
    db: Databases, settings: Settings, wandb: WandbServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = await train(db, settings, monkeypatch, wandb_mode="offline")
    assert wandb.requests == []
    [folder] = (settings.home / "wandb").rglob("offline-run-*")
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("WANDB_")},
        "WANDB_BASE_URL": wandb.base_url,
        "WANDB_API_KEY": KEY,
        "WANDB_ENTITY": "team",
        "WANDB_DIR": str(settings.home / "synced"),
    }
    command = [sys.executable, "-m", "wandb", "sync", "--yes", str(folder)]
    synced = await asyncio.to_thread(
        subprocess.run, command, env=environment, capture_output=True, text=True, timeout=120
    )
    assert synced.returncode == 0, synced.stdout + synced.stderr
    check(wandb, trained, settings)


async def test_a_second_attempt_continues_the_same_run(
    db: Databases, settings: Settings, wandb: WandbServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("disk is gone")

    with monkeypatch.context() as broken:
        broken.setattr("babylon_rl.deployment.unit_training.registry.register", fail)
        with pytest.raises(OSError, match="disk is gone"):
            await train(db, settings, monkeypatch, **online(wandb))
    [run] = wandb.runs
    assert wandb.exit_code(run) == 1
    trained = await train(db, settings, monkeypatch, **online(wandb))
    assert list(wandb.runs) == [run] and wandb.exit_code(run) == 0
    assert trained.metrics["wandb"]["wandb_run_id"] == run
    assert len([a for a in wandb.artifacts if a.name == "babylon-agent"]) == 1, (
        "the same content, one version"
    )


@pytest.mark.parametrize("status", [401, 500])
async def test_a_server_that_refuses_everything_fails_no_training(
    db: Databases, settings: Settings, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    monkeypatch.setattr(opening, "INIT_TIMEOUT", 3.0)
    monkeypatch.setattr(opening, "FINISH_TIMEOUT", 3.0)
    with WandbServer(refuse=status) as wandb:
        trained = await train(db, settings, monkeypatch, **online(wandb))
    assert trained.status == "trained" and trained.metrics["wandb"]["degraded"]
    assert [model.status for model in await registry.list_models(db.rl)] == ["ready", "ready"]


async def test_without_wandb_nothing_is_written(
    db: Databases, settings: Settings, wandb: WandbServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = await train(db, settings, monkeypatch, wandb_mode="none", wandb_base_url=wandb.base_url)
    assert trained.status == "trained" and wandb.requests == []
    assert not (settings.home / "wandb").exists()
