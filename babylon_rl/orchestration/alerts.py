"""What somebody should be called about, and the calling: found in `rl`, kept in `rl.alerts`, posted once.

    await notify(settings, await find_alerts(rl, settings, now))

Every alert has a kind and a key; the same pair is one row however often it is seen, and is posted again only
after ALERT_REPEAT_HOURS. A row that the webhook did not take is posted by the next call. Nothing here raises:
who reports a failure must not become a second one.
"""

import asyncio
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import asyncpg

from babylon_rl.database.connection import open_databases
from babylon_rl.orchestration.webhook import post
from babylon_rl.scoring.judge.redaction import known_secrets
from babylon_rl.settings import Settings

logger = logging.getLogger(__name__)

ROLE = "babylon_judge"
FAILED_RUN, STUCK, BUDGET, QUARANTINE, NO_DATA, FAILED_GATE = (
    "failed_run",
    "stuck_training",
    "budget",
    "quarantine",
    "no_data",
    "failed_gate",
)
FEWEST_ROWS = 20
"""Rows of a day below which a share of unreadable ones says nothing."""
PENDING = timedelta(days=1)
"""How long an alert that nobody could be called about is tried again."""
LONGEST = 600

_STUCK = """
SELECT unit_key, coalesce(day::text, 'a branch') AS day, backend, started_at FROM rl.training_units
 WHERE status = 'running' AND started_at < $1 ORDER BY started_at
"""
_SPENT = """
SELECT coalesce(sum(cost_usd), 0)::float8 FROM rl.judge_calls
 WHERE called_at >= date_trunc('day', $1::timestamptz AT TIME ZONE 'UTC') AT TIME ZONE 'UTC'
"""
_UNREADABLE = """
SELECT sum(unreadable) AS unreadable, sum(rows + test_rows + unreadable) AS rows, max(window_id) AS newest
  FROM rl.recorded_windows
 WHERE window_id > to_char($1::timestamptz AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:00')
"""
_NEWEST = "SELECT max(created_at) FROM rl.window_rows WHERE created_at <= $1"
_REJECTED = """
SELECT b.version, b.incumbent, b.reason FROM rl.benchmarks b
 WHERE b.purpose = 'gate' AND b.verdict = 'rejected' AND b.created_at > $1 ORDER BY b.id
"""
_SEEN = """
INSERT INTO rl.alerts (kind, key, reason, link) VALUES ($1, $2, $3, $4)
ON CONFLICT (kind, key) DO UPDATE
   SET reason = excluded.reason, link = excluded.link, last_at = now(), count = alerts.count + 1
"""
_UNDELIVERED = """
SELECT id, kind, key, reason, link, first_at, count FROM rl.alerts
 WHERE last_at > now() - $1::interval
   AND (delivered_at IS NULL OR last_at > delivered_at + $2::interval)
 ORDER BY id LIMIT 8 FOR UPDATE SKIP LOCKED
"""
_DELIVERED = "UPDATE rl.alerts SET delivered_at = now() WHERE id = $1"
_CREDENTIALS = re.compile(r"(?<=://)[^/@\s]+@")


@dataclass(frozen=True)
class Alert:
    """One thing that is wrong.

    Attributes:
        kind: What kind of thing.
        key: Which one; the pair is told once.
        reason: What a person reads first.
        page: Path in Dagster's UI where to go on.
    """

    kind: str
    key: str
    reason: str
    page: str = ""


async def find_alerts(rl: asyncpg.Connection, settings: Settings, now: datetime) -> list[Alert]:
    """Returns what is wrong by the figures in `rl`: stuck, over budget, unreadable, silent, rejected."""
    found = [
        Alert(
            STUCK,
            row["unit_key"],
            f"Training of {row['day']} ({row['backend']}) has run since {row['started_at']:%F %H:%M} UTC, "
            f"for more than {settings.alert_stuck_hours:g} hours",
            "/assets/trained_checkpoint",
        )
        for row in await rl.fetch(_STUCK, now - timedelta(hours=settings.alert_stuck_hours))
    ]
    found += [
        Alert(
            FAILED_GATE,
            row["version"],
            f"{row['version']} was rejected against {row['incumbent']}: {row['reason']}",
            "/assets/checkpoint_benchmark",
        )
        for row in await rl.fetch(_REJECTED, now - timedelta(hours=23))
    ]
    return [*found, *await _budget(rl, settings, now), *await _rows(rl, settings, now)]


async def _budget(rl: asyncpg.Connection, settings: Settings, now: datetime) -> list[Alert]:
    spent, budget = float(await rl.fetchval(_SPENT, now) or 0), settings.judge_daily_budget_usd
    if spent == 0 or spent < settings.alert_budget_share * budget:
        return []
    over = "; what is left waits until tomorrow" if spent >= budget else ""
    key = f"{now:%F}{':spent' if spent >= budget else ''}"
    reason = f"The judge has cost ${spent:.2f} of today's ${budget:.2f}{over}"
    return [Alert(BUDGET, key, reason, "/assets/scored_groups")]


async def _rows(rl: asyncpg.Connection, settings: Settings, now: datetime) -> list[Alert]:
    alerts = []
    row = await rl.fetchrow(_UNREADABLE, now - timedelta(days=1))
    if row is not None and row["rows"] and row["rows"] >= FEWEST_ROWS:
        share = row["unreadable"] / row["rows"]
        if share > settings.alert_quarantine_rate:
            reason = (
                f"{row['unreadable']} of the last day's {row['rows']} rows ({share:.0%}) cannot be read: has "
                "the recorder's format changed? `babylon windows check` names the reasons"
            )
            alerts.append(Alert(QUARANTINE, row["newest"][:10], reason, "/assets/trajectories"))
    # A row dated into the future must not hide that nothing comes any more.
    newest = await rl.fetchval(_NEWEST, now + timedelta(minutes=5))
    if newest is not None and now - newest > timedelta(hours=settings.alert_no_data_hours):
        hours = (now - newest).total_seconds() / 3600
        reason = f"No row was recorded for {hours:.0f} hours, since {newest:%F %H:%M} UTC: do the agents run?"
        alerts.append(Alert(NO_DATA, f"{newest:%FT%H:%M:%S}", reason, "/assets/recorded_rows"))
    return alerts


async def notify(settings: Settings, alerts: Sequence[Alert]) -> int:
    """Notes alerts in `rl.alerts` and posts what is due; returns how many were posted. Never raises."""
    try:
        async with open_databases(settings, role=ROLE) as db:
            for alert in alerts:
                reason = _clean(alert.reason, settings)[:LONGEST]
                link = f"{settings.dagster_page}{alert.page}"
                await db.rl.execute(_SEEN, alert.kind, _clean(alert.key, settings)[:200], reason, link)
            return await _deliver(db.rl, settings)
    except Exception as problem:
        # Its text could hold an address with a password.
        logger.warning("alerts were not handled: %s", type(problem).__name__)
        return 0


async def _deliver(rl: asyncpg.Connection, settings: Settings) -> int:
    if settings.alert_webhook_url is None and settings.discord_webhook_url is None:
        return 0
    posted = 0
    async with rl.transaction():
        repeat = timedelta(hours=settings.alert_repeat_hours)
        for row in await rl.fetch(_UNDELIVERED, PENDING, repeat):
            times = f" (seen {row['count']} times since {row['first_at']:%F %H:%M} UTC)"
            text = f"{row['reason']}{times if row['count'] > 1 else ''}"
            problem = await asyncio.to_thread(post, settings, row["kind"], text, row["link"])
            if problem:
                logger.warning("the alert %s %s was not delivered: %s", row["kind"], row["key"], problem)
                break  # the others would meet the same; all are tried again
            await rl.execute(_DELIVERED, row["id"])
            posted += 1
    return posted


def _clean(text: str, settings: Settings) -> str:
    """Removes every secret of the settings and the credentials of any address."""
    for secret in filter(None, known_secrets(settings)):
        text = text.replace(secret, "***")
    return _CREDENTIALS.sub("***@", text)
