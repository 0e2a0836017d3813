"""A day that is over, recorded and scored, as the hourly assets leave it; enough of it to be trained."""

import asyncio
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import asyncpg

from babylon_rl.database.connection import connect
from babylon_rl.records.reader import refresh_window_rows
from babylon_rl.windows import windows_of_day
from babylon_rl_tests.orchestration.recorded import record_window

DAY = "2026-10-02"
T = TypeVar("T")

AGENTS = ("agent-a", "agent-b", "agent-c", "agent-d")


def record_day(dsn: str, windows: int = 24, day: str = DAY, scored: bool = True) -> None:
    """Records windows of four agents each, and notes all 24 as scored (where they have rows) or empty."""

    async def work() -> None:
        connection = await connect(dsn)
        await _record(connection, windows, day, scored)
        await connection.close()

    run(work())


def run(work: Coroutine[Any, Any, T]) -> T:
    """Runs a coroutine to its end in a thread: a browser's driver has an event loop in this one."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        return pool.submit(asyncio.run, work).result()


async def _record(connection: asyncpg.Connection, windows: int, day: str, scored: bool) -> None:
    for window_id in windows_of_day(day)[:windows]:
        await record_window(connection, window_id, AGENTS)
    await refresh_window_rows(connection, connection)
    if not scored:
        return
    for number, window_id in enumerate(windows_of_day(day)):
        there = number < windows
        await connection.execute(
            """INSERT INTO rl.window_state (window_id, rows, agents, episodes, group_status, reward_mean)
               VALUES ($1, $2, $2, $2, $3, 0.01)""",
            *(window_id, len(AGENTS) if there else 0, "scored" if there else "empty"),
        )
    await connection.execute("UPDATE rl.recorded_windows SET taken = fingerprint, settled = true")
