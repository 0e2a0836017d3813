"""Windows whose verdict is not final on what is known and asked for now."""

from collections.abc import Sequence
from datetime import UTC, datetime

from babylon_rl.database.connection import open_databases
from babylon_rl.orchestration.readiness import WindowFacts, judge_window, read_windows
from babylon_rl.records.reader import refresh_window_rows
from babylon_rl.scoring.groups import THIN
from babylon_rl.settings import Settings

SMALLEST = 2
"""Agents of the smallest group: nobody can be compared with nobody."""


async def unresolved_windows(settings: Settings, windows: Sequence[str]) -> list[str]:
    """Returns those of the windows that should be materialized before they are trained, oldest first.

    A window that was too thin counts too, once MIN_AGENTS_PER_WINDOW asks for no more than it has.
    """
    if not windows:
        return []
    async with open_databases(settings) as db:
        await refresh_window_rows(db.game, db.rl)
        wanted = set(windows)
        facts = [f for f in await read_windows(db.rl, min(windows), max(windows)) if f.window_id in wanted]
    now = datetime.now(UTC)
    return [
        f.window_id
        for f in facts
        if f.rows and (judge_window(f, now, settings).requested or _would_do(f, settings))
    ]


def _would_do(facts: WindowFacts, settings: Settings) -> bool:
    enough = max(SMALLEST, settings.min_agents_per_window)
    return facts.group_status == THIN and (facts.episodes or 0) >= enough
