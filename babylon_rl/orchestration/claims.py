"""Which partitions a queued or running run, or a requested backfill, already covers."""

from collections.abc import Sequence

import dagster as dg
from dagster._core.execution.backfill import BulkActionsFilter, BulkActionStatus

RUN_KEY_TAG = "dagster/run_key"

UNFINISHED = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]
_FINISHED_BACKFILLS = {
    BulkActionStatus.COMPLETED,
    BulkActionStatus.COMPLETED_SUCCESS,
    BulkActionStatus.COMPLETED_FAILED,
    BulkActionStatus.FAILED,
    BulkActionStatus.CANCELED,
}


def claimed_partitions(
    instance: dg.DagsterInstance,
    repository: dg.RepositoryDefinition,
    asset_key: dg.AssetKey,
    partitions: dg.PartitionsDefinition,
) -> set[str]:
    """Returns the partition keys of an asset that are being materialized, or are about to be."""
    claimed: set[str] = set()
    for run in instance.get_runs(dg.RunsFilter(statuses=UNFINISHED)):
        if run.asset_selection is None or asset_key in run.asset_selection:
            claimed |= {key for key in run_partitions(run, partitions)}
    unfinished = [status for status in BulkActionStatus if status not in _FINISHED_BACKFILLS]
    for backfill in instance.get_backfills(filters=BulkActionsFilter(statuses=unfinished)):
        if backfill.is_asset_backfill and asset_key in (backfill.asset_selection or ()):
            data = backfill.get_asset_backfill_data(repository.asset_graph)
            subset = data.get_target_partitions_subset(asset_key)
            claimed |= set(subset.get_partition_keys()) if subset else set()
    return claimed


def used_run_keys(instance: dg.DagsterInstance, keys: Sequence[str]) -> set[str]:
    """Returns those of the run keys under which a run exists; Dagster will not start a second one."""
    if not keys:
        return set()
    runs = instance.get_runs(dg.RunsFilter(tags={RUN_KEY_TAG: list(keys)}))
    return {run.tags[RUN_KEY_TAG] for run in runs}


def run_partitions(run: dg.DagsterRun, partitions: dg.PartitionsDefinition) -> list[str]:
    """Returns the keys of `partitions` that a run covers; none where its keys are of another kind."""
    first = run.tags.get("dagster/asset_partition_range_start") or run.tags.get("dagster/partition")
    last = run.tags.get("dagster/asset_partition_range_end") or first
    if not first or not last:
        return []
    if not (partitions.has_partition_key(first) and partitions.has_partition_key(last)):
        return []
    return list(partitions.get_partition_keys_in_range(dg.PartitionKeyRange(first, last)))
