"""The three hourly assets on a real database: 24 windows of one run, good, thin, empty and broken ones."""

import asyncio
from collections.abc import Coroutine
from datetime import timedelta
from typing import Any

import asyncpg
import dagster as dg
import pytest

from babylon_rl.database.connection import connect
from babylon_rl.orchestration.assets.market_outcomes import market_outcomes
from babylon_rl.orchestration.assets.recorded_rows import recorded_rows
from babylon_rl.orchestration.assets.scored_groups import scored_groups
from babylon_rl.orchestration.assets.trajectories import trajectories
from babylon_rl.orchestration.resources import (
    ArtifactStoreResource,
    ArtResource,
    PostgresResource,
    WandbResource,
)
from babylon_rl.orchestration.runs import partition_tags
from babylon_rl.settings import Settings
from babylon_rl.windows import window_range, windows_of_day
from babylon_rl_tests.game_rows import add_market, add_question
from babylon_rl_tests.orchestration.recorded import TICKER, record_window

DAY = "2026-10-02"
WINDOWS = windows_of_day(DAY)
GOOD, THIN, BROKEN, EMPTY = WINDOWS[3], WINDOWS[4], WINDOWS[5], WINDOWS[6]
AGENTS = ["agent-a", "agent-b", "agent-c", "agent-d"]
SCORED_ONLY = {
    *("groups/reward_mean", "groups/reward_std", "pnl/mean", "actions/invalid_rate"),
    *("reward/pnl_spearman", "reward/pnl_variance_share"),
}
ASSETS = ("trajectories", "market_outcomes", "scored_groups")


@pytest.fixture
def day(dsn: str) -> str:
    """A day with one good, one thin, one partly unreadable window, and 21 empty ones."""

    async def write() -> None:
        game = await connect(dsn)
        await record_window(game, GOOD, AGENTS)
        await record_window(game, THIN, AGENTS[:1])
        await record_window(game, BROKEN, AGENTS, garbage=2)
        await game.close()

    asyncio.run(write())
    return DAY


@pytest.fixture
def instance(monkeypatch: pytest.MonkeyPatch, settings: Settings):
    monkeypatch.setenv("WANDB_MODE", "none")
    with dg.instance_for_test() as instance:
        yield instance


def materialize(
    instance: dg.DagsterInstance, first: str, last: str | None = None
) -> dg.ExecuteInProcessResult:
    return dg.materialize(
        [recorded_rows, trajectories, market_outcomes, scored_groups],
        instance=instance,
        resources={
            "postgres": PostgresResource(),
            "art": ArtResource(),
            "wandb": WandbResource(mode="none"),
            "store": ArtifactStoreResource(),
        },
        tags=partition_tags(first, last),
        partition_key=first if last is None else None,
    )


def latest(instance: dg.DagsterInstance, asset: str, window_id: str) -> dg.AssetMaterialization:
    records = instance.fetch_materializations(
        dg.AssetRecordsFilter(asset_key=dg.AssetKey(asset), asset_partitions=[window_id]), limit=1
    ).records
    assert records and records[0].asset_materialization
    return records[0].asset_materialization


def version(instance: dg.DagsterInstance, asset: str, window_id: str) -> str:
    return (latest(instance, asset, window_id).tags or {})["dagster/data_version"]


def status(instance: dg.DagsterInstance, asset: str, window_id: str) -> object:
    return latest(instance, asset, window_id).metadata["status"].value


def figures(made: dg.AssetMaterialization) -> dict[str, float]:
    values = {key: value.value for key, value in made.metadata.items()}
    return {key: value for key, value in values.items() if isinstance(value, int | float)}


def query(dsn: str, sql: str, *arguments: Any) -> list[asyncpg.Record]:
    async def read() -> list[asyncpg.Record]:
        connection = await connect(dsn)
        try:
            return await connection.fetch(sql, *arguments)
        finally:
            await connection.close()

    return _run(read())


def _run(work: Coroutine[Any, Any, list[asyncpg.Record]]) -> list[asyncpg.Record]:
    return asyncio.run(work)


def test_a_range_run_materializes_every_window_with_its_own_version_and_status(
    day: str, instance: dg.DagsterInstance, dsn: str
):
    result = materialize(instance, WINDOWS[0], WINDOWS[-1])
    assert result.success
    for asset in ASSETS:
        assert instance.get_materialized_partitions(dg.AssetKey(asset)) == set(WINDOWS)
        assert version(instance, asset, GOOD) != version(instance, asset, BROKEN)

    assert status(instance, "scored_groups", GOOD) == "scored"
    assert status(instance, "scored_groups", THIN) == "thin"
    assert status(instance, "scored_groups", EMPTY) == "empty"
    assert status(instance, "trajectories", EMPTY) == "empty"
    good = latest(instance, "scored_groups", GOOD).metadata
    assert good["groups/agents"].value == len(AGENTS)
    assert good["groups/reward_std"].value > 0  # type: ignore[operator]
    assert "agent-a" in good["members"].value  # type: ignore[operator]

    states = {row["window_id"]: row for row in query(dsn, "SELECT * FROM rl.window_state")}
    assert set(states) == set(WINDOWS)
    assert states[GOOD]["group_status"] == "scored"
    assert states[THIN]["group_reason"] == "1 of at least 3 agents"
    assert states[GOOD]["outcomes_status"] == "settled"
    scores = query(dsn, "SELECT agent_id, reward FROM rl.scores WHERE window_id = $1 ORDER BY 1", GOOD)
    assert [row["agent_id"] for row in scores] == AGENTS
    assert scores[0]["reward"] > scores[1]["reward"], "the long earned, the short lost"


def test_unreadable_rows_do_not_sink_their_window(day: str, instance: dg.DagsterInstance, dsn: str):
    materialize(instance, BROKEN)
    assert status(instance, "scored_groups", BROKEN) == "scored"
    assert latest(instance, "trajectories", BROKEN).metadata["rows/quarantined"].value == 2
    assert len(query(dsn, "SELECT 1 FROM rl.quarantine WHERE window_id = $1", BROKEN)) == 2


@pytest.mark.parametrize("last", [None, BROKEN])
def test_reasons_of_quarantined_rows_are_counted_in_a_table(
    day: str, instance: dg.DagsterInstance, last: str | None
):
    materialize(instance, BROKEN if last is None else GOOD, last)
    found = latest(instance, "trajectories", BROKEN).metadata
    reasons = found["quarantine reasons"]
    assert isinstance(reasons, dg.TableMetadataValue)
    assert [(column.name, bool(column.description)) for column in reasons.schema.columns] == [
        (name, True) for name in ("reason", "rows", "example", "detail")
    ]
    [row] = [record.data for record in reasons.records]
    assert row["reason"] == "invalid_json" and row["rows"] == 2 and row["example"]
    assert "Expecting property name" in str(row["detail"])
    if last is not None:
        assert "quarantine reasons" not in latest(instance, "trajectories", GOOD).metadata


def test_outcomes_show_predictions_as_far_as_the_game_has_resolved_them(
    day: str, instance: dg.DagsterInstance, dsn: str
):
    start, _ = window_range(GOOD)
    resolved_at = start + timedelta(minutes=30)

    async def markets() -> None:
        game = await connect(dsn)
        for name, resolution in (("m-open", None), ("m-yes", True)):
            moments: dict[str, Any] = {"createdAt": start - timedelta(days=1), "updatedAt": resolved_at}
            question, done = f"Will {name} | happen?", resolution is not None
            shares = {"yesShares": 300, "noShares": 100, "resolved": done, "resolution": resolution}
            await add_market(game, name, question=question, **shares, **moments)
            # The answer is in the question from the start.
            status = "resolved" if done else "active"
            await add_question(game, id=name, text=question, outcome=True, status=status, **moments)
        await game.close()

    asyncio.run(markets())
    materialize(instance, GOOD)
    metadata = latest(instance, "market_outcomes", GOOD).metadata
    assert metadata["markets/predictions"].value == 2 and metadata["markets/resolved"].value == 1
    assert isinstance(metadata["predictions"], dg.TableMetadataValue)
    resolved, still_open = (record.data for record in metadata["predictions"].records)
    assert resolved["market"] == "m-yes" and resolved["question"] == "Will m-yes | happen?"
    assert (resolved["outcome"], resolved["chance of YES"]) == ("YES", 0.25)
    assert resolved["resolved at"] == f"{resolved_at:%Y-%m-%d %H:%M:%S}"
    assert (still_open["market"], still_open["outcome"]) == ("m-open", "UNRESOLVED")
    assert still_open["resolved at"] is None
    assert isinstance(metadata["stocks"], dg.TableMetadataValue)
    assert metadata["stocks"].records[0].data["stock"] == TICKER


def test_every_window_has_the_same_figures_to_plot_and_says_how_long_it_took(
    day: str, instance: dg.DagsterInstance
):
    materialize(instance, WINDOWS[0], WINDOWS[-1])
    for asset, stage in zip(ASSETS, ("freeze", "derive", "score"), strict=True):
        good, empty = (figures(latest(instance, asset, window_id)) for window_id in (GOOD, EMPTY))
        assert 0 < good[f"duration/{stage}_s"] < 60 and empty[f"duration/{stage}_s"] > 0
        assert all("/" in key for key in good)
        missing = {"rows/good_share", "markets/mean_move_percent", "orders/mean_value_1h", *SCORED_ONLY}
        assert set(good) - set(empty) <= missing, "a missing figure is a gap, an empty window has the rest"
        for key, figure in good.items():
            assert figure == float(f"{figure:.6g}") or isinstance(figure, int), key
        assert all(value.value not in ("", None) for value in latest(instance, asset, GOOD).metadata.values())


def test_a_single_window_run_after_a_range_run_finds_nothing_changed(day: str, instance: dg.DagsterInstance):
    materialize(instance, WINDOWS[0], WINDOWS[-1])
    before = {(asset, w): version(instance, asset, w) for asset in ASSETS for w in (GOOD, EMPTY)}
    for window_id in (GOOD, EMPTY):
        materialize(instance, window_id)
    assert before == {(asset, w): version(instance, asset, w) for asset in ASSETS for w in (GOOD, EMPTY)}


def test_a_late_row_changes_its_window_only(day: str, instance: dg.DagsterInstance, dsn: str):
    materialize(instance, WINDOWS[0], WINDOWS[-1])
    good, thin = version(instance, "trajectories", GOOD), version(instance, "trajectories", THIN)

    async def late() -> None:
        game = await connect(dsn)
        await record_window(game, THIN, AGENTS)
        await game.close()

    asyncio.run(late())
    materialize(instance, WINDOWS[0], WINDOWS[-1])
    assert version(instance, "trajectories", GOOD) == good
    assert version(instance, "trajectories", THIN) != thin
    assert status(instance, "scored_groups", THIN) == "scored"


def test_provenance_survives_the_second_event_of_a_range_run(day: str, instance: dg.DagsterInstance):
    materialize(instance, WINDOWS[0], WINDOWS[-1])
    tags = latest(instance, "scored_groups", GOOD).tags or {}
    assert tags["dagster/code_version"] == "1"
    assert {"dagster/input_event_pointer/trajectories", "dagster/input_event_pointer/market_outcomes"} <= set(
        tags
    )


def test_a_window_without_outcomes_is_scored_later(day: str, instance: dg.DagsterInstance, dsn: str):
    dg.materialize(
        [recorded_rows, trajectories, scored_groups, market_outcomes],
        selection=["trajectories", "scored_groups"],
        instance=instance,
        resources={
            "postgres": PostgresResource(),
            "art": ArtResource(),
            "wandb": WandbResource(mode="none"),
            "store": ArtifactStoreResource(),
        },
        partition_key=GOOD,
    )
    assert status(instance, "scored_groups", GOOD) == "immature"
    reason = latest(instance, "scored_groups", GOOD).metadata["reason"].value
    assert reason == "market_outcomes of this window is not materialized"
