"""What `babylon windows`, `train --mode list`, `models` and `status` show, as rich tables."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

import asyncpg
from rich.table import Table

from babylon_rl.database.connection import Databases
from babylon_rl.deployment.changed_days import ChangedDay
from babylon_rl.deployment.deploy import current
from babylon_rl.deployment.registry import ModelRecord
from babylon_rl.orchestration.readiness import (
    DayFacts,
    WindowFacts,
    judge_window,
    read_days,
    read_windows,
)
from babylon_rl.records.reader import refresh_window_rows
from babylon_rl.settings import Settings
from babylon_rl.windows import WINDOW_LENGTH, window_id_at, window_range

_COLOURS = {"scored": "green", "thin": "yellow", "empty": "dim", "no_spread": "yellow", "immature": "cyan"}


async def windows_until_newest(rl: asyncpg.Connection, hours: int) -> list[WindowFacts]:
    """Returns the last `hours` windows up to the newest recorded one, oldest first; none without rows."""
    newest = await rl.fetchval("SELECT max(window_id) FROM rl.window_rows")
    if newest is None:
        return []
    first = window_id_at(window_range(newest)[0] - (hours - 1) * WINDOW_LENGTH)
    return await read_windows(rl, first, newest)


def windows_table(facts: Sequence[WindowFacts], settings: Settings) -> Table:
    """Returns one line per window: what is recorded, what was made of it, and what happens next."""
    now = datetime.now(UTC)
    columns = ("window", "rows", "agents", "unreadable", "quality", "episodes", "outcomes", "group")
    table = _table(*columns, "mean reward", "next")
    for window in facts:
        colour = _COLOURS.get(window.group_status or "", "")
        status = f"[{colour}]{window.group_status}[/]" if colour else _text(window.group_status)
        verdict = judge_window(window, now, settings)
        table.add_row(
            window.window_id,
            *map(_text, (window.rows, window.agents, window.unreadable or None)),
            _text(None if window.good_rows is None or not window.rows else f"{window.quality:.0%}"),
            *map(_text, (window.episodes, window.outcomes_status)),
            status,
            _text(window.reward_mean),
            "" if verdict.verdict == "done" else f"{verdict.verdict}: {verdict.reason}",
        )
    return table


def explain_window(window: WindowFacts, settings: Settings) -> tuple[bool, str]:
    """Returns whether a window carries a trainable group, and why or why not in words."""
    verdict = judge_window(window, datetime.now(UTC), settings)
    lines = [
        f"window {window.window_id}: {window.rows} rows of {window.agents} agents "
        f"(needed: {settings.min_agents_per_window}); {window.unreadable} unreadable, {window.test_rows} of "
        f"test users; {window.quality:.0%} good enough (needed: {settings.data_quality_threshold:.0%})",
        f"snapshot: {_text(window.snapshot_status)}   outcomes: {_text(window.outcomes_status)}   "
        f"group: {_text(window.group_status)}{f' ({window.group_reason})' if window.group_reason else ''}",
        f"next: {verdict.verdict}, {verdict.reason}",
    ]
    return window.group_status == "scored", "\n".join(lines)


def changed_table(facts: Sequence[WindowFacts]) -> Table:
    """Returns one line per changed window: what Dagster cannot show as stale."""
    table = _table("changed window", "group", "what changed", "since")
    for window in facts:
        table.add_row(
            window.window_id,
            *map(_text, (window.group_status, window.stale)),
            f"{window.seen_at:%Y-%m-%d %H:%M}" if window.seen_at else "–",
        )
    return table


def changed_days_table(days: Sequence[ChangedDay]) -> Table:
    """Returns one line per trained day whose windows have other groups now."""
    table = _table("changed day", "trained to", "windows scored anew since")
    for day in days:
        table.add_row(day.day, day.version, str(day.windows))
    return table


def days_table(days: Iterable[DayFacts], trained: set[str], settings: Settings) -> Table:
    """Returns one line per day: its windows, its material, and whether it was trained."""
    table = _table("day", "windows resolved", "groups", "episodes", "state")
    for day in days:
        state = (
            "trained" if day.day in trained else "ready" if day.complete(settings) else "waits for windows"
        )
        table.add_row(day.day, f"{day.resolved}/24", str(day.scored), str(day.episodes), state)
    return table


def models_table(models: Iterable[ModelRecord]) -> Table:
    """Returns one line per model, in the order given."""
    table = _table("version", "status", "verdict", "day", "parent", "score", "trained", "checkpoint")
    for model in models:
        score = model.metrics.get("benchmark", {}).get("benchmark_score")
        status = f"[green]{model.status}[/]" if model.status == "deployed" else model.status
        table.add_row(
            model.version,
            status,
            *map(_text, (model.verdict, model.day, model.parent_version, score)),
            f"{model.created_at:%Y-%m-%d %H:%M}",
            _text(model.storage_path),
        )
    return table


async def status_lines(db: Databases, trained: set[str], settings: Settings) -> list[str]:
    """Returns where the loop stands, one line per stage, stale and waiting things included."""
    await refresh_window_rows(db.game, db.rl)
    facts = await windows_until_newest(db.rl, 48)
    now = datetime.now(UTC)
    verdicts = [judge_window(window, now, settings) for window in facts]
    due = [
        v.facts.window_id for v in verdicts if v.requested and v.facts.window_id >= settings.first_partition
    ]
    untrained = [d for d in await read_days(db.rl) if d.day not in trained]
    deployment = await current(db.rl)
    quarantined = await db.rl.fetchval("SELECT count(*) FROM rl.quarantine WHERE released_at IS NULL")
    return [
        f"recorded   newest window {facts[-1].window_id}" if facts else "recorded   nothing yet",
        f"windows    {sum(v.verdict == 'done' for v in verdicts)} of the last {len(verdicts)} done"
        + (f"; {len(due)} to be materialized, first {due[0]}" if due else ""),
        f"quarantine {quarantined} unreadable rows" + (" (rl.quarantine names them)" if quarantined else ""),
        f"trained    {len(trained)} days"
        + (f"; next {untrained[0].day}, {untrained[0].resolved} of 24 windows resolved" if untrained else ""),
        f"deployed   {deployment.version} since {deployment.started_at:%F %H:%M} UTC ({deployment.reason})"
        if deployment
        else "deployed   nothing; the base model answers",
    ]


def _table(*columns: str) -> Table:
    table = Table(header_style="bold", box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, no_wrap=column not in ("next", "checkpoint"))
    return table


def _text(value: object) -> str:
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
