"""Batches that the game asks for: a pending row of `training_batches` is claimed once and its status driven.

The claim is the row of `rl.training_jobs` with the batch's id, which is unique: whoever writes it trains.
"""

import logging
from collections.abc import Sequence

import asyncpg
import msgspec

from babylon_rl.api.dagster_client import DagsterClient
from babylon_rl.api.errors import AdminError
from babylon_rl.api.jobs import Job, Source, start_job
from babylon_rl.api.readiness import untrained_days

OURS = "babylon-rl-"
"""Our own rows of the table; see `deployment.projection`."""

log = logging.getLogger(__name__)

_PENDING = """
SELECT "id", "batchId", "trajectoryIds" FROM training_batches
 WHERE "status" = 'pending' AND "id" NOT LIKE $1 AND ($2::text IS NULL OR "batchId" = $2)
 ORDER BY "createdAt", "id" LIMIT 20
"""
_KNOWN = 'SELECT "status" FROM training_batches WHERE "batchId" = $1'
_SET = """
UPDATE training_batches
   SET "status" = $2, "error" = $3, "modelVersion" = coalesce($4, "modelVersion"),
       "startedAt" = coalesce("startedAt", now() AT TIME ZONE 'UTC'),
       "completedAt" = CASE WHEN $5 THEN now() AT TIME ZONE 'UTC' END
 WHERE "id" = $1 AND "status" NOT IN ('completed', 'failed')
   AND ("status" <> $2 OR "error" IS DISTINCT FROM $3)
"""
_DAYS = """
SELECT DISTINCT left(window_id, 10) AS day FROM rl.window_rows
 WHERE trajectory_id = ANY($1::text[]) AND excluded IS DISTINCT FROM 'deleted' ORDER BY 1
"""
_TRAINED = """
SELECT version FROM rl.trained_days WHERE day = ANY($1::text[]::date[]) AND version IS NOT NULL
 ORDER BY day DESC LIMIT 1
"""
_STAGES = {
    "training_batch": "preparing",
    "trained_checkpoint": "training",
    "checkpoint_benchmark": "scoring",
    "deployed_model": "uploading",
}
"""The game's word for each stage of ours."""


async def claim(
    game: asyncpg.Connection,
    rl: asyncpg.Connection,
    dagster: DagsterClient,
    batch_id: str | None = None,
    *,
    source: Source = "game",
) -> Job | None:
    """Takes the oldest pending batch (or the named one) and starts its training; None if there is none.

    What a batch lists is trained as part of its day, the oldest untrained one of its trajectories. A batch
    whose days are all trained is completed with their newest version; one of unknown trajectories fails.

    Raises:
        AdminError: 404 and 409 for a named batch that is unknown or not pending, or what `start_job` raises.
    """
    for row in await game.fetch(_PENDING, f"{OURS}%", batch_id):
        days = [found["day"] for found in await rl.fetch(_DAYS, _trajectory_ids(row["trajectoryIds"]))]
        if not days:
            await game.execute(_SET, row["id"], "failed", "none of its trajectories is recorded", None, True)
            continue
        untrained = {day.day: day for day in await untrained_days(rl)}
        day = next((untrained[day] for day in days if day in untrained), None)
        if day is None:
            version = await rl.fetchval(_TRAINED, days)
            if version is not None:
                await game.execute(_SET, row["id"], "completed", None, version, True)
            continue  # its day is not over
        if not day.episodes:
            continue  # its windows are not scored yet
        job = await start_job(rl, dagster, day.day, source=source, force=True, game_batch_id=row["id"])
        log.info("the game's batch %s is trained as %s", row["batchId"], job.name)
        await show(game, job)
        return job
    if batch_id is not None:
        status = await game.fetchval(_KNOWN, batch_id)
        if status is None:
            raise AdminError(404, f"There is no batch {batch_id!r}")
        if status == "pending":
            raise AdminError(409, f"Batch {batch_id!r} waits until its windows are over and scored")
        if status not in ("completed", "failed"):
            raise AdminError(409, f"Batch {batch_id!r} was claimed before: {status}")
    return None


async def show(game: asyncpg.Connection, job: Job) -> None:
    """Writes how far a job is into the game's row that asked for it."""
    if job.game_batch_id is None:
        return
    ended = {"succeeded": "completed", "failed": "failed", "cancelled": "failed"}
    status = ended.get(job.status) or _STAGES.get(job.stage or "", "preparing")
    error = job.error or ("cancelled" if job.status == "cancelled" else None)
    await game.execute(_SET, job.game_batch_id, status, error, job.version, job.status in ended)


def _trajectory_ids(text: str) -> Sequence[str]:
    try:
        return msgspec.json.decode(text, type=list[str])
    except (msgspec.DecodeError, UnicodeError):
        return []
