"""Reading windows: the trajectories of one window as `rl.window_rows` lists them, whole or lean.

    await refresh_window_rows(game, rl)                                     # what is new
    window = await read_window(game, rl, "2026-10-01T14:00")                # everything, for training
    window = await read_window(game, rl, "2026-10-01T14:00", view="lean")   # without prompts, for scoring

The game's database and the one with schema `rl` may be different servers, so nothing here joins across them.
"""

from typing import Any, Literal, overload

import asyncpg

from babylon_rl.records.feed import BEGINNING, OVERLAP, reconcile_window_rows, refresh_window_rows
from babylon_rl.records.lean import LeanTrajectory
from babylon_rl.records.stream import DUPLICATE, QuarantinedRow, View, WindowRead, WindowStream
from babylon_rl.records.trajectory import RecordedTrajectory

__all__ = [
    "BEGINNING",
    "DUPLICATE",
    "OVERLAP",
    "QuarantinedRow",
    "WindowRead",
    "WindowStream",
    "read_window",
    "reconcile_window_rows",
    "refresh_window_rows",
]


@overload
async def read_window(
    game: asyncpg.Connection,
    rl: asyncpg.Connection,
    window_id: str,
    *,
    view: Literal["full"] = "full",
    include_test_users: bool = False,
) -> WindowRead[RecordedTrajectory]: ...


@overload
async def read_window(
    game: asyncpg.Connection,
    rl: asyncpg.Connection,
    window_id: str,
    *,
    view: Literal["lean"],
    include_test_users: bool = False,
) -> WindowRead[LeanTrajectory]: ...


async def read_window(
    game: asyncpg.Connection,
    rl: asyncpg.Connection,
    window_id: str,
    *,
    view: View = "full",
    include_test_users: bool = False,
) -> WindowRead[Any]:
    """Reads all trajectories of a window that `rl.window_rows` lists, and keeps `rl` true to what it saw.

    Rows without a reading go to `rl.quarantine` and the window goes on; rows that can be read again are
    released. A window may be too large for this: see `WindowStream`.

    Args:
        game: Connection to the game's database; only reads.
        rl: Connection to the database with schema `rl`; may be the same one.
        window_id: A canonical window id.
        view: `full`, or `lean`: without prompts, answers and look-ups.
        include_test_users: Do not leave out the rows of test users.

    Raises:
        UnknownWindowError: `window_id` is not a window id.
    """
    stream = WindowStream(game, rl, window_id, view=view, include_test_users=include_test_users)
    found = [trajectory async for batch in stream for trajectory in batch]
    if stream.reordered:
        found.sort(key=lambda t: (t.agent_id, t.start_time, t.trajectory_id))
    stream.read.trajectories = found
    return stream.read
