"""`/api/admin/training-data`: what is recorded, by window. A window is ready by its distinct *agents*."""

from typing import Any

import asyncpg

from babylon_rl.api.formats import iso, number
from babylon_rl.settings import Settings

_SUMMARY = """
SELECT coalesce(sum(rows), 0)::int AS rows, count(*)::int AS windows,
       count(*) FILTER (WHERE agents >= $1)::int AS ready
  FROM rl.recorded_windows
"""
_WINDOWS = """
SELECT window_id, rows, agents FROM rl.recorded_windows WHERE rows > 0 ORDER BY window_id DESC LIMIT 50
"""
_ROWS = """
SELECT trajectory_id, window_id FROM rl.window_rows WHERE window_id = ANY($1::text[]) AND excluded IS NULL
"""
_MEANS = """
SELECT wanted.window_id, avg(found."episodeLength")::float8 AS steps,
       avg(nullif(found."finalPnL", 'NaN'))::float8 AS pnl
  FROM unnest($1::text[], $2::text[]) AS wanted (trajectory_id, window_id)
  JOIN "trajectories" AS found ON found."trajectoryId" = wanted.trajectory_id GROUP BY 1
"""
_RECENT = """
SELECT "id", "trajectoryId", "agentId", "windowId", "episodeLength", "finalPnL", "tradesExecuted", "createdAt"
  FROM "trajectories" ORDER BY "createdAt" DESC, "id" DESC LIMIT 10
"""


async def read_training_data(
    game: asyncpg.Connection, rl: asyncpg.Connection, settings: Settings
) -> dict[str, Any]:
    """The `data` of the answer."""
    needed = settings.min_agents_per_window
    summary = await rl.fetchrow(_SUMMARY, needed)
    assert summary is not None  # an aggregate has one row
    windows = await rl.fetch(_WINDOWS)
    rows = await rl.fetch(_ROWS, [row["window_id"] for row in windows])
    ids, ids_windows = [row["trajectory_id"] for row in rows], [row["window_id"] for row in rows]
    means = {row["window_id"]: row for row in await game.fetch(_MEANS, ids, ids_windows)}
    shown = [_window(row, means.get(row["window_id"])) for row in windows]
    pnl = [window["avgPnl"] for window in shown if window["avgPnl"] is not None]
    steps = [window["avgSteps"] for window in shown if window["avgSteps"] is not None]
    total = summary["rows"]
    return {
        "summary": {
            "totalTrajectories": total,
            "totalWindows": summary["windows"],
            "readyWindows": summary["ready"],
            "minAgentsRequired": needed,
        },
        "windows": shown,
        "readyWindows": [window for window in shown if window["agentCount"] >= needed],
        "recentTrajectories": [_trajectory(row) for row in await game.fetch(_RECENT)],
        "qualityMetrics": {
            "avgEpisodeLength": number(sum(steps) / len(steps)) if steps else 0,
            "avgPnl": number(sum(pnl) / len(pnl)) if pnl else 0,
            "trainingDataQuality": "good" if total > 100 else "fair" if total > 20 else "low",
        },
    }


def _window(row: asyncpg.Record, means: asyncpg.Record | None) -> dict[str, Any]:
    return {
        "windowId": row["window_id"],
        "trajectoryCount": row["rows"],
        "agentCount": row["agents"],
        "avgSteps": number(means["steps"], 2) if means else None,
        "avgPnl": number(means["pnl"], 2) if means else None,
    }


def _trajectory(row: asyncpg.Record) -> dict[str, Any]:
    pnl, created = row["finalPnL"], row["createdAt"]
    return {**dict(row), "finalPnL": number(pnl), "createdAt": iso(created)}
