"""Readiness at a million recorded rows: what is ready in the last day, and what is due of all time.

    python benchmarks/readiness.py [--quick] [--json]

Twenty agents in each window, the last day and 2 % of the older windows without a verdict. Both questions are
asked as the sensor asks them, through schema `rl`, from the query to the verdict of every window; the game's
tables have no index of ours. Beside them the seeds' query on the game's table, and what the feed costs: per
1,000 new rows of 30 KB, when there is nothing new, and the nightly comparison of all rows.
"""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Any

import asyncpg
from parts.corpus import AGENTS, add_agents, add_rows, steps_json
from parts.cpu import CpuMeter
from parts.machine import machine

from babylon_rl.database.connection import connect
from babylon_rl.database.embedded import destroy_server, ensure_server
from babylon_rl.database.migrations import migrate
from babylon_rl.orchestration.readiness import due_windows, judge_window, read_windows
from babylon_rl.records.known_rows import summarize
from babylon_rl.records.reader import reconcile_window_rows, refresh_window_rows
from babylon_rl.settings import Settings
from babylon_rl.windows import WINDOW_LENGTH, window_id_at, windows_between

ROWS = 1_000_000
NEWS = 1_000
UNSCORED = 50
"""One of so many older windows has no verdict."""

_ROWS = """
INSERT INTO "trajectories" ("id", "trajectoryId", "agentId", "startTime", "endTime", "durationMs", "windowId",
    "scenarioId", "stepsJson", "rewardComponentsJson", "metricsJson", "metadataJson", "totalReward",
    "episodeLength", "finalStatus", "createdAt", "updatedAt")
SELECT 'row-' || lpad(n::text, 8, '0'), 'row-' || lpad(n::text, 8, '0'),
       'agent-' || lpad((n % {agents})::text, 2, '0'), start, start, 0, window_id, window_id, '[]',
       '{{}}', '{{}}', '{{}}', 0, 0, 'completed', start, start
  FROM generate_series(0, $1::int - 1) AS n,
       LATERAL (SELECT $2::timestamp + (n / {agents}) * interval '1 hour' AS start) s,
       LATERAL (SELECT to_char(start, 'YYYY-MM-DD"T"HH24":00"') AS window_id) w
"""
_KNOWN = """
INSERT INTO rl.window_rows (trajectory_id, agent_id, window_id, start_time, created_at, fingerprint,
                            row_version, player, bytes, quality, quality_reasons, seen_at)
SELECT "trajectoryId", "agentId", "windowId", "startTime", "createdAt", md5("trajectoryId"),
       xmin::text, 'agent', 2, 1.0, '{}', now()
  FROM "trajectories"
"""
_TAKEN = """
UPDATE rl.recorded_windows SET taken = fingerprint, taken_rows = rows, taken_at = now(), settled = true
 WHERE window_id < $1 AND abs(hashtext(window_id)) % $2 <> 0
"""
_SCORED = """
INSERT INTO rl.window_state (window_id, rows, agents, group_status, reward_mean, reward_std, pnl_mean)
SELECT window_id, rows, agents, 'scored', 0.01, 0.02, 3.5 FROM rl.recorded_windows WHERE settled
"""
# Seed 002: enough agents in the last 24 hours, by `createdAt`, on the game's table.
_SEEDS = """
SELECT "windowId", count(DISTINCT "agentId") AS agents FROM "trajectories"
 WHERE "createdAt" > $1 AND "windowId" IS NOT NULL AND "aiJudgeReward" IS NULL
 GROUP BY "windowId" HAVING count(DISTINCT "agentId") >= 5
"""


async def load(connection: asyncpg.Connection, rows: int, now: datetime) -> None:
    await add_agents(connection)
    first = now - (rows // AGENTS) * WINDOW_LENGTH
    await connection.execute(_ROWS.format(agents=AGENTS), rows, first)
    await connection.execute("VACUUM (FREEZE, ANALYZE)")
    await connection.execute(_KNOWN)
    windows = windows_between(first, now)
    for start in range(0, len(windows), 1000):
        async with connection.transaction():
            await summarize(connection, windows[start : start + 1000])
    await connection.execute(_TAKEN, window_id_at(now - timedelta(hours=24)), UNSCORED)
    await connection.execute(_SCORED)
    await connection.execute("VACUUM (FREEZE, ANALYZE)")


async def timed(question: Callable[[], Awaitable[Any]], times: int) -> float:
    """Median milliseconds of a question, from the query to its answer in Python."""
    found = []
    for turn in range(times + 5):
        started = time.perf_counter()
        await question()
        if turn >= 5:
            found.append((time.perf_counter() - started) * 1000)
    return median(found)


async def feed(connection: asyncpg.Connection, now: datetime, portions: int) -> dict[str, float]:
    """What the feed costs: milliseconds, and CPU of client and server, per `NEWS` new rows."""
    agents = await add_agents(connection)
    texts = [steps_json(seed) for seed in range(100)]
    meter, wall, cpu = CpuMeter(connection.get_server_pid()), [], []
    for portion in range(portions):
        starts = [now + timedelta(seconds=3 * (portion * NEWS + n)) for n in range(NEWS)]
        await add_rows(connection, f"news-{portion}", starts, agents, texts)
        started = time.perf_counter()
        meter.start()
        if await refresh_window_rows(connection, connection) != NEWS:
            sys.exit("the feed did not find all new rows")
        wall.append((time.perf_counter() - started) * 1000)
        cpu.append(sum(meter.stop()) * 1000)
    idle = await timed(lambda: refresh_window_rows(connection, connection), 15)
    started = time.perf_counter()
    if await reconcile_window_rows(connection, connection) != 0:
        sys.exit("the nightly comparison found a difference")
    return {
        "feed_ms_per_1000": median(wall),
        "feed_cpu_ms_per_1000": median(cpu),
        "feed_idle_ms": idle,
        "reconcile_s": time.perf_counter() - started,
    }


async def run(dsn: str, quick: bool) -> dict[str, Any]:
    await migrate(dsn, embedded=True)
    connection = await connect(dsn)
    rows, times = (50_000, 30) if quick else (ROWS, 101)
    now = datetime.now(UTC).replace(minute=30, second=0, microsecond=0)
    hour = now.replace(minute=0)
    await load(connection, rows, hour)
    settings = Settings(_env_file=None)
    first, last = window_id_at(hour - timedelta(hours=24)), window_id_at(hour - timedelta(hours=1))

    async def last_day() -> int:
        facts = await read_windows(connection, first, last)
        return sum(judge_window(window, now, settings).verdict == "ready" for window in facts)

    async def all_due() -> int:
        return sum(
            window.agents >= settings.min_agents_per_window for window in await due_windows(connection)
        )

    async def seeds() -> int:
        return len(await connection.fetch(_SEEDS, now - timedelta(hours=24)))

    found: dict[str, Any] = {
        "rows": rows,
        "windows": rows // AGENTS,
        "ready_24h": await last_day(),
        "due_windows": await all_due(),
        "p50_ms_24h": await timed(last_day, times),
        "p50_ms_all": await timed(all_due, times),
        "p50_ms_seeds_24h": await timed(seeds, times),
    }
    if found["ready_24h"] != 24:
        sys.exit(f"{found['ready_24h']} windows of the last day are ready, not 24")
    found |= await feed(connection, hour, 2 if quick else 5)
    indexes = await connection.fetchval(
        "SELECT count(*) FROM pg_indexes WHERE tablename = 'trajectories' AND schemaname = 'public'"
    )
    await connection.close()
    return found | {"indexes_on_trajectories": indexes}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rows: a glance, not a figure")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="babylon-bench-") as folder:
        Path(folder).chmod(0o711)
        home = Path(folder) / "home"
        try:
            found = asyncio.run(run(ensure_server(home).dsn(), arguments.quick))
        finally:
            destroy_server(home)
    print(f"{found['rows']:,} rows in {found['windows']:,} windows, {found['due_windows']:,} of them due")
    print(f"last 24 h, to the verdicts     {found['p50_ms_24h']:8.2f} ms p50")
    print(f"all windows that are due       {found['p50_ms_all']:8.2f} ms p50")
    print(f"the seeds' query, last 24 h    {found['p50_ms_seeds_24h']:8.2f} ms p50")
    print(
        f"feed, 1,000 new rows           {found['feed_ms_per_1000']:8.0f} ms "
        f"({found['feed_cpu_ms_per_1000']:.0f} ms of CPU)"
    )
    print(f"feed, nothing new              {found['feed_idle_ms']:8.1f} ms")
    print(f"comparison of all rows         {found['reconcile_s']:8.1f} s")
    if arguments.json:
        rounded = {
            key: round(value, 3) if isinstance(value, float) else value for key, value in found.items()
        }
        print(json.dumps(rounded | {"quick": arguments.quick, "machine": machine("asyncpg")}))


if __name__ == "__main__":
    main()
