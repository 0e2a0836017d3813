"""`trajectories`: what the agents did in a window, frozen."""

from collections import Counter
from collections.abc import Sequence
from time import monotonic

import dagster as dg

from babylon_rl.orchestration.assets.common import GROUP, OWNERS, log_lineage, retry_on_lost_database
from babylon_rl.orchestration.assets.recorded_rows import recorded_rows
from babylon_rl.orchestration.partitions import ONE_DAY_OF_WINDOWS, hourly
from babylon_rl.orchestration.reporting import (
    Metadata,
    PartitionReport,
    markdown_table,
    materialize_each,
    table,
)
from babylon_rl.orchestration.resources import JUDGE, ArtifactStoreResource, PostgresResource, WandbResource
from babylon_rl.orchestration.window_steps import FrozenWindow, freeze_window
from babylon_rl.records.reader import QuarantinedRow, refresh_window_rows

REASONS = (
    ("reason", "text", "Why rows cannot be read."),
    ("rows", "integer", "Rows of the window."),
    ("example", "text", "Id of the first of them, as in rl.quarantine."),
    ("detail", "text", "Where its reading stopped."),
)
"""Columns of the quarantine's reasons."""


@dg.asset(
    deps=[recorded_rows],
    partitions_def=hourly,
    backfill_policy=ONE_DAY_OF_WINDOWS,
    group_name=GROUP,
    owners=OWNERS,
    kinds={"postgres", "wandb"},
    code_version="1",
)
async def trajectories(
    context: dg.AssetExecutionContext,
    postgres: PostgresResource,
    store: ArtifactStoreResource,
    wandb: WandbResource,
):
    """One window of recorded agent behaviour, validated and frozen as an immutable, content-hashed file
    (`store/uri`). Rows that cannot be read are quarantined with a reason (`rl.quarantine`), rows left out on
    purpose are counted by reason; an empty window materializes with status `empty`. Repeat it after late rows
    or repaired ones: the digest changes only if the content did.
    """
    files, reports = store.open(), []
    with retry_on_lost_database():
        async with postgres.connect(role=JUDGE) as db:
            await refresh_window_rows(db.game, db.rl)
            for window_id in context.partition_keys:
                began = monotonic()
                frozen = await freeze_window(db, files, window_id, postgres.settings())
                metadata = _metadata(frozen) | {"duration/freeze_s": monotonic() - began}
                reports.append(PartitionReport(window_id, frozen.snapshot.sha256, metadata))
    link = log_lineage(context, wandb, reports)
    async for result in materialize_each(context, reports, link):
        yield result


def _metadata(frozen: FrozenWindow) -> Metadata:
    read = frozen.read
    rows = Counter(trajectory.agent_id for trajectory in read.trajectories)
    return {
        "status": frozen.status,
        "dagster/row_count": len(read.trajectories),
        "rows/agents": len(rows),
        "rows/steps": sum(len(t.steps) for t in read.trajectories),
        "rows/excluded": sum(read.excluded.values()),
        "rows/quarantined": len(read.quarantined),
        "rows/good_share": frozen.quality.share if frozen.quality else 1.0,
        "store/bytes": frozen.snapshot.bytes,
        "store/uri": frozen.snapshot.uri,
        "agents": markdown_table(("agent", "rows"), rows.most_common()),
        "quality": markdown_table(
            ("lacks", "rows"), [*frozen.quality.reasons.items()] if frozen.quality else []
        ),
        "left out": markdown_table(("reason", "rows"), [*read.excluded.items()]),
        "quarantine reasons": table(REASONS, _reasons(read.quarantined)),
    }


def _reasons(quarantined: Sequence[QuarantinedRow]) -> list[tuple[str, int, str, str]]:
    """Returns reason, rows, and an example with its detail, the most frequent reason first."""
    count = Counter(row.reason for row in quarantined)
    example = {row.reason: row for row in reversed(quarantined)}
    return [
        (reason, rows, example[reason].trajectory_id, example[reason].detail)
        for reason, rows in sorted(count.items(), key=lambda item: (-item[1], item[0]))
    ]
