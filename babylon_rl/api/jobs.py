"""Training jobs: one at a time, recorded before Dagster is asked for a run, and followed to their end."""

import json
import logging
import uuid
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import asyncpg

from babylon_rl.api.dagster_client import DagsterClient, Run
from babylon_rl.api.errors import AdminError
from babylon_rl.api.readiness import Day, read_readiness, untrained_days
from babylon_rl.settings import Settings

JOB_TAG = "babylon/job"
DAILY_JOB = "daily_job"
STAGES = ("training_batch", "trained_checkpoint", "checkpoint_benchmark", "deployed_model")
OPEN = ("starting", "queued", "running")
LOST_SECONDS = 60.0
"""A job that has no run after so long lost the process that was to start it."""

Source = Literal["api", "game", "worker"]
log = logging.getLogger(__name__)

_COLUMNS = """job_id, run_id, source, to_char(day, 'YYYY-MM-DD') AS day, batch_size, force, game_batch_id,
       status, progress, stage, version, error, created_at, updated_at, ended_at"""
_INSERT = f"""
INSERT INTO rl.training_jobs (job_id, source, day, batch_size, force, game_batch_id)
VALUES ($1, $2, $3::text::date, $4, $5, $6) ON CONFLICT DO NOTHING RETURNING {_COLUMNS}
"""
_STARTED = "UPDATE rl.training_jobs SET run_id = $2, status = 'queued', updated_at = now() WHERE job_id = $1"
_MOVED = f"""
UPDATE rl.training_jobs SET status = $2, progress = greatest(progress, $3), stage = $4, error = $5,
       updated_at = now(), ended_at = CASE WHEN $6 THEN now() END,
       version = CASE WHEN $6 THEN (SELECT trained.version FROM rl.trained_days AS trained
                                     WHERE trained.day = training_jobs.day) END
 WHERE job_id = $1 AND status IN ('starting', 'queued', 'running') RETURNING {_COLUMNS}
"""
_OPEN = f"SELECT {_COLUMNS} FROM rl.training_jobs WHERE status IN ('starting', 'queued', 'running')"
_LOST = """
SELECT updated_at < now() - make_interval(secs => $2) FROM rl.training_jobs WHERE job_id = $1
"""
_NOTHING = """
SELECT coalesce((SELECT reason FROM rl.training_batches WHERE day = $1::text::date
                  ORDER BY created_at DESC LIMIT 1), 'the run trained no batch')
 WHERE NOT EXISTS (SELECT FROM rl.trained_days WHERE day = $1::text::date AND version IS NOT NULL)
"""
_CHUNKS = """
SELECT count(*) FILTER (WHERE chunk.status = 'done')::float8 / nullif(max(chunk.chunks), 0)
  FROM rl.training_units AS unit JOIN rl.training_chunks AS chunk USING (unit_key)
 WHERE unit.day = $1::text::date AND unit.status = 'running'
"""


@dataclass(frozen=True)
class Job:
    """A row of `rl.training_jobs`; `progress` is a fraction."""

    job_id: str
    run_id: str | None
    source: Source
    day: str
    batch_size: int | None
    force: bool
    game_batch_id: str | None
    status: str
    progress: float
    stage: str | None
    version: str | None
    error: str | None
    created_at: datetime
    updated_at: datetime
    ended_at: datetime | None

    @property
    def is_open(self) -> bool:
        return self.status in OPEN

    @property
    def name(self) -> str:
        """What callers know it by: Dagster's id of the run, before there is one our own."""
        return self.run_id or self.job_id


async def choose_day(rl: asyncpg.Connection, settings: Settings, wanted: str | None, *, force: bool) -> Day:
    """The day to train now.

    Raises:
        AdminError: 409 with the reasons; without data also where `force` skips the readiness.
    """
    if not force and wanted is None:
        readiness = await read_readiness(rl, settings)
        if not readiness.ready or readiness.day is None:
            raise AdminError(409, "; ".join(readiness.reasons), readiness=readiness.to_json())
        return readiness.day
    days = [day for day in await untrained_days(rl, wanted) if wanted or day.scored]
    # Forced, what came out empty may be tried again, after what was never tried.
    day = min(days, key=lambda day: (day.empty is not None, day.day), default=None)
    if day is None:
        what = f"{wanted} is not over, has no recorded rows, or is trained" if wanted else "No data to train"
        raise AdminError(409, what, "`GET /api/admin/training-data` shows what is recorded.")
    if not day.episodes:
        raise AdminError(409, f"No data to train: no group of {day.day} carries a signal")
    if not force and (waits := day.waits(settings)):
        raise AdminError(409, waits, 'Send "force": true to train what there is.')
    return day


async def start_job(
    rl: asyncpg.Connection,
    dagster: DagsterClient,
    day: str,
    *,
    source: Source,
    batch_size: int | None = None,
    force: bool = False,
    game_batch_id: str | None = None,
) -> Job:
    """Records a job and starts its run.

    Raises:
        AdminError: 409 where one is open already (`jobId` names it) or the day is being trained, 502 and 503
            where Dagster does not start it.
    """
    busy = await dagster.find(job=DAILY_JOB, tags={"dagster/partition": day}, unfinished=True)
    if busy:
        raise AdminError(409, f"{day} is being trained by run {busy[0]}", jobId=busy[0])
    job_id = uuid.uuid4().hex
    row = await rl.fetchrow(_INSERT, job_id, source, day, batch_size, force, game_batch_id)
    if row is None:
        before = await open_job(rl)
        name = before.name if before else "another request"
        raise AdminError(409, f"A training is in progress: {name}", "Wait, or cancel it.", jobId=name)
    try:
        return await _launch(rl, dagster, Job(**row))
    except AdminError as problem:
        await _move(rl, Job(**row), "failed", 0.0, None, str(problem))
        # Nothing was started, so the game's batch may be claimed again.
        await rl.execute("UPDATE rl.training_jobs SET game_batch_id = NULL WHERE job_id = $1", job_id)
        raise


async def open_job(rl: asyncpg.Connection) -> Job | None:
    """The job in progress."""
    row = await rl.fetchrow(_OPEN)
    return Job(**row) if row else None


async def find_job(rl: asyncpg.Connection, name: str) -> Job:
    """A job by Dagster's id or ours.

    Raises:
        AdminError: 404.
    """
    query = f"SELECT {_COLUMNS} FROM rl.training_jobs WHERE run_id = $1 OR job_id = $1"
    row = await rl.fetchrow(query, name)
    if row is None:
        raise AdminError(404, f"There is no job {name[:80]!r}", "`/api/admin/training/status` lists them.")
    return Job(**row)


async def recent_jobs(rl: asyncpg.Connection, limit: int = 10) -> list[Job]:
    """Newest first."""
    rows = await rl.fetch(f"SELECT {_COLUMNS} FROM rl.training_jobs ORDER BY created_at DESC LIMIT $1", limit)
    return [Job(**row) for row in rows]


async def cancel(rl: asyncpg.Connection, dagster: DagsterClient, name: str) -> Job:
    """Stops a job's run; what it has finished stays, and the day can be trained again.

    Raises:
        AdminError: 404, or 409 for one that is over.
    """
    job = await find_job(rl, name)
    if not job.is_open:
        raise AdminError(409, f"{job.name} is over: {job.status}")
    if job.run_id is None:
        raise AdminError(409, f"{job.name} is about to start", "Try again in a moment.", retry_after=2)
    await dagster.stop(job.run_id)
    return await follow(rl, dagster, job)


async def follow(rl: asyncpg.Connection, dagster: DagsterClient, job: Job) -> Job:
    """Brings an open job up to date with its run.

    Raises:
        AdminError: 503 where Dagster does not answer.
    """
    if job.run_id is None:
        if not await rl.fetchval(_LOST, job.job_id, LOST_SECONDS):
            return job
        found = await dagster.find(tags={JOB_TAG: job.job_id}, unfinished=False)
        if not found:
            return await _move(rl, job, "failed", 0.0, None, "the process that was to start it ended")
        await rl.execute(_STARTED, job.job_id, found[0])
        return await find_job(rl, job.job_id)
    run = await dagster.run(job.run_id)
    if run is None:
        return await _move(rl, job, "failed", job.progress, None, "Dagster does not know its run any more")
    status = _status(run)
    error = await dagster.why_failed(run.run_id) if status == "failed" else None
    if status == "succeeded" and (nothing := await rl.fetchval(_NOTHING, job.day)):
        status, error = "failed", f"nothing was trained: {nothing}"
    fraction, stage = await _progress(rl, job, run)
    return await _move(rl, job, status, 1.0 if status == "succeeded" else fraction, stage, error)


async def _launch(rl: asyncpg.Connection, dagster: DagsterClient, job: Job) -> Job:
    config: dict[str, Any] = {"skip_readiness": job.force, "force": job.force}
    if job.batch_size is not None:
        config["batch_size"] = job.batch_size
    tags = {"dagster/partition": job.day, JOB_TAG: job.job_id, "babylon/source": job.source}
    run_id = await dagster.launch(DAILY_JOB, tags, {"ops": {"training_batch": {"config": config}}})
    await rl.execute(_STARTED, job.job_id, run_id)
    log.info(
        "training of %s started as run %s", job.day, run_id, extra={"data": json.loads(json.dumps(tags))}
    )
    return await find_job(rl, job.job_id)


async def _move(
    rl: asyncpg.Connection, job: Job, status: str, progress: float, stage: str | None, error: str | None
) -> Job:
    over = status not in OPEN
    row = await rl.fetchrow(_MOVED, job.job_id, status, progress, stage, error, over)
    if row is None:  # another process was faster
        return await find_job(rl, job.job_id)
    if over:
        log.info("training job %s of %s: %s%s", job.name, job.day, status, f" ({error})" if error else "")
    return Job(**row)


def _status(run: Run) -> str:
    ended = {"SUCCESS": "succeeded", "FAILURE": "failed", "CANCELED": "cancelled"}
    if run.status in ended:
        return ended[run.status]
    return "running" if run.status in ("STARTED", "CANCELING") else "queued"


async def _progress(rl: asyncpg.Connection, job: Job, run: Run) -> tuple[float, str | None]:
    """Share of the run's stages that are done; training counts by its chunks. Also the stage it is in."""
    done = sum(run.steps.get(stage) in ("SUCCESS", "SKIPPED") for stage in STAGES)
    stage = next((stage for stage in STAGES if run.steps.get(stage) == "IN_PROGRESS"), None)
    part = 0.0
    if stage == "trained_checkpoint":
        part = await rl.fetchval(_CHUNKS, job.day) or 0.0
    return min(1.0, (done + min(1.0, part)) / len(STAGES)), stage
