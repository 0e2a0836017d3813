"""The jobs that schedules, sensors, people and `babylon` start."""

import dagster as dg

HOURLY_ASSETS = ("trajectories", "market_outcomes", "scored_groups")
DAILY_ASSETS = ("training_batch", "trained_checkpoint", "checkpoint_benchmark")

hourly_job = dg.define_asset_job(
    "hourly_job",
    selection=dg.AssetSelection.assets(*HOURLY_ASSETS),
    description="Windows: freeze what the agents did, derive what the markets did, score the group.",
    tags={"babylon/kind": "windows"},
)

daily_job = dg.define_asset_job(
    "daily_job",
    selection=dg.AssetSelection.assets(*DAILY_ASSETS, "deployed_model"),
    description="A day: freeze its training batch, train, benchmark, and offer the model for deployment.",
    tags={"babylon/kind": "training"},
)

history_job = dg.define_asset_job(
    "history_job",
    selection=dg.AssetSelection.assets(*DAILY_ASSETS),
    description="A day of the past: batch, training, benchmark. What the agents get is not touched.",
    tags={"babylon/kind": "training"},
)

deploy_job = dg.define_asset_job(
    "deploy_job",
    selection=dg.AssetSelection.assets("deployed_model"),
    description="Deploy what the gate allows now; run config may name a version and override the gate.",
    tags={"babylon/kind": "deployment"},
)
