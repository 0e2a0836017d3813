"""`trained_checkpoint`: the policy after one more day."""

import dagster as dg
from pydantic import Field

from babylon_rl.deployment.candidates import DayTraining, train_day
from babylon_rl.deployment.judging import content_key
from babylon_rl.deployment.lineage import parent_for_training
from babylon_rl.deployment.registry import ModelRecord
from babylon_rl.orchestration.assets.common import GROUP, OWNERS, refused, wandb_link
from babylon_rl.orchestration.assets.training_batch import training_batch
from babylon_rl.orchestration.charts import as_markdown
from babylon_rl.orchestration.day_inputs import require_current_batch
from babylon_rl.orchestration.model_pictures import importance_ratios, steps_of, token_shares
from babylon_rl.orchestration.partitions import ONE_DAY, PREVIOUS_DAY, daily
from babylon_rl.orchestration.reporting import Metadata, shown
from babylon_rl.orchestration.resources import (
    TRAINER,
    ArtifactStoreResource,
    ArtResource,
    PostgresResource,
    WandbResource,
)
from babylon_rl.policy.errors import CheckpointError
from babylon_rl.training.errors import EmptyBatchError
from babylon_rl.windows import parse_day

FAILED = "failed"


class TrainConfig(dg.Config):
    """Run config of `trained_checkpoint`."""

    force: bool = Field(
        default=False,
        description="Train the day's batch also when its windows were scored anew after it was made.",
    )


@dg.asset(
    deps=[training_batch, dg.AssetDep("trained_checkpoint", partition_mapping=PREVIOUS_DAY)],
    partitions_def=daily,
    backfill_policy=ONE_DAY,
    pool="gpu_training",
    group_name=GROUP,
    owners=OWNERS,
    kinds={"pytorch", "wandb"},
    code_version="1",
)
async def trained_checkpoint(
    context: dg.AssetExecutionContext,
    config: TrainConfig,
    postgres: PostgresResource,
    art: ArtResource,
    store: ArtifactStoreResource,
    wandb: WandbResource,
) -> dg.MaterializeResult:
    """One day's batch trained with OpenPipe ART, starting from the checkpoint that the registry chooses: the
    newest one that was not rejected, else the incumbent. The dependency on yesterday gives order only. A day
    is trained once: repeating it returns its checkpoint. Without data, or where batch or parent cannot be
    trained, it materializes with status `no data` or `failed` and checkpoint = parent. A day whose windows
    were scored after its batch was made is refused unless run config says `force`. No retries: read the run,
    then re-execute it.
    """
    day = context.partition_key
    async with postgres.connect(role=TRAINER) as db:
        if not config.force:
            with refused():
                await require_current_batch(db.rl, day)
        try:
            settings, track = art.settings(postgres.settings()), wandb.tracker(context.run.run_id)
            training = await train_day(db, store.open(), settings, day, track=track)
            model, metadata = training.model, _metadata(training)
        except (EmptyBatchError, CheckpointError) as problem:
            context.log.error(f"{day} was not trained: {problem}")
            model = (await parent_for_training(db.rl, parse_day(day))).model
            metadata = {"status": FAILED, "reason": str(problem)}
    return dg.MaterializeResult(
        metadata=shown(
            {
                **metadata,
                "checkpoint": model.version,
                "checkpoint/uri": model.storage_path,
                **_track(context, wandb, model),
            }
        ),
        data_version=dg.DataVersion(content_key(model)),
    )


def _metadata(training: DayTraining) -> Metadata:
    batch, metrics = training.batch, training.metrics
    where = {"backend": f"{training.choice.name} ({training.choice.reason})"} if training.choice else {}
    answers = [answer["answer"] or answer["problem"] for answer in metrics.get("completions", ())]
    return {
        "status": training.status,
        "reason": training.reason,
        **where,
        **({"answer after training": answers[-1]} if answers else {}),
        "parent": training.parent.model.version,
        "batch": batch.sha256,
        "episodes/count": batch.episodes,
        "calls/trained": batch.calls,
        "importance ratios": dg.MetadataValue.md(
            as_markdown(importance_ratios(steps_of(training.model)), "Importance ratios")
        ),
        "token shares": dg.MetadataValue.md(
            as_markdown(token_shares(steps_of(training.model)), "Shares of tokens")
        ),
        # Losses of single steps are a curve for W&B, not a figure of the day.
        **{key: value for key, value in sorted(metrics.items()) if isinstance(value, int | float)},
    }


def _track(context: dg.AssetExecutionContext, wandb: WandbResource, model: ModelRecord) -> Metadata:
    """Logs the checkpoint's digest and lineage; its files and metrics are in the training's own run."""
    trained = model.metrics.get("wandb") or {}
    with wandb.run(context, context.partition_key) as run:
        lineage = {key: model.manifest.get(key) for key in ("parent", "parent_reason", "batch_sha256", "day")}
        run.log_artifact(
            "checkpoint",
            "model",
            metadata={
                "version": model.version,
                "digest": content_key(model),
                "artifact": trained.get("wandb_artifact_id"),
                **lineage,
            },
            aliases=[model.version, f"day-{context.partition_key}"],
        )
    return {"wandb/training": trained.get("wandb_run_id"), **wandb_link(run)}
