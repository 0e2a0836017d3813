"""Windows that have changed since they were made.

Dagster compares data versions of assets: it learns of rows when they are observed, and never of outcomes and
values of orders that changed after a window was scored. `babylon status` and the dashboard list them all.
"""

import asyncpg

from babylon_rl.orchestration.readiness import WindowFacts, due_windows, read_windows


async def changed_windows(rl: asyncpg.Connection) -> list[WindowFacts]:
    """Returns every scored window about which something has changed since, oldest first."""
    return [window for window in await _due(rl) if window.stale]


async def windows_with_other_rows(rl: asyncpg.Connection) -> list[WindowFacts]:
    """Returns every window that was frozen and has other rows now, scored or not, oldest first."""
    return [window for window in await _due(rl) if window.taken not in (None, window.fingerprint)]


async def _due(rl: asyncpg.Connection) -> list[WindowFacts]:
    due = [window.window_id for window in await due_windows(rl)]
    return await read_windows(rl, due[0], due[0], due) if due else []
