"""Daily assets launched alone: each verifies what it is made of, and says what is missing."""

import asyncio
from datetime import date

import dagster as dg
import pytest

from babylon_rl.database.connection import connect
from babylon_rl.orchestration.assets.checkpoint_benchmark import checkpoint_benchmark
from babylon_rl.orchestration.assets.trained_checkpoint import trained_checkpoint
from babylon_rl.orchestration.assets.training_batch import training_batch
from babylon_rl.orchestration.resources import (
    ArtifactStoreResource,
    ArtResource,
    PostgresResource,
    WandbResource,
)
from babylon_rl.settings import Settings

DAY = "2026-10-02"
_BATCH = """
INSERT INTO rl.training_batches (batch_sha256, day, uri, status, groups, episodes, calls, created_at)
VALUES ('b', $1, 'file:///none', 'ready', 1, 3, 3, now() - interval '1 minute')
"""
_GROUP = """
INSERT INTO rl.window_state (window_id, group_status, group_sha256) VALUES ($1, 'scored', 'g')
"""
_SCORE = """
INSERT INTO rl.scores (window_id, agent_id, scorer, group_sha256, reward, advantage, scored_at)
VALUES ($1, 'agent-a', 'pnl', 'g', 1, 0, now() - interval '1 minute' * $2::float8)
"""


def store(dsn: str, *, scored_minutes_ago: float) -> None:
    """A batch of a minute ago, of one window with a group."""

    async def write() -> None:
        connection = await connect(dsn)
        await connection.execute(_BATCH, date.fromisoformat(DAY))
        await connection.execute(_GROUP, f"{DAY}T03:00")
        await connection.execute(_SCORE, f"{DAY}T03:00", scored_minutes_ago)
        await connection.close()

    asyncio.run(write())


def failure(asset: dg.AssetsDefinition, config: dict[str, object] | None = None) -> str:
    """Materializes one asset alone and returns how its step failed; empty where it did not."""
    with dg.instance_for_test() as instance:
        result = dg.materialize(
            [training_batch, trained_checkpoint, checkpoint_benchmark],
            selection=[asset],
            instance=instance,
            resources={
                "postgres": PostgresResource(),
                "art": ArtResource(),
                "wandb": WandbResource(mode="none"),
                "store": ArtifactStoreResource(),
            },
            partition_key=DAY,
            run_config={"ops": {asset.key.to_user_string(): {"config": config}}} if config else None,
            raise_on_error=False,
        )
        return "".join(
            f"{event.step_failure_data.user_failure_data} {event.step_failure_data.error}"
            for event in result.all_events
            if event.event_type == dg.DagsterEventType.STEP_FAILURE
        )


@pytest.mark.parametrize("asset", [trained_checkpoint, checkpoint_benchmark])
def test_a_day_without_a_batch_is_refused(asset: dg.AssetsDefinition, settings: Settings):
    said = failure(asset)
    assert f"There is no training batch of {DAY}" in said
    assert f"Materialize the partition {DAY} of training_batch" in said


def test_a_day_that_waits_for_its_training_is_not_benchmarked(settings: Settings, dsn: str):
    store(dsn, scored_minutes_ago=5)
    said = failure(checkpoint_benchmark)
    assert f"{DAY} has a batch and has not been trained" in said and "trained_checkpoint first" in said


def test_a_batch_of_other_windows_than_those_of_now_is_not_trained(settings: Settings, dsn: str):
    store(dsn, scored_minutes_ago=0)
    said = failure(trained_checkpoint)
    assert f"{DAY}: 1 windows were scored after the day's batch was made: {DAY}T03:00" in said
    assert "force: true" in said
    assert "after the day's batch" not in failure(trained_checkpoint, {"force": True})


def test_a_batch_of_the_windows_of_now_is_loaded(settings: Settings, dsn: str):
    store(dsn, scored_minutes_ago=5)
    said = failure(trained_checkpoint)
    assert said and "after the day's batch" not in said, "its file is what is missing here"
