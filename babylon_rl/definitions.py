"""Dagster's entry point: one `Definitions`, nothing else."""

import dagster as dg

from babylon_rl.orchestration import (
    alert_sensors,
    assets,
    catalog,
    checks,
    jobs,
    lost_database,
    rollouts,
    schedules,
    self_check_job,
    sensors,
    upkeep,
    window_training,
)
from babylon_rl.orchestration.resources import (
    ArtifactStoreResource,
    ArtResource,
    PostgresResource,
    WandbResource,
)
from babylon_rl.settings import get_settings

defs = dg.Definitions(
    assets=lost_database.watched(catalog.described(assets.ALL, get_settings())),
    asset_checks=lost_database.watched(checks.ALL),
    jobs=[
        jobs.hourly_job,
        jobs.daily_job,
        jobs.history_job,
        jobs.deploy_job,
        upkeep.upkeep_job,
        self_check_job.self_check_job,
        window_training.window_training_job,
        rollouts.rollback_job,
    ],
    sensors=[
        sensors.window_readiness,
        rollouts.deployment_watch,
        alert_sensors.run_failures,
        alert_sensors.alerts,
    ],
    schedules=[schedules.daily_training, upkeep.nightly_upkeep],
    resources={
        "postgres": PostgresResource(),
        "art": ArtResource(),
        "wandb": WandbResource(),
        "store": ArtifactStoreResource(),
    },
    # One process per run: with the multiprocess default every step would import everything anew (4x the CPU).
    executor=dg.in_process_executor,
)
