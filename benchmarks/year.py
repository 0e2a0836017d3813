"""What 1,000 agents record in a year: bytes and rows measured on a sample, the rest by multiplication.

    python benchmarks/year.py [--quick] [--json]

A sample of rows of the size that real ones have (ten steps, a prompt each, 30 KB of JSON) is stored in a real
PostgreSQL and read back as the pipeline reads a window. Size per row covers table, TOAST and indexes; reading
is per row, decoded. The year is `agents x 8,760 hours x rows per hour` times that: for one row per agent and
hour, and for one per minute, the most that the game's agents record.
"""

import argparse
import asyncio
import json
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from parts.corpus import AGENTS, add_agents, add_rows, steps_json
from parts.machine import machine

from babylon_rl.database.connection import connect
from babylon_rl.database.embedded import destroy_server, ensure_server
from babylon_rl.database.migrations import migrate
from babylon_rl.records.reader import read_window, refresh_window_rows
from babylon_rl.windows import window_id_at

AGENTS_OF_A_YEAR = 1_000
HOURS = 8_760
START = datetime(2026, 10, 1, tzinfo=UTC)
_SIZE = """SELECT pg_total_relation_size('"trajectories"')"""


async def measure(dsn: str, windows: int) -> dict[str, Any]:
    """Stores the sample and returns its figures and the year's."""
    await migrate(dsn, embedded=True)
    connection = await connect(dsn)
    try:
        agents = await add_agents(connection)
        steps = [steps_json(seed) for seed in range(32)]
        before: int = await connection.fetchval(_SIZE) or 0
        for number in range(windows):
            starts = [START + timedelta(hours=number)] * AGENTS
            await add_rows(connection, f"hour-{number:04}", starts, agents, steps)
        await connection.execute('VACUUM ANALYZE "trajectories"')
        size: int = (await connection.fetchval(_SIZE) or 0) - before
        await refresh_window_rows(connection, connection)
        started, cpu = time.perf_counter(), time.process_time()
        for number in range(windows):
            await read_window(connection, connection, window_id_at(START + timedelta(hours=number)))
        seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    finally:
        await connection.close()
    rows = windows * AGENTS
    per_row = {"bytes": size / rows, "read_ms": 1000 * seconds / rows, "read_cpu_ms": 1000 * cpu / rows}
    return {
        "rows": rows,
        "json_bytes": sum(map(len, steps)) / len(steps),
        "per_row": per_row,
        "year": {name: year(per_row, hourly) for name, hourly in (("hourly", 1), ("every_minute", 60))},
    }


def year(per_row: dict[str, float], rows_per_hour: int) -> dict[str, float]:
    """A year of 1,000 agents by the figures of a row."""
    rows = AGENTS_OF_A_YEAR * HOURS * rows_per_hour
    return {
        "rows": rows,
        "rows_per_second": rows / HOURS / 3600,
        "tib": rows * per_row["bytes"] / 2**40,
        "gib_per_day": rows * per_row["bytes"] / 2**30 / 365,
        "read_hours": rows * per_row["read_ms"] / 3_600_000,
        "read_seconds_per_window": AGENTS_OF_A_YEAR * rows_per_hour * per_row["read_ms"] / 1000,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a smaller sample")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        try:
            found = asyncio.run(measure(ensure_server(home).dsn(), 10 if arguments.quick else 100))
        finally:
            destroy_server(home)
    found |= {"quick": arguments.quick, "machine": machine("asyncpg", "msgspec")}
    row = found["per_row"]
    print(f"{found['rows']} rows of {found['json_bytes'] / 1000:.1f} KB of JSON")
    print(
        f"  {row['bytes'] / 1000:.1f} KB stored, {row['read_ms']:.2f} ms to read, "
        f"{row['read_cpu_ms']:.2f} ms of it CPU of the reader"
    )
    print("1,000 agents, a year        rows  rows/s     TiB  GiB/day  s per window")
    for name, label in (("hourly", "one row an hour"), ("every_minute", "one row a minute")):
        y = found["year"][name]
        print(
            f"  {label:18} {y['rows']:12,.0f} {y['rows_per_second']:7.2f} {y['tib']:7.2f} "
            f"{y['gib_per_day']:8.1f} {y['read_seconds_per_window']:13.1f}"
        )
    if arguments.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
