"""Bringing outcomes and values of the last hours up to date: the seeds' `syncRecentWindows`.

Rows of the game arrive late, markets are resolved, horizons pass. A window that was scored with other
outcomes or other values than it has now becomes stale, with the reason; it is scored again by the same path
as ever, and a batch that was trained on it stays what it was.
"""

from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta

import asyncpg
import msgspec

from babylon_rl import windows
from babylon_rl.outcomes.credit import credit_windows, mark_stale, value_again
from babylon_rl.outcomes.market import derive_outcomes, load_outcomes, store_outcomes
from babylon_rl.outcomes.order_value import DELAY, OrderValue
from babylon_rl.outcomes.touched import touched_instruments
from babylon_rl.outcomes.window_outcomes import WindowOutcomes


class SyncedWindow(msgspec.Struct, frozen=True):
    """One window after its synchronisation."""

    outcomes: WindowOutcomes
    orders: list[OrderValue]
    """Values at every horizon."""
    reasons: list[str]
    """In words, what is not as it was stored before."""
    stale: bool
    """Whether the window had been scored with that."""


class SyncReport(msgspec.Struct, frozen=True):
    """What a synchronisation found."""

    windows: list[str]
    """All that were looked at, oldest first."""
    changed: list[str]
    """Those whose outcomes or values are not what they were."""
    stale: list[str]
    """Those among them that had been scored."""
    credited: list[str]
    """Windows whose orders were valued again because their time had come or their market was resolved."""


def recent_windows(now: datetime, hours: int, delay: timedelta = DELAY) -> list[str]:
    """Returns the complete windows that began in the last `hours`, oldest first."""
    last = now - delay - windows.WINDOW_LENGTH
    return windows.windows_between(now - timedelta(hours=hours), last + timedelta(seconds=1))


async def sync_recent_windows(
    game: asyncpg.Connection,
    rl: asyncpg.Connection,
    *,
    hours: int = 24,
    now: datetime | None = None,
    delay: timedelta = DELAY,
    horizon: str = "1h",
    project_to_game: bool = True,
    track: Callable[[list[str]], Iterable[str]] = iter,
) -> SyncReport:
    """Derives the outcomes of the last complete windows and values their orders anew.

    Args:
        game: Connection to the game's database.
        rl: Connection to the database with schema `rl`; may be the same one.
        hours: How far back.
        now: Aware time; by default, the clock's.
        delay: How long a window has to be over.
        horizon: The training horizon: a change of its values makes a scored window stale.
        project_to_game: Also show the outcomes in the game's `market_outcomes`.
        track: Wraps the list of windows, for a progress bar.
    """
    now = now or datetime.now(UTC)
    looked_at = recent_windows(now, hours, delay)
    changed, stale = [], []
    for window_id in track(looked_at):
        synced = await sync_window(
            game, rl, window_id, now=now, delay=delay, horizon=horizon, project_to_game=project_to_game
        )
        changed += [window_id] if synced.reasons else []
        stale += [window_id] if synced.stale else []
    credited = await credit_windows(game, rl, now, delay=delay, horizon=horizon)
    return SyncReport(windows=looked_at, changed=changed, stale=stale, credited=credited)


async def sync_window(
    game: asyncpg.Connection,
    rl: asyncpg.Connection,
    window_id: str,
    *,
    now: datetime | None = None,
    delay: timedelta = DELAY,
    horizon: str = "1h",
    project_to_game: bool = True,
) -> SyncedWindow:
    """Derives and values one complete window, and marks it as stale where it was scored with something else.

    Raises:
        UnknownWindowError: `window_id` is not a window id.
        OpenWindowError: The window is not over.
    """
    now = now or datetime.now(UTC)
    touched = await touched_instruments(game, rl, window_id)
    outcomes = await derive_outcomes(game, window_id, now=now, delay=delay, touched=touched)
    before = await load_outcomes(rl, window_id)
    await store_outcomes(rl, game, outcomes, project_to_game)
    orders, reasons = await value_again(game, rl, window_id, now, delay=delay, horizon=horizon)
    if before is None or before.sha256 != outcomes.sha256:
        reasons = ["its market outcomes changed", *reasons]
    return SyncedWindow(outcomes, orders, reasons, await mark_stale(rl, window_id, reasons))
