"""`trained_checkpoint`: the policy after one more day."""

import dagster as dg

from babylon_rl.deployment.candidates import REPEATED, TRAINED, DayTraining, train_day
from babylon_rl.deployment.judging import content_key
from babylon_rl.deployment.lineage import parent_for_training
from babylon_rl.deployment.registry import ModelRecord
from babylon_rl.deployment.storage import local_path
from babylon_rl.orchestration.assets.common import GROUP, OWNERS
from babylon_rl.orchestration.assets.training_batch import training_batch
from babylon_rl.orchestration.partitions import ONE_DAY, PREVIOUS_DAY, daily
from babylon_rl.orchestration.reporting import Metadata, numbers
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
    postgres: PostgresResource,
    art: ArtResource,
    store: ArtifactStoreResource,
    wandb: WandbResource,
) -> dg.MaterializeResult:
    """One day's batch trained with OpenPipe ART, starting from the checkpoint that the registry chooses: the
    newest one that was not rejected, else the incumbent. The dependency on yesterday gives order only. A day
    is trained once: repeating it returns its checkpoint. Without data, or where batch or parent cannot be
    trained, it materializes with status `no data` or `failed` and checkpoint = parent. No retries: read the
    run, then re-execute it.
    """
    day = context.partition_key
    async with postgres.connect(role=TRAINER) as db:
        try:
            training = await train_day(db, store.open(), art.settings(postgres.settings()), day)
            model, metadata = training.model, _metadata(training)
        except (EmptyBatchError, CheckpointError) as problem:
            context.log.error(f"{day} was not trained: {problem}")
            model = (await parent_for_training(db.rl, parse_day(day))).model
            metadata = {"status": FAILED, "reason": str(problem)}
    return dg.MaterializeResult(
        metadata={
            **metadata,
            "checkpoint": model.version,
            "checkpoint/uri": model.storage_path or "",
            **_track(context, wandb, model, trained=metadata["status"] in (TRAINED, REPEATED)),
        },
        data_version=dg.DataVersion(content_key(model)),
    )


def _metadata(training: DayTraining) -> Metadata:
    batch, metrics = training.batch, training.metrics
    return {
        "status": training.status,
        "reason": training.reason,
        "parent": training.parent.model.version,
        "batch": batch.sha256,
        "episodes/count": batch.episodes,
        "calls/trained": batch.calls,
        # Losses of single steps are a curve for W&B, not a figure of the day.
        **numbers({key: value for key, value in metrics.items() if isinstance(value, int | float)}),
    }


def _track(
    context: dg.AssetExecutionContext, wandb: WandbResource, model: ModelRecord, *, trained: bool
) -> Metadata:
    """Logs the checkpoint with its lineage, and the loss of each optimizer step; returns links."""
    with wandb.run(context, context.partition_key) as run:
        for step, loss in enumerate(model.metrics.get("losses", ()) if trained else ()):
            run.log({"loss/train": loss}, step=step)
        lineage = {key: model.manifest.get(key) for key in ("parent", "parent_reason", "batch_sha256", "day")}
        run.log_artifact(
            "checkpoint",
            "model",
            path=local_path(model) if trained else None,
            metadata={"version": model.version, **lineage},
            aliases=[model.version, f"day-{context.partition_key}"],
        )
    return {"wandb": dg.MetadataValue.url(run.url)} if run.url else {"wandb": run.id}
