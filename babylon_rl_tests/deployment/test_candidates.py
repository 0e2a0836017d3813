"""A day's candidate on a real database: trained once, from the right parent, or not at all."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from babylon_rl.database.connection import Databases, open_databases
from babylon_rl.deployment import registry
from babylon_rl.deployment.candidates import (
    NO_DATA,
    REPEATED,
    TRAINED,
    DayTraining,
    ensure_base,
    train_day,
)
from babylon_rl.deployment.storage import local_path, open_engine
from babylon_rl.policy.checkpoints import read_manifest, verify_checkpoint
from babylon_rl.policy.engine import EmbeddedEngine
from babylon_rl.policy.errors import CheckpointError
from babylon_rl.records.store import ArtifactError, ArtifactStore
from babylon_rl.scoring.groups import ScoredGroup
from babylon_rl.settings import Settings
from babylon_rl.training.batch import BatchRules, TrainingBatch, build_batch
from babylon_rl.training.errors import BackendNotAvailableError, MissingBatchError
from babylon_rl.training.unit_errors import UnitBusyError
from babylon_rl_tests.played import DAY, play_day, store_groups

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
def store(settings: Settings) -> ArtifactStore:
    return ArtifactStore(settings.home / "artifacts")


async def prepare(
    db: Databases, store: ArtifactStore, groups: list[ScoredGroup], day: str = DAY
) -> TrainingBatch:
    await store_groups(db.rl, store, groups)
    return await build_batch(db.rl, store, day, RULES)


def with_setting(settings: Settings, **changes: Any) -> Settings:
    return Settings(
        _env_file=None, **({name: getattr(settings, name) for name in ("database_url",)} | changes)
    )


async def counts(db: Databases) -> list[int]:
    """Models, units and trained days."""
    tables = ("models", "training_units", "trained_days")
    return [int(await db.rl.fetchval(f"SELECT count(*) FROM rl.{table}") or 0) for table in tables]


async def test_a_day_is_trained_once(
    db: Databases, store: ArtifactStore, settings: Settings, played: list[ScoredGroup]
) -> None:
    batch = await prepare(db, store, played)
    seen: list[tuple[int, int]] = []
    first = await train_day(db, store, settings, DAY, lambda done, total, _: seen.append((done, total)))
    assert (first.status, first.model.version, first.parent.model.version) == (TRAINED, "v0.0.1", "v0.0.0")
    assert first.model.status == "ready" and first.model.verdict is None
    assert seen and seen[-1][0] == seen[-1][1] == len(seen) == len(first.metrics["losses"])

    manifest = verify_checkpoint(local_path(first.model))
    assert first.model.manifest == manifest
    assert manifest["parent"] == "v0.0.0" and manifest["batch_sha256"] == batch.sha256
    assert manifest["day"] == DAY and manifest["data_policies"] == {"v0.0.0": batch.calls}
    assert (
        manifest["data_lag"] == 0 and manifest["config"]["torch"] and manifest["unit_key"] == first.unit_key
    )
    base = await registry.get(db.rl, "v0.0.0")
    assert manifest["parent_files"] == read_manifest(local_path(base))["files"]
    assert manifest["files"]["model.safetensors"] != base.manifest["files"]["model.safetensors"]
    assert open_engine(first.model).version == "v0.0.1"

    again = await train_day(db, store, settings, DAY)
    assert (again.status, again.model, again.unit_key) == (REPEATED, first.model, first.unit_key)
    assert again.parent.model.version == "v0.0.0"
    assert await counts(db) == [2, 1, 1]

    shown = await db.game.fetchrow('SELECT * FROM "trained_models"')
    assert shown is not None and shown["modelId"] == "babylon-agent-v0.0.1" and shown["status"] == "ready"
    rows = await db.game.fetch('SELECT * FROM "training_batches"')
    assert [row["modelVersion"] for row in rows] == ["v0.0.1"] and rows[0]["status"] == "completed"


async def test_other_settings_do_not_train_a_day_again(
    db: Databases, store: ArtifactStore, settings: Settings, played: list[ScoredGroup]
) -> None:
    await prepare(db, store, played)
    first = await train_day(db, store, settings, DAY)
    again = await train_day(db, store, with_setting(settings, learning_rate=5e-4), DAY)
    assert (again.status, again.model.version) == (REPEATED, "v0.0.1")
    assert again.unit_key == first.unit_key and await counts(db) == [2, 1, 1]


async def test_a_re_score_does_not_train_a_day_again(
    db: Databases,
    store: ArtifactStore,
    settings: Settings,
    played: list[ScoredGroup],
    base_engine: EmbeddedEngine,
) -> None:
    batch = await prepare(db, store, played)
    await train_day(db, store, settings, DAY)
    late = await asyncio.to_thread(play_day, base_engine, 3, 4, seed=8)
    assert (await prepare(db, store, late)).superseded_by
    again = await train_day(db, store, settings, DAY)
    assert (again.status, again.model.version, again.batch.sha256) == (REPEATED, "v0.0.1", batch.sha256)


async def test_the_next_day_starts_from_this_ones_checkpoint(
    db: Databases,
    store: ArtifactStore,
    settings: Settings,
    played: list[ScoredGroup],
    played_next: list[ScoredGroup],
) -> None:
    await prepare(db, store, played)
    await train_day(db, store, settings, DAY)
    await prepare(db, store, played_next, NEXT_DAY)
    second = await train_day(db, store, settings, NEXT_DAY)
    assert (second.model.version, second.model.parent_version) == ("v0.0.2", "v0.0.1")
    assert second.model.manifest["data_lag"] == 1, "the base played what v0.0.1 is trained on"
    assert second.model.manifest["step"] == 2
    again = await train_day(db, store, settings, DAY)
    assert (again.status, again.model.version, again.parent.model.version) == (REPEATED, "v0.0.1", "v0.0.0")


async def test_a_day_without_data_keeps_its_parent(
    db: Databases, store: ArtifactStore, settings: Settings, played: list[ScoredGroup]
) -> None:
    await prepare(db, store, played)
    await train_day(db, store, settings, DAY)
    await build_batch(db.rl, store, NEXT_DAY, RULES)
    nothing = await train_day(db, store, settings, NEXT_DAY)
    assert (nothing.status, nothing.model.version, nothing.unit_key) == (NO_DATA, "v0.0.1", None)
    assert "0 trainable groups" in nothing.reason and await counts(db) == [2, 1, 1]


async def test_a_day_without_its_batch_is_an_error(
    db: Databases, store: ArtifactStore, settings: Settings
) -> None:
    with pytest.raises(MissingBatchError, match=f"Materialize the partition {DAY} of training_batch first"):
        await train_day(db, store, settings, DAY)
    assert await counts(db) == [1, 0, 0]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"training_backend": "local"}, "'local' cannot run here"),
        ({"train_rl_local": False}, "TRAIN_RL_LOCAL=false forbids"),
    ],
)
async def test_a_backend_that_cannot_run_is_an_error(
    db: Databases, store: ArtifactStore, settings: Settings, changes: dict[str, Any], reason: str
) -> None:
    with pytest.raises(BackendNotAvailableError, match=reason):
        await train_day(db, store, with_setting(settings, **changes), DAY)
    assert await counts(db) == [0, 0, 0]


async def test_the_embedded_backend_trains_its_own_model_only(
    db: Databases, store: ArtifactStore, settings: Settings
):
    """Another name for the tiny model would be a lie in every manifest that follows."""
    asked = with_setting(settings, base_model="Qwen/Qwen2.5-0.5B-Instruct")
    with pytest.raises(BackendNotAvailableError, match="BASE_MODEL is Qwen/.*trains babylon-tiny only"):
        await train_day(db, store, asked, DAY)
    assert await db.rl.fetchval("SELECT count(*) FROM rl.models WHERE base_model LIKE 'Qwen%'") == 0


async def test_the_same_batch_gives_the_same_bytes_elsewhere(
    db: Databases,
    store: ArtifactStore,
    settings: Settings,
    played: list[ScoredGroup],
    base_checkpoint: Path,
    tmp_path: Path,
) -> None:
    """Also what happens when a training was killed between its checkpoint and its registration."""
    await prepare(db, store, played)
    first = await train_day(db, store, settings, DAY)
    for table in ("trained_days", "training_units", "deployments", "models", "training_batches"):
        await db.rl.execute(f"DELETE FROM rl.{table}")
    await prepare(db, store, played)
    over_the_old = await train_day(db, store, settings, DAY)
    assert over_the_old.status == TRAINED and over_the_old.model.version == "v0.0.1"
    assert over_the_old.model.manifest["files"] == first.model.manifest["files"]

    for table in ("trained_days", "training_units", "deployments", "models"):
        await db.rl.execute(f"DELETE FROM rl.{table}")
    elsewhere = with_setting(settings, babylon_home=tmp_path / "elsewhere")
    shutil.copytree(base_checkpoint, elsewhere.home / "models" / base_checkpoint.name)
    other = await train_day(db, store, elsewhere, DAY)
    assert local_path(other.model) != local_path(first.model)
    assert other.model.manifest["files"] == first.model.manifest["files"]


async def test_a_corrupt_parent_leaves_nothing_half_written(
    db: Databases,
    store: ArtifactStore,
    settings: Settings,
    played: list[ScoredGroup],
    played_next: list[ScoredGroup],
) -> None:
    await prepare(db, store, played)
    first = await train_day(db, store, settings, DAY)
    weights = local_path(first.model) / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    await prepare(db, store, played_next, NEXT_DAY)
    with pytest.raises(CheckpointError, match="model.safetensors does not match its checksum") as refusal:
        await train_day(db, store, settings, NEXT_DAY)
    assert str(local_path(first.model)) in str(refusal.value) and "\n" not in str(refusal.value)
    assert await counts(db) == [2, 2, 2]
    assert await db.rl.fetchval("SELECT count(*) FROM rl.trained_days WHERE version IS NOT NULL") == 1
    failed = await db.rl.fetchrow("SELECT status, error FROM rl.training_units WHERE version IS NULL")
    assert failed is not None and failed["status"] == "failed" and "checksum" in failed["error"]
    assert [path.name for path in (settings.home / "checkpoints").iterdir()] == [weights.parent.name]

    weights.write_bytes(whole)
    assert (await train_day(db, store, settings, NEXT_DAY)).model.version == "v0.0.2", "it can be tried again"


async def test_a_damaged_batch_is_an_error(
    db: Databases, store: ArtifactStore, settings: Settings, played: list[ScoredGroup]
) -> None:
    batch = await prepare(db, store, played)
    store.path(batch.uri).unlink()
    with pytest.raises(ArtifactError, match="not in the artifact store"):
        await train_day(db, store, settings, DAY)
    assert await counts(db) == [1, 0, 0]


async def test_two_at_once_make_one_model(
    db: Databases, store: ArtifactStore, settings: Settings, played: list[ScoredGroup]
) -> None:
    await prepare(db, store, played)
    await ensure_base(db.rl, settings)
    async with open_databases(settings) as second:
        results = await asyncio.gather(
            train_day(db, store, settings, DAY),
            train_day(second, store, settings, DAY),
            return_exceptions=True,
        )
    [trained] = [result for result in results if isinstance(result, DayTraining)]
    [refusal] = [result for result in results if not isinstance(result, DayTraining)]
    assert isinstance(refusal, UnitBusyError) and "is being trained by" in str(refusal)
    again = await train_day(db, store, settings, DAY)
    assert (trained.status, again.status) == (TRAINED, REPEATED)
    assert trained.model == again.model and await counts(db) == [2, 1, 1]


async def test_the_base_model_is_registered_once(db: Databases, settings: Settings) -> None:
    base = await ensure_base(db.rl, settings)
    assert base.is_base and base.base_model == "babylon-tiny" and base.parent_version is None
    assert await ensure_base(db.rl, settings) == base
    assert verify_checkpoint(local_path(base)) == base.manifest
