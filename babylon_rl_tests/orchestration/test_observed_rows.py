"""Observing `recorded_rows`: which windows Dagster is told of."""

import asyncio
from collections.abc import Callable

import asyncpg
import dagster as dg

from babylon_rl.database.connection import connect
from babylon_rl.orchestration.assets.recorded_rows import recorded_rows
from babylon_rl.orchestration.assets.trajectories import trajectories
from babylon_rl.orchestration.resources import ArtifactStoreResource, PostgresResource, WandbResource
from babylon_rl.orchestration.runs import partition_tags
from babylon_rl.settings import Settings
from babylon_rl.windows import windows_of_day

WINDOWS = windows_of_day("2026-10-02")
CHANGED, OTHER = WINDOWS[3], WINDOWS[5]
AGENTS = ["agent-a", "agent-b", "agent-c"]
_STATE = "UPDATE rl.window_state SET group_status = 'scored'"
_STALE = "SELECT window_id, stale_reason FROM rl.recorded_windows WHERE stale_reason IS NOT NULL"


def freeze(instance: dg.DagsterInstance) -> None:
    assert dg.materialize(
        [trajectories],
        instance=instance,
        resources={
            "postgres": PostgresResource(),
            "wandb": WandbResource(mode="none"),
            "store": ArtifactStoreResource(),
        },
        tags=partition_tags(WINDOWS[0], WINDOWS[-1]),
    ).success


def observe(instance: dg.DagsterInstance) -> dict[str, object]:
    """What has been observed until now: of which windows, and what was said of the last observation."""
    known = dg.Definitions(assets=[recorded_rows], resources={"postgres": PostgresResource()})
    assert known.resolve_implicit_global_asset_job_def().execute_in_process(instance=instance).success
    records = instance.fetch_observations(dg.AssetKey("recorded_rows"), limit=100).records
    found = [record.asset_observation for record in records if record.asset_observation]
    return {one.partition: one.metadata["changed"].value for one in found if one.partition}


def on(dsn: str, statement: str) -> dict[str, str]:
    async def run() -> list[asyncpg.Record]:
        connection = await connect(dsn)
        try:
            return await connection.fetch(statement)
        finally:
            await connection.close()

    return {row[0]: row[1] for row in asyncio.run(run())}


def test_windows_with_other_rows_are_observed_and_no_others(
    record: Callable[..., None], settings: Settings, dsn: str
):
    record(AGENTS, CHANGED, OTHER)
    with dg.instance_for_test() as instance:
        freeze(instance)
        on(dsn, _STATE)
        assert observe(instance) == {}, "the first version of an input makes what was made of it stale"
        record(["agent-late"], CHANGED)
        assert observe(instance) == {CHANGED: "3 rows when it was scored and 4 now"}
        assert on(dsn, _STALE) == {}
        freeze(instance)
        assert on(dsn, _STALE) == {CHANGED: "frozen with other rows and not scored since"}
