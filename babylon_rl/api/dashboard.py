"""What the dashboard shows beside the status: alerts, curves, windows, deployments, traffic."""

from collections.abc import Iterable
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import asyncpg

from babylon_rl.api.formats import iso, number
from babylon_rl.api.models import benchmark_json
from babylon_rl.deployment.changed_days import changed_days
from babylon_rl.deployment.deploy import history
from babylon_rl.deployment.verdicts import all_benchmarks

_HOURLY = """
SELECT hour AT TIME ZONE 'UTC' AS hour, count(found.trajectory_id)::int AS rows
  FROM generate_series(date_trunc('hour', now() AT TIME ZONE 'UTC') - interval '47 hours',
                       date_trunc('hour', now() AT TIME ZONE 'UTC'), interval '1 hour') AS hour
  LEFT JOIN rl.window_rows AS found ON found.created_at >= hour
        AND found.created_at < hour + interval '1 hour' AND found.excluded IS DISTINCT FROM 'deleted'
 GROUP BY 1 ORDER BY 1
"""
_WINDOWS = """
SELECT window_id, recorded.rows, recorded.agents, unreadable, due,
       due AND state.group_status IS NOT NULL AND state.group_status <> 'immature' AS stale,
       state.group_status, state.group_reason, state.episodes, state.reward_mean, state.pnl_mean
  FROM rl.recorded_windows AS recorded LEFT JOIN rl.window_state AS state USING (window_id)
 ORDER BY window_id DESC LIMIT 48
"""
_STALE = """
SELECT window_id, count(*) OVER ()::int AS windows,
       coalesce(stale_reason,
                CASE WHEN taken_rows IS NULL THEN 'rows arrived after it was scored'
                     WHEN taken_rows IS DISTINCT FROM recorded.rows
                     THEN format('%s rows when it was scored and %s now', taken_rows, recorded.rows)
                     ELSE 'rows changed after it was scored' END) AS reason,
       recorded.seen_at AS since, state.group_status AS status
  FROM rl.recorded_windows AS recorded JOIN rl.window_state AS state USING (window_id)
 WHERE due AND state.group_status IS NOT NULL
   AND (state.group_status <> 'immature' OR stale_reason IS NOT NULL OR taken <> fingerprint)
 ORDER BY window_id DESC LIMIT 100
"""
_DAYS = """
SELECT to_char(unit.day, 'YYYY-MM-DD') AS day, unit.version, unit.status, unit.backend, unit.error,
       unit.started_at, unit.completed_at,
       (unit.metrics ->> 'loss/train')::float8 AS loss
  FROM rl.training_units AS unit ORDER BY coalesce(unit.started_at, unit.created_at) DESC LIMIT 10
"""
_REWARDS = """
SELECT left(window_id, 10) AS day, avg(reward_mean) AS reward, avg(pnl_mean) AS pnl
  FROM rl.window_state WHERE group_status = 'scored' GROUP BY 1 ORDER BY 1 DESC LIMIT 60
"""
_TRAFFIC = """
SELECT coalesce(version, '–') AS version, coalesce(variant, '–') AS variant, count(*)::int AS calls,
       count(DISTINCT agent_id)::int AS agents, count(*) FILTER (WHERE fallback)::int AS fallbacks,
       count(*) FILTER (WHERE status >= 400)::int AS errors,
       percentile_cont(0.5) WITHIN GROUP (ORDER BY latency_ms) AS p50,
       percentile_cont(0.99) WITHIN GROUP (ORDER BY latency_ms) AS p99
  FROM rl.llm_calls WHERE started_at > now() - interval '24 hours' GROUP BY 1, 2 ORDER BY 3 DESC LIMIT 20
"""
# What went wrong within a week: moment, severity, topic, text.
_ALERTS = """
SELECT coalesce(completed_at, started_at, created_at) AS at, 'error' AS level, 'training' AS topic,
       format('Training of %s %s: %s', coalesce(day::text, 'a branch'),
              CASE status WHEN 'in_doubt' THEN 'is in doubt, resolve it with `babylon train resolve`'
                          ELSE 'failed' END, coalesce(error, 'no reason recorded')) AS text
  FROM rl.training_units WHERE status IN ('failed', 'in_doubt')
UNION ALL
SELECT coalesce(ended_at, updated_at), 'error', 'job',
       format('Job of %s failed: %s', day, coalesce(error, ''))
  FROM rl.training_jobs WHERE status = 'failed'
UNION ALL
-- what somebody was called about; silence and quarantine are read live below
SELECT last_at, CASE WHEN kind = 'failed_gate' THEN 'warning' ELSE 'error' END, kind,
       reason || CASE WHEN count > 1 THEN format(' (%s times)', count) ELSE '' END
  FROM rl.alerts WHERE kind NOT IN ('quarantine', 'no_data')
UNION ALL
SELECT checked_at, 'error', 'canary', format('The canary of %s failed: %s', version, reason)
  FROM rl.canaries WHERE NOT passed
UNION ALL
SELECT max(at), 'warning', 'judge', format('%s windows could not be judged, last: %s', count(*), max(reason))
  FROM (SELECT updated_at AS at, group_reason AS reason
          FROM rl.window_state WHERE group_status = 'unjudged') AS w
HAVING count(*) > 0
UNION ALL
SELECT max(first_seen), 'warning', 'quarantine',
       format('%s unreadable rows in quarantine, most often: %s', count(*),
              mode() WITHIN GROUP (ORDER BY reason))
  FROM rl.quarantine WHERE released_at IS NULL HAVING count(*) > 0
"""
_RECENT_ALERTS = f"""
SELECT * FROM ({_ALERTS}) AS alert WHERE at > now() - interval '7 days' ORDER BY at DESC LIMIT 20
"""
_LAST_ROW = """
SELECT max(created_at) AT TIME ZONE 'UTC' AS at, count(*) > 0 AS any FROM rl.window_rows
"""


async def read_dashboard(rl: asyncpg.Connection) -> dict[str, Any]:
    """Everything in one answer, so that the page is of one moment."""
    windows = [dict(row) for row in await rl.fetch(_WINDOWS)]
    stale = await rl.fetch(_STALE)
    return {
        "collection": [{"hour": iso(row["hour"]), "rows": row["rows"]} for row in await rl.fetch(_HOURLY)],
        "windows": [_window(row) for row in windows],
        "staleWindows": [
            {
                "windowId": w["window_id"],
                "status": w["status"],
                "reason": w["reason"],
                "since": iso(w["since"]),
            }
            for w in stale
        ],
        "changedDays": [asdict(day) for day in await changed_days(rl)][-20:],
        "units": [_unit(row) for row in await rl.fetch(_DAYS)],
        "rewards": [
            {"day": row["day"], "reward": number(row["reward"]), "pnl": number(row["pnl"])}
            for row in reversed(await rl.fetch(_REWARDS))
        ],
        "curve": await _curve(rl),
        "traffic": [
            {**dict(row), "p50": number(row["p50"], 1), "p99": number(row["p99"], 1)}
            for row in await rl.fetch(_TRAFFIC)
        ],
        "deployments": [
            {
                "version": one.version,
                "reason": one.reason,
                "startedAt": iso(one.started_at),
                "endedAt": iso(one.ended_at),
            }
            for one in await history(rl, limit=10)
        ],
        "alerts": await _alerts(rl, stale[0]["windows"] if stale else 0),
    }


async def _curve(rl: asyncpg.Connection) -> list[dict[str, Any]]:
    """Held-out return of each candidate, its incumbent and the base, oldest first."""
    days = dict(await rl.fetch("SELECT version, to_char(day, 'YYYY-MM-DD') FROM rl.models"))
    gate = [record for record in await all_benchmarks(rl, limit=200) if record.purpose == "gate"]
    return [
        {"version": r.version, "day": days.get(r.version), "verdict": r.verdict, **(benchmark_json(r) or {})}
        for r in reversed(gate[:60])
    ]


async def _alerts(rl: asyncpg.Connection, stale: int) -> list[dict[str, Any]]:
    found = [dict(row) for row in await rl.fetch(_RECENT_ALERTS)]
    now = datetime.now(UTC)
    last = await rl.fetchrow(_LAST_ROW)
    if last is not None and last["any"]:
        hours = (now - last["at"]).total_seconds() / 3600
        if hours >= 2:
            text = f"Nothing was recorded for {hours:.0f} hours"
            found.insert(0, {"at": last["at"], "level": "warning", "topic": "collection", "text": text})
    if stale:
        windows = "1 window" if stale == 1 else f"{stale} windows"
        text = f"{windows} changed after being scored and must be scored again"
        found.append({"at": now, "level": "warning", "topic": "stale", "text": text})
    return [{**alert, "at": iso(alert["at"]), "text": _short(alert["text"])} for alert in found]


def _window(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "windowId": row["window_id"],
        "rows": row["rows"],
        "agents": row["agents"],
        "unreadable": row["unreadable"],
        "status": row["group_status"],
        "reason": row["group_reason"],
        "stale": bool(row["stale"]),
        "episodes": row["episodes"],
        "reward": number(row["reward_mean"]),
        "pnl": number(row["pnl_mean"]),
    }


def _unit(row: Iterable[Any]) -> dict[str, Any]:
    values = dict(row)
    return {
        "day": values["day"],
        "version": values["version"],
        "status": values["status"],
        "backend": values["backend"],
        "error": _short(values["error"]),
        "loss": number(values["loss"]),
        "startedAt": iso(values["started_at"]),
        "completedAt": iso(values["completed_at"]),
    }


def _short(text: str | None) -> str | None:
    return text if text is None or len(text) <= 300 else f"{text[:299]}…"
