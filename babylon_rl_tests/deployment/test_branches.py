"""Side branches and repetitions: windows trained beside the live chain, versions trained again."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from babylon_rl.database.connection import Databases, open_databases
from babylon_rl.deployment import registry
from babylon_rl.deployment.branches import (
    CONTINUOUS,
    NO_DATA,
    BranchTraining,
    branch_of,
    scored_groups,
    train_windows,
    untrained_windows,
)
from babylon_rl.deployment.candidates import REPEATED, TRAINED, train_day
from babylon_rl.deployment.lineage import newest_not_rejected, parent_for_training
from babylon_rl.deployment.release import release
from babylon_rl.deployment.reproduction import NotReproducibleError, reproduce, retrain
from babylon_rl.deployment.storage import local_path
from babylon_rl.deployment.trainers import ImpossibleParentError
from babylon_rl.policy.checkpoints import read_manifest
from babylon_rl.policy.engine import EmbeddedEngine
from babylon_rl.policy.errors import CheckpointError
from babylon_rl.records.store import ArtifactError, ArtifactStore
from babylon_rl.scoring.groups import ScoredGroup
from babylon_rl.settings import Settings
from babylon_rl.training.batch import BatchRules, build_batch
from babylon_rl.training.selection import Selection
from babylon_rl.windows import parse_day
from babylon_rl_tests.played import DAY, play_day, store_groups, window
from babylon_rl_tests.training_server import TrainingServer

pytestmark = pytest.mark.anyio

NEXT_DAY = "2026-10-02"
RULES = BatchRules(min_groups=1, min_episodes=2)


@pytest.fixture(scope="module")
def played(base_engine: EmbeddedEngine) -> list[ScoredGroup]:
    return play_day(base_engine, windows=3, agents=4, seed=4)


@pytest.fixture(scope="module")
def played_next(base_engine: EmbeddedEngine) -> list[ScoredGroup]:
    return play_day(base_engine, windows=2, agents=4, day=NEXT_DAY, seed=5)


@pytest.fixture
async def db(
    anyio_backend: str, settings: Settings, home_with_base: Path, played: list[ScoredGroup]
) -> AsyncIterator[Databases]:
    async with open_databases(settings) as databases:
        await store_groups(databases.rl, ArtifactStore(settings.home / "artifacts"), played)
        yield databases


@pytest.fixture
def store(settings: Settings) -> ArtifactStore:
    return ArtifactStore(settings.home / "artifacts")


@pytest.fixture
def remote() -> Iterator[TrainingServer]:
    with TrainingServer() as running:
        yield running


class Trainer:
    """The commands' work on one database."""

    def __init__(self, db: Databases, store: ArtifactStore, settings: Settings) -> None:
        self.db, self.store, self.settings = db, store, settings

    async def window(self, name: str, **options: Any) -> BranchTraining:
        return await train_windows(self.db, self.store, self.settings, branch_of(name), [name], **options)

    async def step(self, *names: str, **changes: Any) -> BranchTraining:
        settings = self.settings.model_copy(update=changes)
        return await train_windows(self.db, self.store, settings, CONTINUOUS, names)

    async def day(self, name: str = DAY) -> Any:
        await build_batch(self.db.rl, self.store, name, RULES)
        return await train_day(self.db, self.store, self.settings, name)

    async def models(self) -> list[tuple[str, str | None, str | None]]:
        found = await registry.list_models(self.db.rl)
        return [(model.version, model.branch, model.parent_version) for model in found]


@pytest.fixture
def trainer(db: Databases, store: ArtifactStore, settings: Settings) -> Trainer:
    return Trainer(db, store, settings)


async def test_a_window_is_trained_alone_and_is_nobodys_parent(
    trainer: Trainer, played_next: list[ScoredGroup]
) -> None:
    alone = await trainer.window(window(1))
    assert (alone.status, alone.branch, alone.model.day) == (TRAINED, f"window-{window(1)}", None)
    assert {e["window_id"] for e in trainer.store.get(str(alone.batch and alone.batch.uri))[1:]} == {
        window(1)
    }
    assert await newest_not_rejected(trainer.db.rl) is None
    day = await trainer.day()
    assert (day.model.version, day.parent.model.version) == ("v0.0.2", "v0.0.0")
    await store_groups(trainer.db.rl, trainer.store, played_next)
    again = await trainer.window(window(0, NEXT_DAY))
    assert again.model.parent_version == "v0.0.2", "a branch leaves the live chain where it stands"
    chosen = await parent_for_training(trainer.db.rl, parse_day(NEXT_DAY))
    assert chosen.model.version == "v0.0.2"
    assert not await trainer.db.rl.fetchval(
        "SELECT count(*) FROM rl.training_batches WHERE day = '2026-10-02'"
    )


async def test_a_window_is_not_trained_twice(trainer: Trainer) -> None:
    first = await trainer.window(window(1))
    again = await trainer.window(window(1))
    assert (again.status, again.model.version) == (REPEATED, first.model.version)
    assert len(await trainer.models()) == 2


async def test_a_branch_never_serves_by_itself(trainer: Trainer) -> None:
    alone = await trainer.window(window(1))
    await trainer.db.rl.execute(
        "UPDATE rl.models SET verdict = 'promoted' WHERE version = $1", alone.model.version
    )
    result = await release(trainer.db, trainer.settings)
    assert not result.changed and "no day has been trained" in result.reason


async def test_continuous_steps_follow_each_other_on_their_branch(trainer: Trainer) -> None:
    assert await untrained_windows(trainer.db.rl) == [window(0), window(1), window(2)]
    await trainer.step(window(0), window(1))
    assert await untrained_windows(trainer.db.rl) == [window(2)]
    second = await trainer.step(window(2))
    assert await trainer.models() == [
        ("v0.0.2", CONTINUOUS, "v0.0.1"),
        ("v0.0.1", CONTINUOUS, "v0.0.0"),
        ("v0.0.0", None, None),
    ]
    assert second.model.manifest["step"] == 2 and await untrained_windows(trainer.db.rl) == []


async def test_which_windows_are_left(trainer: Trainer) -> None:
    rl = trainer.db.rl
    assert await untrained_windows(rl, lookback_hours=1) == [window(2)]
    assert await untrained_windows(rl, lookback_hours=2) == [window(1), window(2)]
    assert await untrained_windows(rl, min_agents=5) == []
    await trainer.day()
    assert await untrained_windows(rl) == [], "the live chain counts too"
    assert [group.window_id for group in await scored_groups(rl, trainer.store, [window(2), window(0)])] == [
        window(2),
        window(0),
    ]


async def test_windows_without_enough_say_why(trainer: Trainer) -> None:
    nothing = await trainer.window(window(1), selection=Selection(min_agents=9))
    assert nothing.status == NO_DATA and "0 trainable groups" in nothing.reason
    assert nothing.model.version == "v0.0.0" and len(await trainer.models()) == 1


async def test_serverless_branches_are_models_of_their_own(trainer: Trainer, remote: TrainingServer) -> None:
    here = {
        "wandb_api_key": SecretStr(remote.api_key),
        "training_api_url": remote.base_url,
        "training_poll_seconds": 0.01,
    }
    await trainer.step(window(0), **here)
    second = await trainer.step(window(1), **here)
    assert {model["name"] for model in remote.models.values()} == {"babylon-agent-continuous"}
    assert str(second.model.storage_path).endswith("/babylon-agent-continuous:step2")
    trainer.settings = trainer.settings.model_copy(update=here)
    day = await trainer.day()
    assert {model["name"] for model in remote.models.values()} == {
        "babylon-agent-continuous",
        "babylon-agent",
    }
    with pytest.raises(ImpossibleParentError, match="a side branch there starts from the base model"):
        await retrain(trainer.db, trainer.store, trainer.settings, second.model.version)
    assert day.model.parent_version == "v0.0.0"
    with pytest.raises(NotReproducibleError, match="gives other bytes each time"):
        await reproduce(trainer.db, trainer.store, trainer.settings, day.model.version)


async def test_a_version_is_reproduced_to_the_byte(trainer: Trainer, settings: Settings) -> None:
    day = await trainer.day()
    other = settings.model_copy(update={"learning_rate": 5e-2, "training_seed": 9})
    found = await reproduce(trainer.db, trainer.store, other, day.model.version)
    assert found.same and found.changed == [], "its own recipe counts, not the present settings"
    assert len(await trainer.models()) == 2
    assert [path.name for path in (settings.home / "checkpoints").iterdir()] == [local_path(day.model).name]


@pytest.mark.parametrize("method", ["full", "lora"])
async def test_chunks_and_adapters_are_reproduced_too(trainer: Trainer, method: str) -> None:
    trainer.settings = trainer.settings.model_copy(
        update={"checkpoint_frequency": 2, "training_method": method, "training_seed": 3}
    )
    day = await trainer.day()
    assert day.metrics["chunks"] == 2
    found = await reproduce(trainer.db, trainer.store, trainer.settings, day.model.version)
    assert found.same, found


async def test_a_difference_is_named(trainer: Trainer) -> None:
    day = await trainer.day()
    changed = {**day.model.manifest, "files": {**day.model.manifest["files"], "model.safetensors": "0" * 64}}
    changed["config"] = {**changed["config"], "torch": "1.0"}
    changed["code_sha256"] = "f" * 64
    update = "UPDATE rl.models SET manifest = $2 WHERE version = $1"
    await trainer.db.rl.execute(update, day.model.version, changed)
    found = await reproduce(trainer.db, trainer.store, trainer.settings, day.model.version)
    assert not found.same and found.differing == ["model.safetensors"]
    assert ("torch", "1.0") in [(name, then) for name, then, _ in found.changed]
    assert "source code" in [name for name, *_ in found.changed]


async def test_what_cannot_be_reproduced_says_why(trainer: Trainer) -> None:
    day = await trainer.day()
    with pytest.raises(NotReproducibleError, match="v0.0.0 was not trained from a batch"):
        await reproduce(trainer.db, trainer.store, trainer.settings, "v0.0.0")
    trainer.store.path(day.batch.uri).unlink()
    with pytest.raises(ArtifactError, match="not in the artifact store"):
        await reproduce(trainer.db, trainer.store, trainer.settings, day.model.version)
    mark = {"reproducible": False, "not_reproducible_because": "an agent was forgotten"}
    await trainer.db.rl.execute(
        "UPDATE rl.models SET manifest = manifest || $2 WHERE version = $1", day.model.version, mark
    )
    with pytest.raises(NotReproducibleError, match="an agent was forgotten"):
        await reproduce(trainer.db, trainer.store, trainer.settings, day.model.version)


async def test_a_damaged_parent_is_told(trainer: Trainer) -> None:
    day = await trainer.day()
    weights = local_path(await registry.get(trainer.db.rl, "v0.0.0")) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="checksum"):
        await reproduce(trainer.db, trainer.store, trainer.settings, day.model.version)


async def test_retraining_is_a_branch(trainer: Trainer) -> None:
    day = await trainer.day()
    [again] = await retrain(trainer.db, trainer.store, trainer.settings, day.model.version)
    assert again.model is not None and again.model.branch == f"retrain-{day.model.version}"
    assert again.model.manifest["files"] == day.model.manifest["files"], "nothing else has changed"
    newest = await newest_not_rejected(trainer.db.rl)
    assert newest is not None and newest.version == day.model.version


async def test_an_agent_is_trained_out_of_everything_it_had_part_in(
    trainer: Trainer, played_next: list[ScoredGroup]
) -> None:
    first = await trainer.day()
    await store_groups(trainer.db.rl, trainer.store, played_next)
    second = await trainer.day(NEXT_DAY)
    results = await retrain(
        trainer.db, trainer.store, trainer.settings, second.model.version, without_agent="agent-2"
    )
    assert [result.original for result in results] == [first.model.version, second.model.version]
    one, two = (result.model for result in results)
    assert one is not None and two is not None
    assert (one.parent_version, two.parent_version) == ("v0.0.0", one.version)
    assert one.branch == two.branch == f"retrain-{second.model.version}-without-agent-2"
    for model in (one, two):
        _, *records = trainer.store.get(model.manifest["batch_uri"])
        assert "agent-2" not in {record["agent_id"] for record in records} and records
    assert read_manifest(local_path(one))["files"] != first.model.manifest["files"]
    nobody = await retrain(
        trainer.db, trainer.store, trainer.settings, second.model.version, without_agent="nobody"
    )
    assert nobody == []
    with pytest.raises(NotReproducibleError, match="base model"):
        await retrain(trainer.db, trainer.store, trainer.settings, "v0.0.0")
