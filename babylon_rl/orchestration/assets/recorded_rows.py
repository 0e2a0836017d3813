"""`recorded_rows`: what the game's agents wrote; observed, not made, by the pipeline."""

import dagster as dg

from babylon_rl.orchestration.assets.common import GROUP, OWNERS
from babylon_rl.orchestration.partitions import hourly

recorded_rows = dg.AssetSpec(
    "recorded_rows",
    partitions_def=hourly,
    group_name=GROUP,
    owners=OWNERS,
    kinds={"postgres"},
    metadata={"dagster/table_name": "trajectories"},
    description="Rows that the recorder wrote for a window. The readiness sensor observes it with the "
    "fingerprint of its rows, so a late row makes `trajectories` of that window stale.",
)
