"""What `babylon windows`, `train --mode list`, `models` and `status` show, as rich tables."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

import asyncpg
from rich.table import Table

from babylon_rl.orchestration.readiness import (
    DayFacts,
    WindowFacts,
    judge_window,
    read_windows,
)
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
    table = _table("window", "rows", "agents", "episodes", "outcomes", "group", "mean reward", "next")
    for window in facts:
        colour = _COLOURS.get(window.group_status or "", "")
        status = f"[{colour}]{window.group_status}[/]" if colour else _text(window.group_status)
        verdict = judge_window(window, now, settings)
        table.add_row(
            window.window_id,
            *map(_text, (window.rows, window.agents, window.episodes, window.outcomes_status)),
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
        f"(needed: {settings.min_agents_per_window})",
        f"snapshot: {_text(window.snapshot_status)}   outcomes: {_text(window.outcomes_status)}   "
        f"group: {_text(window.group_status)}{f' ({window.group_reason})' if window.group_reason else ''}",
        f"next: {verdict.verdict}, {verdict.reason}",
    ]
    return window.group_status == "scored", "\n".join(lines)


def days_table(days: Iterable[DayFacts], trained: set[str]) -> Table:
    """Returns one line per day: its windows, its material, and whether it was trained."""
    table = _table("day", "windows resolved", "groups", "episodes", "state")
    for day in days:
        state = "trained" if day.day in trained else "ready" if day.complete else "waits for windows"
        table.add_row(day.day, f"{day.resolved}/24", str(day.scored), str(day.episodes), state)
    return table


def _table(*columns: str) -> Table:
    table = Table(header_style="bold", box=None, pad_edge=False)
    for column in columns:
        table.add_column(column)
    return table


def _text(value: object) -> str:
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
