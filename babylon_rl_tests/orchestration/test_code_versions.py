"""Changed logic makes its windows stale: the resolver behind Dagster's UI, before and after a change."""

from collections.abc import Callable

import dagster as dg
from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleCauseCategory, StaleStatus
from dagster._core.loader import LoadingContextForTest

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

WINDOWS = ["2026-10-02T03:00", "2026-10-02T04:00"]
HOURLY = [trajectories, market_outcomes, scored_groups]
RESOURCES = {
    "postgres": PostgresResource(),
    "art": ArtResource(),
    "wandb": WandbResource(mode="none"),
    "store": ArtifactStoreResource(),
}


def stale(
    instance: dg.DagsterInstance, assets: list[dg.AssetsDefinition]
) -> dict[tuple[str, str], set[StaleCauseCategory]]:
    """The categories of the causes of each window that these definitions would call stale."""
    definitions = dg.Definitions([recorded_rows, *assets], resources=RESOURCES)
    graph = definitions.get_repository_def().asset_graph
    resolver = CachingStaleStatusResolver(instance, graph, LoadingContextForTest(instance))
    found = {}
    for asset in assets:
        for window in WINDOWS:
            status = resolver.get_status(asset.key, window)
            assert status in (StaleStatus.FRESH, StaleStatus.STALE)
            if status == StaleStatus.STALE:
                causes = resolver.get_stale_root_causes(asset.key, window)
                found[asset.key.to_user_string(), window] = {cause.category for cause in causes}
    return found


def changed(asset: dg.AssetsDefinition) -> dg.AssetsDefinition:
    """The asset as it is after its logic was changed."""
    return asset.map_asset_specs(lambda spec: spec.replace_attributes(code_version="another"))


def make(instance: dg.DagsterInstance, assets: list[dg.AssetsDefinition]) -> None:
    assert dg.materialize(
        [recorded_rows, *assets],
        selection=assets,
        instance=instance,
        resources=RESOURCES,
        tags=partition_tags(*WINDOWS),
    ).success


def test_a_changed_code_version_makes_every_window_stale(
    pg_instance: dg.DagsterInstance, record: Callable[..., None]
) -> None:
    record(["agent-a", "agent-b", "agent-c"], *WINDOWS)
    make(pg_instance, HOURLY)
    assert stale(pg_instance, HOURLY) == {}
    scorer = [trajectories, market_outcomes, changed(scored_groups)]
    assert stale(pg_instance, scorer) == {("scored_groups", w): {StaleCauseCategory.CODE} for w in WINDOWS}
    reader = [changed(trajectories), market_outcomes, scored_groups]
    assert stale(pg_instance, reader) == {("trajectories", w): {StaleCauseCategory.CODE} for w in WINDOWS}
    make(pg_instance, scorer)
    assert stale(pg_instance, scorer) == {}
