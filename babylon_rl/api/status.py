"""`/api/admin/training/status`: seed 000's object with live values, and what its prose promises beside it."""

import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg

from babylon_rl.api.formats import iso, number
from babylon_rl.api.jobs import Job, open_job, recent_jobs
from babylon_rl.api.models import list_models
from babylon_rl.api.readiness import read_readiness
from babylon_rl.settings import Settings

STATISTICS_SECONDS = 60.0
"""The statistics of all trajectories scan the game's table, so they are kept for so long."""

_COLLECTED = """
SELECT count(*) FILTER (WHERE created_at >= (now() AT TIME ZONE 'UTC') - interval '24 hours')::int AS last24h,
       count(*)::int AS last7d
  FROM rl.window_rows
 WHERE created_at >= (now() AT TIME ZONE 'UTC') - interval '7 days' AND excluded IS DISTINCT FROM 'deleted'
"""
_UNITS = """
SELECT (SELECT unit_key FROM rl.training_units WHERE status = 'running'
         ORDER BY started_at DESC LIMIT 1) AS running,
       (SELECT max(completed_at) FROM rl.training_units WHERE status = 'done') AS completed,
       (SELECT count(*)::int FROM rl.training_units WHERE status IN ('failed', 'in_doubt')
           AND coalesce(completed_at, started_at, created_at) > now() - interval '1 day') AS failed
"""
_MODELS = """
SELECT version, status, deployed_at, branch FROM rl.models WHERE version <> 'v0.0.0'
"""
_STATISTICS = """
SELECT count(*)::int AS number, avg(nullif("totalReward", 'NaN'))::float8 AS reward,
       avg("episodeLength")::float8 AS steps, avg("durationMs")::float8 AS duration
  FROM "trajectories"
"""


@dataclass
class Statistics:
    """Averages over all trajectories of the game, read at most once in `STATISTICS_SECONDS`."""

    value: dict[str, Any] | None = None
    read_at: float = -1e9

    async def get(self, game: asyncpg.Connection) -> dict[str, Any]:
        if self.value is None or time.monotonic() - self.read_at > STATISTICS_SECONDS:
            row = await game.fetchrow(_STATISTICS)
            assert row is not None  # an aggregate has one row
            self.value = {
                "_count": row["number"],
                "_avg": {
                    "totalReward": number(row["reward"]),
                    "episodeLength": number(row["steps"]),
                    "durationMs": number(row["duration"]),
                },
            }
            self.read_at = time.monotonic()
        return self.value


async def read_status(
    game: asyncpg.Connection, rl: asyncpg.Connection, settings: Settings, statistics: Statistics
) -> dict[str, Any]:
    """The whole answer."""
    collected = await rl.fetchrow(_COLLECTED)
    units = await rl.fetchrow(_UNITS)
    assert collected is not None and units is not None  # aggregates have one row
    rows = await rl.fetch(_MODELS)
    job = await open_job(rl)
    readiness = await read_readiness(rl, settings)
    usable = [row["version"] for row in rows if row["status"] in ("ready", "deployed", "archived")]
    live = [row["version"] for row in rows if row["version"] in usable and row["branch"] is None]
    models, _ = await list_models(rl, limit=10)
    return {
        "status": "degraded" if units["failed"] else "healthy",
        "automation": {
            "dataCollection": {
                "last24h": collected["last24h"],
                "last7d": collected["last7d"],
                "ratePerHour": round(collected["last24h"] / 24, 2),
            },
            "training": {
                "currentJob": job.name if job else units["running"],
                "lastCompleted": iso(units["completed"]),
                "nextScheduled": iso(next_scheduled(datetime.now(UTC))),
            },
            "models": {
                "latest": max(live, key=_number, default=None),
                "deployed": sum(row["deployed_at"] is not None for row in rows),
                "training": sum(row["status"] == "training" for row in rows),
            },
            "health": {
                "database": "healthy",
                "storage": "healthy" if settings.home.is_dir() else "missing",
                "wandb": settings.tracking_mode,
            },
        },
        "readiness": readiness.to_json(),
        "recentJobs": [job_json(job) for job in await recent_jobs(rl)],
        "models": models,
        "trajectoryStats": await statistics.get(game),
        "timestamp": iso(datetime.now(UTC)),
    }


def job_json(job: Job) -> dict[str, Any]:
    """A job as callers see it."""
    return {
        "jobId": job.name,
        "runId": job.run_id,
        "day": job.day,
        "status": job.status,
        "progress": round(job.progress, 4),
        "stage": job.stage,
        "source": job.source,
        "batchSize": job.batch_size,
        "force": job.force,
        "modelVersion": job.version,
        "error": job.error,
        "createdAt": iso(job.created_at),
        "completedAt": iso(job.ended_at),
    }


def next_scheduled(now: datetime) -> datetime:
    """When the daily schedule looks next: on the hour, from 03:00 to 23:00 UTC."""
    hour = now.replace(minute=0, second=0, microsecond=0) + timedelta(hours=1)
    return hour if hour.hour >= 3 else hour.replace(hour=3)


def _number(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.removeprefix("v").split(".")))
