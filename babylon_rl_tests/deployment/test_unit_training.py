"""One unit on any backend: chunks, upload, completion, cost, tracking, exact marks; and what goes wrong."""

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from babylon_rl.database.connection import Databases, open_databases
from babylon_rl.deployment import model_storage, registry
from babylon_rl.deployment.candidates import REPEATED, TRAINED, DayTraining, train_day
from babylon_rl.deployment.errors import BaseModelMismatchError
from babylon_rl.deployment.judging import judge
from babylon_rl.deployment.lineage import parent_for_training
from babylon_rl.deployment.model_storage import ModelStorageError
from babylon_rl.deployment.storage import local_path, open_engine
from babylon_rl.deployment.unit_jobs import UnitJob
from babylon_rl.policy.checkpoints import read_manifest, verify_checkpoint
from babylon_rl.policy.engine import EmbeddedEngine
from babylon_rl.policy.server import PolicyServer
from babylon_rl.records.store import ArtifactStore
from babylon_rl.scoring.groups import ScoredGroup
from babylon_rl.settings import Settings
from babylon_rl.tracking import LoggedArtifact, NullRun, Run
from babylon_rl.training import units
from babylon_rl.training.batch import BatchRules, build_batch
from babylon_rl.training.chunk_ledger import read_chunks
from babylon_rl.training.options import UnsupportedOptionError
from babylon_rl.training.serverless.errors import WrongStepError
from babylon_rl_tests.played import DAY, play_day, store_groups
from babylon_rl_tests.training_server import TrainingServer

pytestmark = pytest.mark.anyio

NEXT_DAY = "2026-10-02"
RULES = BatchRules(min_groups=1, min_episodes=2)


@pytest.fixture(scope="module")
def played(base_engine: EmbeddedEngine) -> list[ScoredGroup]:
    return play_day(base_engine, windows=2, agents=4, seed=4)


@pytest.fixture(scope="module")
def played_next(base_engine: EmbeddedEngine) -> list[ScoredGroup]:
    return play_day(base_engine, windows=2, agents=4, day=NEXT_DAY, seed=5)


@pytest.fixture
async def db(anyio_backend: str, settings: Settings, home_with_base: Path) -> AsyncIterator[Databases]:
    async with open_databases(settings) as databases:
        yield databases


@pytest.fixture
def remote() -> Iterator[TrainingServer]:
    with TrainingServer() as running:
        yield running


class Day:
    """A day to be trained, under settings of its own."""

    def __init__(self, db: Databases, settings: Settings) -> None:
        self.db, self.settings = db, settings
        self.store = ArtifactStore(settings.home / "artifacts")

    async def prepare(self, groups: list[ScoredGroup], day: str = DAY) -> None:
        await store_groups(self.db.rl, self.store, groups)
        await build_batch(self.db.rl, self.store, day, RULES)

    def under(self, **changes: Any) -> Settings:
        return self.settings.model_copy(update=changes)

    async def train(self, day: str = DAY, track: Any = None, **changes: Any) -> DayTraining:
        return await train_day(self.db, self.store, self.under(**changes), day, track=track)


@pytest.fixture
async def day(db: Databases, settings: Settings, played: list[ScoredGroup]) -> Day:
    made = Day(db, settings)
    await made.prepare(played)
    return made


def serverless(remote: TrainingServer) -> dict[str, Any]:
    from pydantic import SecretStr

    return {
        "wandb_api_key": SecretStr(remote.api_key),
        "training_api_url": remote.base_url,
        "training_poll_seconds": 0.01,
        "training_grace_seconds": 0.2,
        "training_deadline_minutes": 0.2,
    }


async def test_the_choice_the_cost_the_answer_and_the_windows_are_kept(day: Day) -> None:
    trained = await day.train()
    assert trained.choice is not None and trained.choice.name == "embedded"
    unit = await units.find(day.db.rl, str(trained.unit_key))
    assert unit.backend == "embedded" and str(unit.backend_reason).startswith("auto: no WANDB_API_KEY")
    manifest = trained.model.manifest
    assert manifest["backend"] == "embedded" and manifest["code_sha256"] and manifest["device"] == "cpu"
    assert len(manifest["steps"]) == 16 and manifest["config"]["torch"]
    metrics = trained.metrics
    assert metrics["costs/actual_usd"] == 0.0 and metrics["chunks"] == 1
    [answer] = metrics["completions"]
    assert answer["answer"] and not answer["problem"] and answer["step"] == 1
    rows = await day.db.rl.fetch("SELECT window_id, version, branch FROM rl.trained_windows ORDER BY 1")
    assert [tuple(row) for row in rows] == [(f"{DAY}T{hour:02d}:00", "v0.0.1", None) for hour in (0, 1)]


async def test_chunks_follow_each_other(day: Day) -> None:
    trained = await day.train(checkpoint_frequency=1)
    assert trained.metrics["chunks"] == 2 and len(trained.metrics["losses"]) == 32
    assert trained.model.manifest["step"] == 2 and len(trained.metrics["completions"]) == 2
    folder = local_path(trained.model)
    assert folder.name.endswith("-2of2") and verify_checkpoint(folder)
    rows = await read_chunks(day.db.rl, str(trained.unit_key))
    assert [(row.status, row.step_after) for row in rows] == [("done", 1), ("done", 2)]
    assert (await day.train(checkpoint_frequency=1)).status == REPEATED


async def test_an_adapter_can_be_a_days_candidate(day: Day, played_next: list[ScoredGroup]) -> None:
    lora = {"training_method": "lora", "lora_rank": 4, "learning_rate": 5e-3}
    first = await day.train(**lora)
    assert set(first.model.manifest["files"]) == {"adapter_config.json", "adapter_model.safetensors"}
    assert open_engine(first.model).version == "v0.0.1"
    await day.prepare(played_next, NEXT_DAY)
    second = await day.train(NEXT_DAY, **lora)
    assert second.parent.model.version == "v0.0.1" and open_engine(second.model)
    assert second.model.manifest["base_checkpoint"] == first.model.manifest["base_checkpoint"]


async def test_the_checkpoint_is_stored_before_the_version_exists(
    day: Day, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = day.settings.home / "private"
    seen: list[int] = []
    upload = model_storage.upload

    def look_and_upload(folder: Path, url: str) -> str:
        seen.append(len(os.listdir(day.settings.home / "checkpoints")))
        return upload(folder, url)

    monkeypatch.setattr(model_storage, "upload", look_and_upload)
    trained = await day.train(model_storage_url=str(root))
    assert trained.model.storage_path == (root / local_path(trained.model).name).as_uri() and seen == [1]
    stored = root / str(trained.unit_key)[:16]
    assert read_manifest(stored)["files"] == trained.model.manifest["files"]
    modes = {oct(path.stat().st_mode & 0o777) for path in (stored, *stored.iterdir())}
    assert modes == {"0o700", "0o600"}


async def test_a_place_that_cannot_be_written_publishes_nothing(day: Day) -> None:
    blocked = day.settings.home / "file"
    blocked.parent.mkdir(parents=True, exist_ok=True)
    blocked.write_text("in the way")
    with pytest.raises(ModelStorageError, match="MODEL_STORAGE_URL"):
        await day.train(model_storage_url=str(blocked))
    assert [model.version for model in await registry.list_models(day.db.rl)] == ["v0.0.0"]
    assert (await day.train()).status == TRAINED, "the checkpoint was on disk; nothing is trained again"


def test_a_copy_is_fetched_whole_or_not_at_all(base_checkpoint: Path, tmp_path: Path) -> None:
    address = model_storage.upload(base_checkpoint, "memory://models")
    assert address == f"memory:///models/{base_checkpoint.name}"
    fetched = model_storage.download(address, tmp_path / "fetched")
    assert verify_checkpoint(fetched) == read_manifest(base_checkpoint)
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.rm(f"/models/{base_checkpoint.name}/model.safetensors")
    with pytest.raises(ModelStorageError, match="cannot be fetched"):
        model_storage.download(address, tmp_path / "again")
    assert os.listdir(tmp_path) == ["fetched"]
    with pytest.raises(ModelStorageError, match="nowhere"):
        model_storage.upload(base_checkpoint, "nowhere://x")


async def test_an_answer_that_fails_is_reported_and_the_model_stays(
    day: Day, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(PolicyServer, "base_url", "http://127.0.0.1:9/v1", raising=False)

    def broken(self: PolicyServer, *_: Any, **__: Any) -> None:
        raise OSError("no port is left")

    monkeypatch.setattr(PolicyServer, "__init__", broken)
    trained = await day.train()
    [answer] = trained.metrics["completions"]
    assert trained.status == TRAINED and trained.model.status == "ready"
    assert answer["answer"] is None and "no port is left" in answer["problem"]
    assert "is saved, but gave no answer" in caplog.text


class Watcher(NullRun):
    """A tracked run that remembers."""

    def __init__(self) -> None:
        super().__init__("train-2026-10-01-abc")
        self.rows: list[tuple[int | None, dict[str, Any]]] = []
        self.artifacts: list[tuple[str, str, dict[str, Any]]] = []
        self.closed: bool | None = None

    def log(self, values: Any, step: int | None = None) -> None:
        self.rows.append((step, dict(values)))

    def log_artifact(self, name: str, type: str, **what: Any) -> LoggedArtifact:
        self.artifacts.append((name, type, what))
        return LoggedArtifact(name, type, f"digest-of-{name}")

    def close(self, failed: bool = False) -> None:
        self.closed = failed if self.closed is None else self.closed


async def test_metrics_and_checkpoint_are_tracked_with_their_lineage(day: Day) -> None:
    runs: list[tuple[UnitJob, str, Watcher]] = []

    def track(job: UnitJob, key: str) -> Run:
        runs.append((job, key, Watcher()))
        return runs[-1][2]

    trained = await day.train(track=track)
    [(job, key, run)] = runs
    assert (job.name, key) == (DAY, trained.unit_key) and run.closed is False
    assert [step for step, _ in run.rows] == list(range(1, 17))
    assert {"loss/train", "throughput/trainer_tokens_per_s"} <= set(run.rows[0][1])
    [(_, kind, batch), (name, model_kind, model)] = run.artifacts
    assert (kind, name, model_kind) == ("dataset", "babylon-agent", "model")
    assert batch["metadata"]["sha256"] == trained.batch.sha256
    assert model["path"] == local_path(trained.model) and model["metadata"]["parent"] == "v0.0.0"
    assert [artifact.digest for artifact in model["inputs"]] == ["digest-of-training_batch"]
    shown = await day.db.game.fetchrow('SELECT "wandbRunId", "wandbArtifactId" FROM "trained_models"')
    assert shown is not None
    assert tuple(shown) == ("train-2026-10-01-abc", "babylon-agent@digest-of-babylon-agent")
    shown = await day.db.game.fetchrow('SELECT "trainingLoss", "policyImprovement" FROM "training_batches"')
    assert shown is not None and shown["trainingLoss"] == pytest.approx(trained.metrics["loss/train"])


async def test_what_the_checkpoint_gained_is_noted_on_its_batch(day: Day) -> None:
    trained = await day.train()
    judged = await judge(day.db, day.settings, trained.model.version, 48)
    shown = await day.db.game.fetchval('SELECT "policyImprovement" FROM "training_batches"')
    assert shown == pytest.approx(judged.metrics["verdict"]["difference"]["mean"])


async def test_a_failed_training_closes_its_run_as_failed(day: Day) -> None:
    run = Watcher()
    with pytest.raises(Exception, match="diverged"):
        await day.train(track=lambda job, key: run, learning_rate=1e30)
    assert run.closed is True
    assert [model.version for model in await registry.list_models(day.db.rl)] == ["v0.0.0"]


async def test_exactly_the_trained_rows_are_marked(
    day: Day, db: Databases, played: list[ScoredGroup]
) -> None:
    ids = [member.trajectory_ids[0] for group in played for member in group.members]
    await record_rows(db.game, [*ids, "of nobody"])
    trained = await day.train(min_actions_per_trajectory=0)
    marked = await db.game.fetch('SELECT "trajectoryId" FROM "trajectories" WHERE "usedInTraining"')
    expected = {row for episode in day.store.get(trained.batch.uri)[1:] for row in episode["trajectory_ids"]}
    assert {row["trajectoryId"] for row in marked} == expected <= set(ids)
    batches = await db.game.fetch(
        'SELECT DISTINCT "trainedInBatch" FROM "trajectories" WHERE "usedInTraining"'
    )
    assert [row[0] for row in batches] == [f"babylon-batch-{trained.batch.sha256[:32]}"]


async def record_rows(game: asyncpg.Connection, ids: list[str]) -> None:
    await game.execute('INSERT INTO "User" ("id", "updatedAt") VALUES (\'a\', now())')
    for name in ids:
        await game.execute(
            """INSERT INTO "trajectories" ("id", "trajectoryId", "agentId", "startTime", "endTime",
                   "durationMs", "stepsJson", "rewardComponentsJson", "metricsJson", "metadataJson",
                   "totalReward", "episodeLength", "finalStatus", "updatedAt")
               VALUES ($1, $1, 'a', now(), now(), 1, '[]', '{}', '{}', '{}', 0, 0, 'completed', now())""",
            name,
        )


async def test_serverless_makes_a_days_candidate(
    day: Day, remote: TrainingServer, played_next: list[ScoredGroup]
) -> None:
    first = await day.train(**serverless(remote))
    assert first.status == TRAINED and first.choice is not None and first.choice.name == "serverless"
    address = "wandb-artifact:///default-entity/babylon-rl-training/babylon-agent:step1"
    assert first.model.storage_path == address and first.model.base_model == "OpenPipe/Qwen3-14B-Instruct"
    assert first.metrics["completions"][0]["answer"] == "HOLD"
    assert first.metrics["costs/estimated_high_usd"] == 2.0 and "costs/actual_usd" not in first.metrics
    shown = await day.db.game.fetchrow(
        'SELECT "storagePath", "wandbRunId", "wandbArtifactId" FROM "trained_models"'
    )
    assert shown is not None and tuple(shown) == (address, first.metrics["wandb"]["wandb_run_id"], address)
    await day.prepare(played_next, NEXT_DAY)
    second = await day.train(NEXT_DAY, **serverless(remote))
    assert second.parent.model.version == "v0.0.1" and remote.step == 2
    assert second.model.manifest["files"] != first.model.manifest["files"]


async def test_a_rejected_step_is_rewound_only_where_that_is_allowed(
    day: Day, remote: TrainingServer, played_next: list[ScoredGroup]
) -> None:
    first = await day.train(**serverless(remote))
    await day.db.rl.execute("UPDATE rl.models SET verdict = 'rejected' WHERE version = 'v0.0.1'")
    await day.prepare(played_next, NEXT_DAY)
    with pytest.raises(WrongStepError, match="TRAINING_REWIND"):
        await day.train(NEXT_DAY, **serverless(remote))
    second = await day.train(NEXT_DAY, training_rewind=True, **serverless(remote))
    assert second.parent.model.version == "v0.0.0" and first.model.version == "v0.0.1"
    [listed] = remote.checkpoints.values()
    assert [checkpoint["step"] for checkpoint in listed] == [0, 1] and len(remote.jobs) == 2


async def test_a_registry_of_another_base_model_is_not_mixed(day: Day, remote: TrainingServer) -> None:
    await day.train()
    later = {**serverless(remote), "training_backend": "serverless", "wandb_entity": "me"}
    await day.db.rl.execute("DELETE FROM rl.trained_days")
    with pytest.raises(BaseModelMismatchError, match="grows on babylon-tiny, not on OpenPipe/Qwen3-14B"):
        await day.train(**later)
    assert not remote.jobs


async def test_what_a_backend_cannot_do_is_refused_before_anything_happens(
    day: Day, remote: TrainingServer
) -> None:
    with pytest.raises(UnsupportedOptionError, match="serverless backend cannot follow BATCH_SIZE=4"):
        await day.train(batch_size=4, **serverless(remote))
    assert not remote.requests and not await day.db.rl.fetchval("SELECT count(*) FROM rl.training_units")


async def test_a_failed_service_is_never_replaced_by_another_backend(
    day: Day, remote: TrainingServer
) -> None:
    remote.fault("POST", "/training-jobs", status=403, times=None)
    with pytest.raises(Exception, match="refused the request"):
        await day.train(**serverless(remote))
    assert [model.version for model in await registry.list_models(day.db.rl)] == ["v0.0.0"]
    parent = await parent_for_training(day.db.rl)
    assert parent.model.base_model == "OpenPipe/Qwen3-14B-Instruct"
