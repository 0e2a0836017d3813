"""Reading windows against the physical limit: a raw COPY of the same rows that nobody decodes.

    python benchmarks/read_window.py [--quick] [--json]

The limit is `COPY ... TO STDOUT (FORMAT binary)` through psycopg, one statement per window. Against it: the
lean view (for scoring) and the full view (for training) as the pipeline reads them, with the feed's list, the
check of every row's version, typed steps. Beside them, for scale, the way of the seeds: their query and
`json.loads`. CPU is that of the client and of the server's backend together; the ways take turns in each
round, and ratios are medians over the rounds. Memory is the peak of a process of its own above what it held
after a first small window, while the largest window passes through it.
"""

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Any

import asyncpg
import psycopg2
from parts.corpus import AGENTS, add_agents, add_rows, steps_json
from parts.cpu import CpuMeter, forget_peak, peak_mb, resident_mb
from parts.machine import machine

from babylon_rl.database.connection import connect
from babylon_rl.database.embedded import destroy_server, ensure_server
from babylon_rl.database.migrations import migrate
from babylon_rl.records.reader import WindowStream, read_window, refresh_window_rows
from babylon_rl.records.stream import View
from babylon_rl.windows import window_id_at

START = datetime(2026, 10, 1, tzinfo=UTC)
LARGE = START + timedelta(days=20)
LARGE_WINDOW = window_id_at(LARGE)

_COLUMNS = """
"id", "trajectoryId", "agentId", "scenarioId", "startTime", "endTime", "finalPnL", "finalBalance",
"finalStatus", "stepsJson"
"""
# Seed 001: a prefix match on the scenario beside the window, every column, and text for the decoder.
_SEEDS = f"""
SELECT {_COLUMNS} FROM "trajectories"
 WHERE "windowId" = $1 OR "scenarioId" LIKE $1 || '%' ORDER BY "startTime"
"""


class Drain:
    """A file that counts and keeps nothing."""

    size = 0

    def write(self, data: bytes) -> None:
        self.size += len(data)


class Reading:
    """The ways to read all windows once; each returns how many rows it met."""

    def __init__(self, dsn: str, connection: asyncpg.Connection, windows: list[str]) -> None:
        self.psycopg = psycopg2.connect(dsn)
        self._connection, self._windows = connection, windows

    async def copy(self) -> int:
        drain = Drain()
        with self.psycopg.cursor() as cursor:
            for window in self._windows:
                query = f'SELECT {_COLUMNS} FROM "trajectories" WHERE "windowId" = \'{window}\''
                cursor.copy_expert(f"COPY ({query}) TO STDOUT (FORMAT binary)", drain)
        self.psycopg.commit()
        return drain.size

    async def lean(self) -> int:
        return await self._stream("lean")

    async def full(self) -> int:
        return await self._stream("full")

    async def seeds(self) -> int:
        rows = 0
        for window in self._windows:
            for row in await self._connection.fetch(_SEEDS, window):
                json.loads(row["stepsJson"])
                rows += 1
        return rows

    async def _stream(self, view: View) -> int:
        rows = 0
        for window in self._windows:
            async for batch in WindowStream(self._connection, self._connection, window, view=view):
                rows += len(batch)
        return rows


async def load(connection: asyncpg.Connection, windows: int, large: int) -> dict[str, Any]:
    agents, texts = await add_agents(connection), [steps_json(seed) for seed in range(300)]
    starts = [
        START + timedelta(hours=hour, minutes=2 * minute)
        for hour in range(windows)
        for minute in range(AGENTS)
    ]
    await add_rows(connection, "small", starts, agents, texts)
    await add_rows(connection, "large", [LARGE + timedelta(seconds=n) for n in range(large)], agents, texts)
    await connection.execute("VACUUM ANALYZE")
    await refresh_window_rows(connection, connection)
    size = sum(map(len, texts)) / len(texts)
    return {"windows": windows, "rows": len(starts), "large_rows": large, "row_kb": round(size / 1000, 1)}


async def compare(
    dsn: str, connection: asyncpg.Connection, windows: list[str], rounds: int
) -> dict[str, Any]:
    """CPU seconds of each way, and its ratio to the COPY of the same round."""
    reading = Reading(dsn, connection, windows)
    ways: dict[str, Callable[[], Awaitable[int]]] = {
        "copy": reading.copy,
        "lean": reading.lean,
        "full": reading.full,
        "seeds": reading.seeds,
    }
    ours, theirs = CpuMeter(connection.get_server_pid()), CpuMeter(reading.psycopg.info.backend_pid)
    used: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for turn in range(rounds + 1):
        for name, way in ways.items():
            meter = theirs if name == "copy" else ours
            meter.start()
            await way()
            if turn:  # the first round warms caches and prepared statements
                used[name].append(meter.stop())
    reading.psycopg.close()
    return {
        name: {
            "client_s": median(client for client, _ in found),
            "server_s": median(server for _, server in found),
            "ratio": median(sum(mine) / sum(limit) for mine, limit in zip(found, used["copy"], strict=True)),
        }
        for name, found in used.items()
    }


async def memory(dsn: str, window: str, first: str, way: str) -> float:
    """MB above the baseline while a window passes through; for a process of its own."""
    connection = await connect(dsn)
    await read_window(connection, connection, first)
    forget_peak()
    before = resident_mb()
    view: View = "lean" if way == "lean" else "full"
    if way == "kept":
        kept = await read_window(connection, connection, window)
        assert kept.trajectories
    else:
        async for _ in WindowStream(connection, connection, window, view=view):
            pass
    await connection.close()
    return peak_mb() - before


def measured_memory(dsn: str, way: str) -> float:
    """Runs `memory` in a fresh process."""
    command = [sys.executable, __file__, "--memory", way, "--dsn", dsn]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


async def run(dsn: str, quick: bool) -> dict[str, Any]:
    await migrate(dsn, embedded=True)
    connection = await connect(dsn)
    windows, large, rounds = (12, 300, 3) if quick else (100, 2000, 9)
    corpus = await load(connection, windows, large)
    small = [window_id_at(START + timedelta(hours=hour)) for hour in range(windows)]
    found = {
        "small_windows": await compare(dsn, connection, small, rounds),
        "large_window": await compare(dsn, connection, [LARGE_WINDOW], rounds),
        "all": await compare(dsn, connection, [*small, LARGE_WINDOW], rounds),
    }
    await connection.close()
    rss = {way: measured_memory(dsn, way) for way in ("full", "lean", "kept")}
    return {"corpus": corpus, "cpu": found, "rss": rss}


def show(found: dict[str, Any]) -> None:
    corpus = found["corpus"]
    print(
        f"{corpus['rows']} rows in {corpus['windows']} windows and one window of {corpus['large_rows']}, "
        f"{corpus['row_kb']} KB of steps a row"
    )
    print(f"{'CPU, client + server':<24}{'client s':>10}{'server s':>10}{'to COPY':>10}")
    for group, ways in found["cpu"].items():
        print(group)
        for way, cost in ways.items():
            print(f"  {way:<22}{cost['client_s']:>10.3f}{cost['server_s']:>10.3f}{cost['ratio']:>9.2f}x")
    rss = found["rss"]
    print(
        f"memory above baseline, {corpus['large_rows']}-row window: {rss['full']:.0f} MB streamed whole, "
        f"{rss['lean']:.0f} MB streamed lean, {rss['kept']:.0f} MB kept whole"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rows: a glance, not a figure")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--memory", help=argparse.SUPPRESS)
    parser.add_argument("--dsn", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory:
        print(asyncio.run(memory(arguments.dsn, LARGE_WINDOW, window_id_at(START), arguments.memory)))
        return
    with tempfile.TemporaryDirectory(prefix="babylon-bench-") as folder:
        Path(folder).chmod(0o711)
        home = Path(folder) / "home"
        try:
            found = asyncio.run(run(ensure_server(home).dsn(), arguments.quick))
        finally:
            destroy_server(home)
    show(found)
    if arguments.json:
        ways = found["cpu"]["all"]
        figures = {
            "cpu_ratio_lean": round(ways["lean"]["ratio"], 3),
            "cpu_ratio_full": round(ways["full"]["ratio"], 3),
            "cpu_ratio_seeds": round(ways["seeds"]["ratio"], 3),
            "rss_mb": round(found["rss"]["full"], 1),
            "rss_mb_lean": round(found["rss"]["lean"], 1),
            "rss_mb_kept": round(found["rss"]["kept"], 1),
        }
        packages = machine("asyncpg", "msgspec", "psycopg2-binary")
        print(json.dumps(figures | found | {"quick": arguments.quick, "machine": packages}))


if __name__ == "__main__":
    main()
