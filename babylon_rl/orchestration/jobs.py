"""The jobs that schedules, sensors, people and `babylon` start."""

import json

import dagster as dg

from babylon_rl.settings import get_settings

HOURLY_ASSETS = ("trajectories", "market_outcomes", "scored_groups")
DAILY_ASSETS = ("training_batch", "trained_checkpoint", "checkpoint_benchmark")


def _gpus() -> dict[str, str]:
    """The run tag by which training asks the Ray run launcher for GPUs; other launchers do not read it."""
    settings = get_settings()
    gpus = settings.ray_training_gpus
    if gpus is None:
        gpus = 1.0 if settings.training_backend == "local" else 0.0
    return {"dagster-ray/config": json.dumps({"num_gpus": gpus})} if gpus else {}


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
    tags={"babylon/kind": "training", **_gpus()},
)

history_job = dg.define_asset_job(
    "history_job",
    selection=dg.AssetSelection.assets(*DAILY_ASSETS),
    description="A day of the past: batch, training, benchmark. What the agents get is not touched.",
    tags={"babylon/kind": "training", **_gpus()},
)

deploy_job = dg.define_asset_job(
    "deploy_job",
    selection=dg.AssetSelection.assets("deployed_model"),
    description="Deploy what the gate allows now; run config may name a version and override the gate.",
    tags={"babylon/kind": "deployment"},
)
