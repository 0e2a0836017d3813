"""`deployed_model`: what the agents get."""

from time import monotonic

import dagster as dg
from pydantic import Field

from babylon_rl.deployment.deploy import deploy, history
from babylon_rl.deployment.judging import content_key
from babylon_rl.deployment.registry import get
from babylon_rl.deployment.release import Release, release
from babylon_rl.orchestration.assets.checkpoint_benchmark import checkpoint_benchmark
from babylon_rl.orchestration.assets.common import GROUP, OWNERS, wandb_link
from babylon_rl.orchestration.reporting import Metadata, markdown_table, shown
from babylon_rl.orchestration.resources import TRAINER, ArtResource, PostgresResource, WandbResource


class DeployConfig(dg.Config):
    """Run config of `deployed_model`; empty lets the gate decide."""

    version: str = Field(default="", description="Deploy this version instead of the head of the lineage.")
    against_the_gate: bool = Field(
        default=False, description="Deploy `version` although the gate has not promoted it."
    )
    reason: str = Field(default="run config", description="Kept in the history of deployments.")


@dg.asset(
    deps=[checkpoint_benchmark],
    group_name=GROUP,
    owners=OWNERS,
    kinds={"postgres", "wandb"},
    code_version="1",
)
async def deployed_model(
    context: dg.AssetExecutionContext,
    config: DeployConfig,
    postgres: PostgresResource,
    art: ArtResource,
    wandb: WandbResource,
) -> dg.MaterializeResult:
    """The model that serves. If the newest checkpoint of the live lineage was promoted it is deployed, in one
    transaction, and the gateway follows within seconds; otherwise nothing changes and `reason` says why.
    Backfills of old days change nothing. Run config may name a version; `babylon rollback` goes back without
    Dagster.
    """
    settings, began = art.settings(postgres.settings()), monotonic()
    link: Metadata = {}
    async with postgres.connect(role=TRAINER) as db:
        if config.version:
            game = db.game if settings.project_to_game else None
            switched = await deploy(
                db.rl,
                game,
                config.version,
                reason=config.reason,
                verdict_required=not config.against_the_gate,
            )
            released = Release(switched.version, switched.changed, config.reason)
        else:
            released = await release(db, settings)
        served = await history(db.rl, limit=20)
        model = await get(db.rl, released.version) if released.version else None
    if released.changed and model is not None:
        with wandb.run(context, model.version) as run:
            run.log_artifact(
                "deployment",
                "deployment",
                metadata={
                    "version": model.version,
                    "reason": released.reason,
                    "inputs": {model.version: {"trained_checkpoint": content_key(model)}},
                },
                aliases=["production", model.version],
            )
            link = wandb_link(run)
    metadata = {
        "status": "deployed" if released.changed else "unchanged",
        "reason": released.reason,
        "version": released.version or "none",
        "duration/deploy_s": monotonic() - began,
        "history": markdown_table(
            ("version", "from", "to", "reason"),
            [
                (
                    d.version,
                    f"{d.started_at:%Y-%m-%d %H:%M}",
                    d.ended_at and f"{d.ended_at:%Y-%m-%d %H:%M}",
                    d.reason,
                )
                for d in served
            ],
        ),
    }
    return dg.MaterializeResult(
        metadata=shown(metadata | link), data_version=dg.DataVersion(released.version or "none")
    )
