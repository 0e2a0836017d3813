"""What W&B gets of the assets around a training: an artifact each, with digests and lineage."""

import asyncio
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
import pytest

from babylon_rl.database.connection import open_databases
from babylon_rl.deployment.candidates import ensure_base
from babylon_rl.deployment.judging import content_key
from babylon_rl.deployment.registry import ModelRecord
from babylon_rl.orchestration.assets.deployed_model import deployed_model
from babylon_rl.orchestration.assets.market_outcomes import market_outcomes
from babylon_rl.orchestration.assets.recorded_rows import recorded_rows
from babylon_rl.orchestration.assets.scored_groups import scored_groups
from babylon_rl.orchestration.assets.training_batch import training_batch
from babylon_rl.orchestration.assets.trajectories import trajectories
from babylon_rl.orchestration.resources import (
    ArtifactStoreResource,
    ArtResource,
    PostgresResource,
    WandbResource,
)
from babylon_rl.settings import Settings, get_settings
from babylon_rl_tests.wandb_server import WandbServer

WINDOW, DAY = "2026-10-02T14:00", "2026-10-02"
AGENTS = ["agent-1", "agent-2", "agent-3"]


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch, settings: Settings) -> Iterator[WandbServer]:
    for name in list(os.environ):
        if name.startswith("WANDB_"):
            monkeypatch.delenv(name)
    for name in ("DIR", "DATA_DIR", "CACHE_DIR", "CONFIG_DIR", "SILENT", "ERROR_REPORTING"):
        monkeypatch.setenv(f"WANDB_{name}", "")
    monkeypatch.setenv("TRAINING_BACKEND", "embedded")
    with WandbServer() as server:
        for name, value in {"MODE": "online", "API_KEY": "k" * 40, "ENTITY": "team"}.items():
            monkeypatch.setenv(f"WANDB_{name}", value)
        monkeypatch.setenv("WANDB_BASE_URL", server.base_url)
        get_settings.cache_clear()
        yield server


def resources() -> dict[str, object]:
    return {
        "postgres": PostgresResource(),
        "art": ArtResource(),
        "wandb": WandbResource(),
        "store": ArtifactStoreResource(),
    }


def test_an_artifact_for_every_asset_with_digests_and_lineage(
    wandb: WandbServer, record: Callable[..., None]
) -> None:
    record(AGENTS, WINDOW)
    hourly = [recorded_rows, trajectories, market_outcomes, scored_groups]
    made: dict[str, str] = {}
    with dg.instance_for_test() as instance:
        for assets, partition in ((hourly, WINDOW), ([training_batch], DAY)):
            result = dg.materialize(assets, instance=instance, resources=resources(), partition_key=partition)
            for event in result.get_asset_materialization_events():
                tags = event.materialization.tags or {}
                assert isinstance(event.materialization.metadata["wandb"], dg.UrlMetadataValue)
                made[event.materialization.asset_key.to_user_string()] = tags["dagster/data_version"]
    sent = {artifact.name: artifact for artifact in wandb.artifacts}
    assert wandb.unknown == [] and set(sent) == set(made) and len(made) == 4
    for name, artifact in sent.items():
        partition = DAY if name == "training_batch" else WINDOW
        assert artifact.state == "COMMITTED" and artifact.metadata["digests"] == {partition: made[name]}
        assert partition.replace(":", "-") in artifact.aliases
    outcomes = sent["market_outcomes"].metadata["inputs"][WINDOW]
    behind = {"trajectories": made["trajectories"], **outcomes}
    assert sent["scored_groups"].metadata["inputs"] == {WINDOW: behind} and len(behind) == 2
    assert sent["training_batch"].metadata["inputs"] == {DAY: {WINDOW: made["scored_groups"]}}
    assert {wandb.exit_code(run) for run in wandb.runs} == {0} and len(wandb.runs) == 4


def test_a_deployment_names_its_checkpoint(wandb: WandbServer, home_with_base: Path) -> None:
    async def base() -> ModelRecord:
        async with open_databases(get_settings()) as db:
            return await ensure_base(db.rl, get_settings())

    model = asyncio.run(base())
    config = {"version": model.version, "against_the_gate": True}
    with dg.instance_for_test() as instance:
        for _ in range(2):  # the second time nothing changes, and nothing is logged
            dg.materialize(
                [deployed_model],
                instance=instance,
                resources={name: value for name, value in resources().items() if name != "store"},
                run_config={"ops": {"deployed_model": {"config": config}}},
            )
    [artifact] = wandb.artifacts
    assert artifact.metadata["inputs"] == {"v0.0.0": {"trained_checkpoint": content_key(model)}}
    assert {"production", "v0.0.0"} <= set(artifact.aliases) and wandb.unknown == []
