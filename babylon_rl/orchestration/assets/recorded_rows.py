"""`recorded_rows`: what the game's agents wrote; observed, not made, by the pipeline."""

import asyncio
import warnings
from collections.abc import Iterator

import dagster as dg
from dagster._core.definitions.source_asset import SYSTEM_METADATA_KEY_SOURCE_ASSET_OBSERVATION

from babylon_rl.orchestration.assets.common import GROUP, OWNERS
from babylon_rl.orchestration.changes import windows_with_other_rows
from babylon_rl.orchestration.instance import RECORDED_ROWS
from babylon_rl.orchestration.partitions import hourly
from babylon_rl.orchestration.readiness import WindowFacts
from babylon_rl.orchestration.resources import JUDGE, PostgresResource
from babylon_rl.records.reader import reconcile_window_rows

SPEC = dg.AssetSpec(
    RECORDED_ROWS,
    partitions_def=hourly,
    group_name=GROUP,
    owners=OWNERS,
    kinds={"postgres"},
    metadata={"dagster/table_name": "trajectories"},
    description="Rows that the recorder wrote for a window. Observing it compares every row with what is "
    "known of it and gives each window whose rows have changed since it was frozen a new data version, so "
    "that `trajectories` of that window is stale. The readiness sensor observes the windows it requests.",
)


def observation(facts: WindowFacts) -> dg.AssetObservation:
    """Returns what Dagster is told of a window's rows; its data version is their fingerprint.

    Only of windows that are to be made (again): the first version of an input that had none makes what was
    made from it stale, whether or not anything has changed.
    """
    return dg.AssetObservation(
        SPEC.key,
        partition=facts.window_id,
        metadata={"rows/count": facts.rows, "rows/agents": facts.agents, "changed": facts.stale or ""},
        tags={"dagster/data_version": facts.fingerprint or "empty"},
    )


def _observe(context: dg.AssetExecutionContext, postgres: PostgresResource) -> Iterator[dg.Output[None]]:
    async def changed() -> list[WindowFacts]:
        async with postgres.connect(role=JUDGE) as db:
            await reconcile_window_rows(db.game, db.rl)
            first = postgres.settings().first_partition
            return [w for w in await windows_with_other_rows(db.rl) if w.window_id >= first]

    found = asyncio.run(changed())
    for facts in found:
        context.log_event(observation(facts))
    context.log.info(f"{len(found)} windows have other rows than when they were frozen")
    # Not `ObserveResult`: of a run for one partition that would be an observation of it without a version.
    observed = {SYSTEM_METADATA_KEY_SOURCE_ASSET_OBSERVATION: True}
    yield dg.Output(None, SPEC.key.to_user_string(), metadata=observed)


with warnings.catch_warnings():
    warnings.simplefilter("ignore", dg.BetaWarning)
    recorded_rows = dg.multi_observable_source_asset(specs=[SPEC], name="recorded_rows")(_observe)
