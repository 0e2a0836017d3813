"""One model serves, switched whole, and the game's tables follow."""

import asyncio
from datetime import UTC, datetime

import asyncpg
import pytest

from babylon_rl.database.connection import connect
from babylon_rl.deployment import registry
from babylon_rl.deployment.deploy import current, deploy, history, rollback, was_rolled_back
from babylon_rl.deployment.errors import (
    NothingToRollBackError,
    ProjectionConflictError,
    UnknownVersionError,
    WrongStatusError,
    WrongVerdictError,
)
from babylon_rl.deployment.projection import GameBatch, batch_id, mark_trained, project_batch, project_model
from babylon_rl_tests.deployment.conftest import MakeModel

pytestmark = pytest.mark.anyio


async def statuses(rl: asyncpg.Connection) -> dict[str, str]:
    return {model.version: model.status for model in await registry.list_models(rl)}


async def test_a_switch_archives_the_model_before(rl: asyncpg.Connection, make: MakeModel) -> None:
    await make()
    await make()
    assert await current(rl) is None and await registry.active(rl) is None
    first = await deploy(rl, rl, "v0.0.1", reason="better than the base")
    assert (first.changed, first.replaced, first.version) == (True, None, "v0.0.1")
    second = await deploy(rl, rl, "v0.0.2", reason="better still")
    assert (second.changed, second.replaced, second.storage_path) == (True, "v0.0.1", "file:///models/x")
    assert await statuses(rl) == {"v0.0.0": "ready", "v0.0.1": "archived", "v0.0.2": "deployed"}
    assert [(d.version, d.ended_at is None) for d in await history(rl)] == [
        ("v0.0.2", True),
        ("v0.0.1", False),
    ]
    active = await registry.active(rl)
    assert active is not None and active.version == "v0.0.2" and active.deployed_at is not None
    shown = await rl.fetch('SELECT "version", "status", "archivedAt" FROM trained_models ORDER BY "version"')
    assert [tuple(row)[:2] for row in shown] == [("v0.0.1", "archived"), ("v0.0.2", "deployed")]
    assert abs((shown[0]["archivedAt"] - datetime.now(UTC)).total_seconds()) < 60


async def test_deploying_the_active_version_again_changes_nothing(
    rl: asyncpg.Connection, make: MakeModel
) -> None:
    await make()
    first = await deploy(rl, None, "v0.0.1", reason="better")
    again = await deploy(rl, None, "v0.0.1", reason="again")
    assert not again.changed and again.id == first.id and again.reason == "better"
    assert len(await history(rl)) == 1


@pytest.mark.parametrize("verdict", [None, "inconclusive", "rejected"])
async def test_only_promoted_models_are_deployed_unless_forced(
    rl: asyncpg.Connection, make: MakeModel, verdict: str | None
) -> None:
    await make(verdict)
    with pytest.raises(WrongVerdictError, match=f"not promoted v0.0.1: {verdict or 'it was not judged yet'}"):
        await deploy(rl, None, "v0.0.1", reason="hope")
    assert await current(rl) is None
    forced = await deploy(rl, None, "v0.0.1", reason="by hand", verdict_required=False)
    assert forced.version == "v0.0.1"


async def test_a_model_in_training_is_not_deployed(rl: asyncpg.Connection, make: MakeModel) -> None:
    await make(None, status="training")
    with pytest.raises(WrongStatusError, match="v0.0.1 is training"):
        await deploy(rl, None, "v0.0.1", reason="hurry", verdict_required=False)
    with pytest.raises(UnknownVersionError):
        await deploy(rl, None, "v0.0.9", reason="typo")


async def test_the_base_may_always_be_deployed(rl: asyncpg.Connection) -> None:
    assert (await deploy(rl, rl, "v0.0.0", reason="last resort")).changed
    assert await rl.fetchval("SELECT count(*) FROM trained_models") == 0


async def test_simultaneous_deployments_leave_one_active(
    rl: asyncpg.Connection, make: MakeModel, dsn: str
) -> None:
    versions = [(await make()).version for _ in range(4)]
    connections = [await connect(dsn) for _ in versions]
    pairs = zip(connections, versions, strict=True)
    results = await asyncio.gather(*(deploy(c, c, version, reason="race") for c, version in pairs))
    for connection in connections:
        await connection.close()
    now = await current(rl)
    assert now is not None and all(result.changed for result in results)
    found = await statuses(rl)
    assert [version for version, status in found.items() if status == "deployed"] == [now.version]
    rows = await history(rl)
    assert len(rows) == 4 and [row.ended_at is None for row in rows] == [True, False, False, False]
    replaced = [result.replaced for result in results]
    assert sorted(filter(None, [*replaced, now.version])) == versions and replaced.count(None) == 1


async def test_simultaneous_deployments_of_one_version_switch_once(
    rl: asyncpg.Connection, make: MakeModel, dsn: str
) -> None:
    await make()
    other = await connect(dsn)
    results = await asyncio.gather(*(deploy(c, None, "v0.0.1", reason="race") for c in (rl, other)))
    await other.close()
    assert sorted(result.changed for result in results) == [False, True]
    assert len(await history(rl)) == 1


async def test_rolling_back_goes_back_step_by_step(rl: asyncpg.Connection, make: MakeModel) -> None:
    for _ in range(3):
        await deploy(rl, None, (await make()).version, reason="better")
    assert not await was_rolled_back(rl, "v0.0.3") and not await was_rolled_back(rl, "v9.9.9")
    assert (await rollback(rl, rl)).version == "v0.0.2"
    assert await was_rolled_back(rl, "v0.0.3") and not await was_rolled_back(rl, "v0.0.2")
    assert (await rollback(rl, rl)).version == "v0.0.1"
    with pytest.raises(NothingToRollBackError, match=r"v0.0.1 is the first model"):
        await rollback(rl, rl)
    assert (await deploy(rl, None, "v0.0.3", reason="it was not the model")).changed
    back = await rollback(rl, rl, reason="it was")
    assert (back.version, back.replaced, back.reason) == ("v0.0.1", "v0.0.3", "it was")
    assert (await registry.get(rl, "v0.0.3")).status == "archived"


async def test_rolling_back_to_a_named_version(rl: asyncpg.Connection, make: MakeModel) -> None:
    with pytest.raises(NothingToRollBackError, match="ever deployed"):
        await rollback(rl, None)
    for _ in range(3):
        await deploy(rl, None, (await make()).version, reason="better")
    never = await make()
    assert (await rollback(rl, None, "v0.0.1")).version == "v0.0.1"
    with pytest.raises(NothingToRollBackError, match=f"{never.version} was never deployed"):
        await rollback(rl, None, never.version)


async def test_promotion_ends_the_versions_candidacy(rl: asyncpg.Connection, make: MakeModel) -> None:
    await make()
    await rl.execute(
        "INSERT INTO rl.deployments (version, role, percentage) VALUES ('v0.0.1', 'candidate', 10)"
    )
    await deploy(rl, None, "v0.0.1", reason="proven")
    open_rows = await rl.fetch("SELECT role FROM rl.deployments WHERE ended_at IS NULL")
    assert [row["role"] for row in open_rows] == ["active"]


async def test_what_the_game_sees_of_a_model(rl: asyncpg.Connection, make: MakeModel) -> None:
    await make(batch_sha256="c" * 64, metrics={"loss": 0.1})
    await project_model(rl, await registry.get(rl, "v0.0.1"))
    await project_model(rl, await registry.get(rl, "v0.0.1"))
    row = await rl.fetchrow("SELECT * FROM trained_models")
    assert row is not None
    expected = {
        "modelId": "babylon-agent-v0.0.1",
        "version": "v0.0.1",
        "baseModel": "tiny",
        "trainingBatch": batch_id("c" * 64),
        "status": "ready",
        "storagePath": "file:///models/x",
        "benchmarkScore": 0.03,
        "accuracy": 0.6,
        "avgReward": 0.1,
    }
    assert {name: row[name] for name in expected} == expected
    assert row["evalMetrics"]["verdict"] == "promoted"
    assert abs((row["updatedAt"] - datetime.now(UTC)).total_seconds()) < 60


async def test_what_the_game_sees_of_a_batch(rl: asyncpg.Connection) -> None:
    batch = GameBatch(
        batch_sha256="d" * 64,
        base_model="tiny",
        model_version="v0.0.1",
        trajectory_ids=["t1", "t2"],
        rewards=[0.5, -0.5],
        status="training",
        started_at=datetime(2026, 10, 2, 3, tzinfo=UTC),
    )
    await project_batch(rl, batch)
    await project_batch(rl, batch)
    row = await rl.fetchrow("SELECT * FROM training_batches")
    assert row is not None
    assert (row["trajectoryIds"], row["rewardsJson"], row["status"]) == (
        '["t1","t2"]',
        "[0.5,-0.5]",
        "training",
    )
    assert row["startedAt"] == datetime(2026, 10, 2, 3, tzinfo=UTC) and row["batchId"] == batch_id("d" * 64)


async def test_trained_trajectories_are_marked_without_looking_new(rl: asyncpg.Connection, dsn: str) -> None:
    owner = await connect(dsn)
    await owner.execute("""INSERT INTO "User" ("id", "updatedAt") VALUES ('agent', now())""")
    for name in ("t1", "t2", "t3"):
        await owner.execute(
            """INSERT INTO trajectories ("id", "trajectoryId", "agentId", "startTime", "endTime",
                   "durationMs", "stepsJson", "rewardComponentsJson", "metricsJson", "metadataJson",
                   "totalReward", "episodeLength", "finalStatus", "updatedAt")
               VALUES ($1, $1, 'agent', now(), now(), 0, '[]', '{}', '{}', '{}', 0, 0, 'completed',
                       '2026-10-01')""",
            name,
        )
    await mark_trained(rl, ["t1", "t2"], "e" * 64)
    rows = await owner.fetch(
        'SELECT "usedInTraining", "trainedInBatch", "updatedAt" FROM trajectories ORDER BY "id"'
    )
    await owner.close()
    assert [row["trainedInBatch"] for row in rows] == [batch_id("e" * 64), batch_id("e" * 64), None]
    assert [row["usedInTraining"] for row in rows] == [True, True, False]
    assert {row["updatedAt"] for row in rows} == {datetime(2026, 10, 1, tzinfo=UTC)}


async def test_another_writers_row_is_left_alone_and_does_not_stop_a_deployment(
    rl: asyncpg.Connection, make: MakeModel, caplog: pytest.LogCaptureFixture
) -> None:
    model = await make()
    await rl.execute(
        """INSERT INTO trained_models ("id", "modelId", "version", "baseModel", "storagePath", "updatedAt")
           VALUES ('theirs', $1, 'v0.0.1', 'llama', 'somewhere', now() AT TIME ZONE 'UTC')""",
        model.model_id,
    )
    with pytest.raises(ProjectionConflictError, match="PROJECT_TO_GAME"):
        await project_model(rl, model)
    assert (await deploy(rl, rl, "v0.0.1", reason="better")).changed
    assert "not shown in the game's trained_models" in caplog.text
    assert await rl.fetchval('SELECT "baseModel" FROM trained_models') == "llama"


async def test_a_lost_game_database_does_not_undo_a_deployment(
    rl: asyncpg.Connection, make: MakeModel, dsn: str
) -> None:
    await make()
    game = await connect(dsn)
    await game.execute("DROP TABLE trained_models")
    assert (await deploy(rl, game, "v0.0.1", reason="better")).changed
    await game.close()
    now = await current(rl)
    assert now is not None and now.version == "v0.0.1"
