"""Rollouts in Dagster: a sensor that watches one, and a job that takes a model back."""

import asyncio
import os
import socket

import dagster as dg
from pydantic import Field

from babylon_rl.deployment.deploy import project_serving
from babylon_rl.deployment.rollout import roll_back, rollout_status
from babylon_rl.deployment.watch import Watched, step_down, watch
from babylon_rl.deployment.watching import pricing, rules
from babylon_rl.orchestration.partitions import STANDING
from babylon_rl.orchestration.resources import TRAINER, PostgresResource
from babylon_rl.orchestration.rollout_view import sentence

WATCHER = "babylon_gateway"
"""The role that may decide; the watch beside the gateway has it too."""


@dg.sensor(
    name="deployment_watch",
    minimum_interval_seconds=60,
    default_status=STANDING.sensor,
    description="Looks at the running rollout: promotes a significant gain, takes back a significant loss or "
    "a burst of errors, moves a schedule on. The gateway does the same every few seconds; one of them leads, "
    "by a lease, so a decision is made once, and also with this daemon down. What serves and how much it is "
    "used is shown in the game's trained_models (PROJECT_TO_GAME).",
)
def deployment_watch(context: dg.SensorEvaluationContext, postgres: PostgresResource) -> dg.SkipReason:
    settings = postgres.settings()

    async def look() -> tuple[Watched, str]:
        async with postgres.connect(role=WATCHER) as db:
            owner = f"dagster {socket.gethostname()} {os.getpid()}"
            watched = await watch(db.rl, None, rules(settings), owner=owner, pricing=pricing(settings))
            await step_down(db.rl, owner)  # the gateway looks again sooner than the next tick does
            state = sentence(await rollout_status(db.rl))
        if settings.project_to_game:
            async with postgres.connect(role=TRAINER) as db:
                await project_serving(db.rl, db.game)
        return watched, state

    watched, state = asyncio.run(look())
    if watched.decision in ("promote", "roll_back"):
        context.log.warning(f"{watched.decision}: {watched.reason}")
    did = watched.decision or ("looked" if watched.leader else "left it")
    return dg.SkipReason(f"{state} ({did.replace('_', ' ')}: {watched.reason})"[:1000])


class RollbackConfig(dg.Config):
    """Run config of `rollback_job`; empty takes a running rollout's candidate back, else the last version."""

    to: str = Field(default="", description="A version that served before, such as v0.0.3.")
    reason: str = Field(default="rollback in Dagster", description="Kept in the history of deployments.")


@dg.op(description="Takes the candidate back; without a rollout the version before the active one returns.")
async def take_back(
    context: dg.OpExecutionContext, config: RollbackConfig, postgres: PostgresResource
) -> None:
    settings = postgres.settings()
    async with postgres.connect(role=TRAINER) as db:
        game = db.game if settings.project_to_game else None
        serving = await roll_back(db.rl, game, config.to or None, reason=config.reason, decided_by="dagster")
    what = f" instead of {serving.replaced}" if serving.replaced else ""
    context.log.info(f"{serving.version} serves{what if serving.changed else ' already'}")
    context.add_output_metadata({"version": serving.version, "replaced": serving.replaced or "none"})


@dg.job(
    description="Takes a bad model back at once; the gateway follows within seconds. `babylon rollback` does "
    "the same without Dagster.",
    tags={"babylon/kind": "deployment"},
)
def rollback_job() -> None:
    take_back()
