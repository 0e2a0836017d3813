"""The registry as the game sees it: rows of `trained_models` and `training_batches`.

They are written and never read back. Writing may be repeated at any time, and a failure of it never undoes
what the registry decided.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import asyncpg
import msgspec

from babylon_rl.deployment.call_usage import ModelUsage
from babylon_rl.deployment.errors import ProjectionConflictError
from babylon_rl.deployment.registry import ModelRecord

BatchStatus = Literal["pending", "preparing", "scoring", "training", "uploading", "completed", "failed"]

_OURS = "babylon-rl-"
"""Our rows' ids start with this, so that a row of another writer under the same name is left alone."""

_NOW = "(now() AT TIME ZONE 'UTC')"
_MODEL = f"""
INSERT INTO trained_models AS ours
       ("id", "modelId", "version", "baseModel", "trainingBatch", "status", "deployedAt", "archivedAt",
        "storagePath", "benchmarkScore", "accuracy", "avgReward", "evalMetrics", "wandbRunId",
        "wandbArtifactId", "createdAt", "updatedAt")
VALUES ($1, $2, $3, $4, $5, $6, $7::timestamptz AT TIME ZONE 'UTC', $8::timestamptz AT TIME ZONE 'UTC', $9,
        $10, $11, $12, $13, $15, $16, $14::timestamptz AT TIME ZONE 'UTC', {_NOW})
ON CONFLICT ("modelId") DO UPDATE
   SET "trainingBatch" = excluded."trainingBatch", "status" = excluded."status",
       "deployedAt" = excluded."deployedAt", "archivedAt" = excluded."archivedAt",
       "storagePath" = excluded."storagePath", "benchmarkScore" = excluded."benchmarkScore",
       "accuracy" = excluded."accuracy", "avgReward" = excluded."avgReward",
       "evalMetrics" = excluded."evalMetrics", "wandbRunId" = excluded."wandbRunId",
       "wandbArtifactId" = excluded."wandbArtifactId", "updatedAt" = excluded."updatedAt"
 WHERE ours."id" = excluded."id"
RETURNING "id"
"""
_USAGE = f"""
UPDATE trained_models SET "agentsUsing" = used.agents, "totalInferences" = used.inferences
  FROM unnest($1::text[], $2::int[], $3::bigint[]) AS used (version, agents, inferences)
 WHERE trained_models."version" = used.version AND trained_models."id" LIKE '{_OURS}%'
   AND ("agentsUsing", "totalInferences") IS DISTINCT FROM (used.agents, used.inferences)
"""
_SHOWN = f"""SELECT "version", "status" FROM trained_models WHERE "id" LIKE '{_OURS}%'"""
_BATCH = f"""
INSERT INTO training_batches AS ours
       ("id", "batchId", "scenarioId", "baseModel", "modelVersion", "trajectoryIds", "rewardsJson",
        "trainingLoss", "policyImprovement", "status", "error", "createdAt", "startedAt", "completedAt")
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, {_NOW},
        $12::timestamptz AT TIME ZONE 'UTC', $13::timestamptz AT TIME ZONE 'UTC')
ON CONFLICT ("batchId") DO UPDATE
   SET "modelVersion" = excluded."modelVersion", "trainingLoss" = excluded."trainingLoss",
       "policyImprovement" = excluded."policyImprovement", "status" = excluded."status",
       "error" = excluded."error", "startedAt" = excluded."startedAt", "completedAt" = excluded."completedAt"
 WHERE ours."id" = excluded."id"
RETURNING "id"
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class GameBatch:
    """A row of the game's `training_batches`.

    Attributes:
        batch_sha256: Hash of the frozen batch; the game's batch id is derived from it.
        base_model: Model that the lineage grows on.
        model_version: Version that the batch trained, or its parent's while none exists.
        trajectory_ids: Recorded trajectories in the batch.
        rewards: Reward of each, in the same order.
        status: One of the game's words.
        training_loss: Loss of the last optimizer step.
        policy_improvement: Held-out difference to the incumbent, return on start equity.
    """

    batch_sha256: str
    base_model: str
    model_version: str
    trajectory_ids: Sequence[str]
    rewards: Sequence[float]
    status: BatchStatus
    scenario_id: str | None = None
    training_loss: float | None = None
    policy_improvement: float | None = None
    error: str | None = None
    started_at: datetime | None = None
    completed_at: datetime | None = None


def batch_id(batch_sha256: str) -> str:
    """The `batchId` of a batch in the game's tables, and the `trainingBatch` of its model."""
    return f"babylon-batch-{batch_sha256[:32]}"


async def project_model(game: asyncpg.Connection, model: ModelRecord) -> None:
    """Write the model's row of `trained_models` as it stands now; the base model has none.

    Raises:
        ProjectionConflictError: Another writer has a row of this model id.
    """
    if model.is_base:
        return
    benchmark: Mapping[str, Any] = model.metrics.get("benchmark") or {}
    wandb: Mapping[str, Any] = model.metrics.get("wandb") or {}
    row = await game.fetchval(
        _MODEL,
        f"{_OURS}{model.model_id}",
        model.model_id,
        model.version,
        model.base_model,
        batch_id(model.batch_sha256) if model.batch_sha256 else None,
        model.status,
        model.deployed_at,
        model.archived_at,
        model.storage_path or "",
        benchmark.get("benchmark_score"),
        benchmark.get("accuracy"),
        benchmark.get("avg_reward"),
        {**benchmark, "verdict": model.verdict},
        model.created_at,
        wandb.get("wandb_run_id"),
        wandb.get("wandb_artifact_id"),
    )
    _require_ours(row, "trained_models", "modelId", model.model_id)


async def project_usage(game: asyncpg.Connection, usage: Mapping[str, ModelUsage]) -> None:
    """Write `agentsUsing` and `totalInferences` of our models where they changed; `updatedAt` stays."""
    most = 2**31 - 1
    await game.execute(
        _USAGE,
        list(usage),
        [used.agents_using for used in usage.values()],
        [min(used.inferences, most) for used in usage.values()],
    )


async def shown_statuses(game: asyncpg.Connection) -> dict[str, str]:
    """The status of each of our models as the game sees it, by version."""
    return dict(await game.fetch(_SHOWN))


async def project_batch(game: asyncpg.Connection, batch: GameBatch) -> None:
    """Write the batch's row of `training_batches`; its trajectories and rewards are written once.

    Raises:
        ProjectionConflictError: Another writer has a row of this batch id.
    """
    name = batch_id(batch.batch_sha256)
    row = await game.fetchval(
        _BATCH,
        f"{_OURS}{batch.batch_sha256[:32]}",
        name,
        batch.scenario_id,
        batch.base_model,
        batch.model_version,
        msgspec.json.encode(list(batch.trajectory_ids)).decode(),
        msgspec.json.encode(list(batch.rewards)).decode(),
        batch.training_loss,
        batch.policy_improvement,
        batch.status,
        batch.error,
        batch.started_at,
        batch.completed_at,
    )
    _require_ours(row, "training_batches", "batchId", name)


async def project_improvement(game: asyncpg.Connection, batch_sha256: str, improvement: float) -> None:
    """Note on our row of `training_batches` what its checkpoint gained, once that has been measured.

    Args:
        improvement: Held-out difference to the incumbent, return on start equity.
    """
    await game.execute(
        'UPDATE training_batches SET "policyImprovement" = $3 WHERE "batchId" = $1 AND "id" = $2',
        batch_id(batch_sha256),
        f"{_OURS}{batch_sha256[:32]}",
        improvement,
    )


async def mark_trained(game: asyncpg.Connection, trajectory_ids: Sequence[str], batch_sha256: str) -> None:
    """Note on the game's trajectories which batch trained them; their ``updatedAt`` stays as it is."""
    await game.execute(
        """UPDATE trajectories SET "usedInTraining" = true, "trainedInBatch" = $2
            WHERE "trajectoryId" = ANY($1::text[])
              AND ("trainedInBatch" IS DISTINCT FROM $2 OR NOT "usedInTraining")""",
        list(trajectory_ids),
        batch_id(batch_sha256),
    )


def _require_ours(row: str | None, table: str, column: str, name: str) -> None:
    if row is None:
        raise ProjectionConflictError(
            f"{table} already has a row with {column} {name} that this pipeline did not write",
            "Rename that row, or set PROJECT_TO_GAME=false.",
        )
