"""The whole loop through Dagster: simulated trading, windows, batch, training, benchmark, deployment.

Everything is real: PostgreSQL for the game and for Dagster, the tiny base model, ART's loss, W&B offline.
"""

import asyncio
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import asyncpg
import dagster as dg
import pytest

from babylon_rl.database.connection import connect, open_databases
from babylon_rl.deployment.candidates import ensure_base
from babylon_rl.deployment.storage import open_engine
from babylon_rl.orchestration.instance import LIBRARY_ENVIRONMENT, open_instance
from babylon_rl.orchestration.runs import run_day, run_hours
from babylon_rl.settings import Settings, get_settings
from babylon_rl.simulation.world import ensure_world, simulate_day
from babylon_rl.windows import windows_of_day

DAY, EMPTY_DAY = date(2026, 10, 2), date(2026, 10, 3)
DAILY = ("training_batch", "trained_checkpoint", "checkpoint_benchmark")


@pytest.fixture
def loop_settings(
    monkeypatch: pytest.MonkeyPatch, settings: Settings, home_with_base: Path, empty_dsn: str
) -> Settings:
    for name in ("DAGSTER_HOME", *LIBRARY_ENVIRONMENT):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("DAGSTER_PG", empty_dsn)
    get_settings.cache_clear()
    return get_settings()


@pytest.fixture
def instance(loop_settings: Settings) -> Iterator[dg.DagsterInstance]:
    with open_instance(loop_settings) as instance:
        yield instance


def simulate(settings: Settings, day: date) -> None:
    async def play() -> None:
        async with open_databases(settings) as db:
            base = await ensure_base(db.rl, settings)
            world = await ensure_world(db.game, db.rl, seed=3, agents=6, start_day=day)
            await simulate_day(db.game, db.rl, open_engine(base), world, day)

    asyncio.run(play())


def query(dsn: str, sql: str, *arguments: Any) -> list[asyncpg.Record]:
    async def read() -> list[asyncpg.Record]:
        connection = await connect(dsn)
        try:
            return await connection.fetch(sql, *arguments)
        finally:
            await connection.close()

    return asyncio.run(read())


def latest(instance: dg.DagsterInstance, asset: str, day: date | None = None) -> dg.AssetMaterialization:
    keys = [str(day)] if day else None
    records = instance.fetch_materializations(
        dg.AssetRecordsFilter(asset_key=dg.AssetKey(asset), asset_partitions=keys), limit=1
    ).records
    assert records and records[0].asset_materialization
    return records[0].asset_materialization


def value(materialization: dg.AssetMaterialization, key: str) -> Any:
    return materialization.metadata[key].value


def checks(instance: dg.DagsterInstance) -> dict[str, dg.AssetCheckEvaluation]:
    """The newest evaluation of each check."""
    found = {}
    for run in reversed(instance.get_runs()):
        kind = dg.DagsterEventType.ASSET_CHECK_EVALUATION
        for record in instance.get_records_for_run(run.run_id, of_type=kind).records:
            event = record.event_log_entry.dagster_event
            data = event.event_specific_data if event else None
            assert isinstance(data, dg.AssetCheckEvaluation)
            found[data.check_name] = data
    return found


def versions(instance: dg.DagsterInstance, day: date) -> list[str]:
    return [(latest(instance, asset, day).tags or {})["dagster/data_version"] for asset in DAILY]


def test_a_day_from_trading_to_a_judged_model(
    loop_settings: Settings, instance: dg.DagsterInstance, dsn: str
):
    simulate(loop_settings, DAY)
    run_hours(instance, str(DAY))
    assert instance.get_materialized_partitions(dg.AssetKey("scored_groups")) == set(windows_of_day(str(DAY)))
    run_day(instance, str(DAY))

    batch = latest(instance, "training_batch", DAY)
    assert value(batch, "status") == "ready", value(batch, "reason")
    assert value(batch, "leaks/count") == 0
    assert value(batch, "episodes/count") == 24 * 6

    checkpoint = latest(instance, "trained_checkpoint", DAY)
    assert value(checkpoint, "status") == "trained"
    assert value(checkpoint, "parent") == "v0.0.0"
    version = value(checkpoint, "checkpoint")
    [model] = query(dsn, "SELECT * FROM rl.models WHERE version = $1", version)
    assert model["batch_sha256"] == value(checkpoint, "batch") == (batch.tags or {})["dagster/data_version"]
    assert Path(model["storage_path"].removeprefix("file://"), "model.safetensors").is_file()

    benchmark = latest(instance, "checkpoint_benchmark", DAY)
    assert value(benchmark, "status") in ("promoted", "inconclusive", "rejected")
    assert value(benchmark, "gain/low") <= value(benchmark, "gain/mean") <= value(benchmark, "gain/high")
    assert "n = 1024" in value(benchmark, "reason")

    for made, stage in ((batch, "batch"), (checkpoint, "train"), (benchmark, "benchmark")):
        assert 0 < value(made, f"duration/{stage}_s") < 600
        assert isinstance(value(made, "wandb"), str), "the run of W&B, offline its id"
    assert value(checkpoint, "costs/actual_usd") == 0, "of the machine's own hours"
    assert value(latest(instance, "deployed_model"), "duration/deploy_s") > 0

    evaluations = checks(instance)
    assert set(evaluations) == {
        "quarantine_rate",
        "data_quality",
        "outcomes_settled",
        "reward_spread",
        "pnl_share_of_reward",
        "no_leaks",
        "training_ended",
        "invalid_actions",
        "candidate_beats_incumbent",
        "one_active_deployment",
        "judge_agrees_with_money",
        "judge_budget",
        "judge_canary",
        "judge_failures",
    }
    assert evaluations["one_active_deployment"].passed
    assert evaluations["outcomes_settled"].passed and evaluations["training_ended"].passed
    assert evaluations["no_leaks"].passed and evaluations["invalid_actions"].passed
    assert evaluations["candidate_beats_incumbent"].passed == (value(benchmark, "status") == "promoted")

    released = latest(instance, "deployed_model")
    deployed = query(dsn, "SELECT version FROM rl.deployments WHERE ended_at IS NULL AND role = 'active'")
    promoted = value(benchmark, "status") == "promoted"
    assert [row["version"] for row in deployed] == ([version] if promoted else [])
    assert value(released, "status") == ("deployed" if promoted else "unchanged")

    offline = list((loop_settings.home / "wandb").rglob("*.wandb"))
    assert len(offline) >= len(DAILY), "each asset logged a run"

    before = versions(instance, DAY)
    run_day(instance, str(DAY))
    assert versions(instance, DAY) == before, "repeating a day changes nothing"
    again = latest(instance, "trained_checkpoint", DAY)
    assert value(again, "status") == "trained before"
    assert value(again, "duration/train_s") == value(checkpoint, "duration/train_s")
    assert "duration/benchmark_s" not in latest(instance, "checkpoint_benchmark", DAY).metadata
    assert len(query(dsn, "SELECT 1 FROM rl.training_units")) == 1


def test_a_day_without_data_keeps_the_checkpoint(
    loop_settings: Settings, instance: dg.DagsterInstance, dsn: str
):
    run_hours(instance, str(EMPTY_DAY))
    run_day(instance, str(EMPTY_DAY))
    assert value(latest(instance, "training_batch", EMPTY_DAY), "status") == "empty"
    checkpoint = latest(instance, "trained_checkpoint", EMPTY_DAY)
    assert value(checkpoint, "status") == "no data"
    assert value(checkpoint, "checkpoint") == value(checkpoint, "parent") == "v0.0.0"
    assert value(latest(instance, "checkpoint_benchmark", EMPTY_DAY), "status") == "no candidate"
    assert value(latest(instance, "deployed_model"), "status") == "unchanged"
    assert not query(dsn, "SELECT 1 FROM rl.training_units")


def test_a_damaged_parent_fails_the_day_without_stopping_it(
    loop_settings: Settings, instance: dg.DagsterInstance, dsn: str
):
    simulate(loop_settings, DAY)
    [weights] = (loop_settings.home / "models").glob("*/model.safetensors")
    run_hours(instance, str(DAY))
    weights.chmod(0o644)
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    run_day(instance, str(DAY))
    checkpoint = latest(instance, "trained_checkpoint", DAY)
    assert value(checkpoint, "status") == "failed"
    assert "model.safetensors" in value(checkpoint, "reason")
    assert value(checkpoint, "checkpoint") == "v0.0.0"
    assert not query(dsn, "SELECT 1 FROM rl.models WHERE version <> 'v0.0.0'")
