"""The daily assets with residuals: asked for by run config, shown beside what was left out."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import dagster as dg
import pytest

from babylon_rl.database.connection import open_databases
from babylon_rl.orchestration.assets.trained_checkpoint import trained_checkpoint
from babylon_rl.orchestration.assets.training_batch import training_batch
from babylon_rl.orchestration.resources import (
    ArtifactStoreResource,
    ArtResource,
    PostgresResource,
    WandbResource,
)
from babylon_rl.records.store import ArtifactStore
from babylon_rl.scoring.groups import ScoredGroup
from babylon_rl.settings import Settings
from babylon_rl_tests.training.test_residuals import DAYS, Game, played

__all__ = ["played"]


def materialize(instance: dg.DagsterInstance, day: str, *, residuals: bool | None) -> dict[str, dict]:
    """Metadata of batch and checkpoint, by asset."""
    resources = {
        "postgres": PostgresResource(),
        "art": ArtResource(),
        "wandb": WandbResource(mode="none"),
        "store": ArtifactStoreResource(),
    }
    wanted = {"force": True, "skip_readiness": True, "batch_size": 8}
    if residuals is not None:
        wanted["residual_rewards"] = residuals
    done = dg.materialize(
        [training_batch, trained_checkpoint],
        instance=instance,
        resources=resources,
        partition_key=day,
        run_config={"ops": {"training_batch": {"config": wanted}}},
    )
    return {
        event.asset_key.to_user_string(): {
            name: value.value for name, value in event.materialization.metadata.items()
        }
        for event in done.get_asset_materialization_events()
        if event.asset_key is not None
    }


def test_the_ui_shows_what_a_day_pays_of_earlier_ones_and_what_it_leaves_out(
    settings: Settings, home_with_base: Path, played: list[ScoredGroup]
) -> None:
    def on_game(work: Callable[[Game], Awaitable[object]]) -> None:
        async def act() -> None:
            async with open_databases(settings) as db:
                game = Game(db.rl, ArtifactStore(settings.home / "artifacts"), played)
                game.groups[1].members[0].calls[0].finish_reason = "length"
                await work(game)

        asyncio.run(act())

    on_game(lambda game: game.scored())
    with dg.instance_for_test() as instance:
        first = materialize(instance, DAYS[0], residuals=None)
        assert not [name for found in first.values() for name in found if name.startswith("residual/")]
        on_game(lambda game: game.resolve())
        second = materialize(instance, DAYS[1], residuals=True)
    batch, checkpoint = second["training_batch"], second["trained_checkpoint"]
    shown = {name: batch[f"residual/{name}"] for name in ("groups", "episodes", "waiting")}
    assert shown == {"groups": 1, "episodes": 4, "waiting": 0}
    assert batch["residual/usd"] == pytest.approx(78 + 99 + 44) and batch["episodes/count"] == 8
    assert checkpoint["status"] == "trained" and checkpoint["residual/groups"] == 1
    assert checkpoint["dropped/cut_by_token_limit"] == 1 and checkpoint["dropped/zero_advantage"] == 0
