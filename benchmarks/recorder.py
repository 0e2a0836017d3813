"""The recorder against the naive way and a bulk COPY, and what a kill of either side loses.

    python benchmarks/recorder.py [--quick] [--json] [--only speed|crash]

A trajectory is one row of `trajectories` and ten of `llm_call_logs`. The naive way makes its JSON with
`json.dumps` and awaits eleven single INSERTs; the recorder does the same work, from `start_trajectory` to
the acknowledgement; both get a pool of ten connections. The COPY streams finished bytes of the same rows
through one connection: the server's limit. The ways take turns in each round, so that what else the machine
does meets all of them; ratios are medians over the rounds. The figures are for what this project's agents
record; `long_prompts` has the same ones for agents with prompts of 2 KB, where the server compresses most
of the time.
"""

import argparse
import asyncio
import io
import json
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import asyncpg
from parts import naive_recorder
from parts.machine import machine
from parts.recorded_play import LONG, OWN, STEPS, Author, Lengths, Play, record
from parts.recorder_crash import drill

from babylon_rl.database.connection import connect, create_pool
from babylon_rl.database.embedded import EmbeddedServer, destroy_server, ensure_server
from babylon_rl.database.migrations import migrate
from babylon_rl.recorder import TrajectoryRecorder

COUNTS = {1: 80, 8: 480, 64: 640}
"""Trajectories of a measurement by the number of agents that record at once."""

TABLES = ("trajectories", "llm_call_logs")
POOL = 10


class Speed:
    """The three ways to store the same trajectories, each timed from an empty table."""

    def __init__(self, pool: asyncpg.Pool, agents: int, plays: Sequence[Sequence[Play]]) -> None:
        self._pool = pool
        self._agents = agents
        self._plays = plays
        self._dicts = [naive_recorder.plain(steps) for steps in plays]

    async def prepare(self) -> None:
        """Records once; what is then in the tables is what the COPY stores."""
        await self.recorder()
        self._bytes: dict[str, bytes] = {}
        async with self._pool.acquire() as connection:
            for table in TABLES:
                stream = io.BytesIO()
                await connection.copy_from_table(table, output=stream, format="binary")
                self._bytes[table] = stream.getvalue()

    async def naive(self) -> float:
        """Each agent makes a trajectory's rows and awaits one INSERT after the other."""
        return await self._in_turns(
            [
                lambda i=i, steps=steps: naive_recorder.store(self._pool, f"agent-{i % self._agents}", steps)
                for i, steps in enumerate(self._dicts)
            ]
        )

    async def recorder(self) -> float:
        """Each agent records a trajectory and awaits its end, then the next one."""
        recorder = TrajectoryRecorder(self._pool)

        async def one(index: int, steps: Sequence[Play]) -> None:
            trajectory, end = await record(recorder, f"agent-{index % self._agents}", steps)
            await recorder.end_trajectory(trajectory, final_balance=1000.0, final_pnl=0.0, at=end)

        return await self._in_turns(
            [lambda i=i, steps=steps: one(i, steps) for i, steps in enumerate(self._plays)]
        )

    async def copy(self) -> float:
        """One connection, one transaction, bytes that are ready."""
        await self._empty()
        async with self._pool.acquire() as connection:
            started = time.perf_counter()
            async with connection.transaction():
                for table in TABLES:
                    source = io.BytesIO(self._bytes[table])
                    await connection.copy_to_table(table, source=source, format="binary")
            return time.perf_counter() - started

    async def _in_turns(self, jobs: Sequence[Callable[[], Awaitable[None]]]) -> float:
        await self._empty()
        waiting = iter(jobs)

        async def agent() -> None:
            for job in waiting:
                await job()

        started = time.perf_counter()
        await asyncio.gather(*(agent() for _ in range(self._agents)))
        return time.perf_counter() - started

    async def _empty(self) -> None:
        # The checkpoint gives every measurement the same cost of full-page images.
        await self._pool.execute('TRUNCATE "trajectories" CASCADE')
        await self._pool.execute('TRUNCATE "llm_call_logs"')
        await self._pool.execute("CHECKPOINT")


async def measure(server: EmbeddedServer, lengths: Lengths, rounds: int, share: float) -> dict[str, Any]:
    """Seconds of every way in every round, by the number of agents."""
    author = Author(7)
    plays = [author.play(lengths) for _ in range(max(COUNTS.values()))]
    pool = await create_pool(server.dsn(), min_size=POOL, max_size=POOL)
    async with pool:
        users = [(f"agent-{number}",) for number in range(64)]
        insert = 'INSERT INTO "User" ("id", "updatedAt") VALUES ($1, now()) ON CONFLICT DO NOTHING'
        await pool.executemany(insert, users)
        speeds = {}
        for agents, count in COUNTS.items():
            speeds[agents] = Speed(pool, agents, plays[: max(agents, round(count * share))])
            await speeds[agents].prepare()
        seconds: dict[str, list[float]] = {}
        for number in range(rounds):
            for agents, speed in speeds.items():
                ways = {"naive": speed.naive, "recorder": speed.recorder, "copy": speed.copy}
                names = list(ways)[number % 3 :] + list(ways)[: number % 3]
                for name in names:
                    seconds.setdefault(f"{name}_{agents}", []).append(await ways[name]())
        counts = {agents: len(speed._plays) for agents, speed in speeds.items()}
    return {"seconds": seconds, "counts": counts}


def report(measured: dict[str, Any]) -> dict[str, Any]:
    """Prints the table and returns the figures."""
    seconds, counts = measured["seconds"], measured["counts"]
    print(f"{'agents':>6} {'way':<10}{'trajectories/s':>15}{'times the naive':>17}{'of the COPY':>13}")
    for agents, count in counts.items():
        for way in ("naive", "recorder", "copy"):
            times = seconds[f"{way}_{agents}"]
            faster = _ratio(seconds[f"naive_{agents}"], times)
            slower = _ratio(times, seconds[f"copy_{agents}"])
            print(f"{agents:>6} {way:<10}{count / median(times):>15.0f}{faster:>17.2f}{slower:>13.2f}")
    return {
        "speedup_1_agent": _ratio(seconds["naive_1"], seconds["recorder_1"]),
        "speedup_8_agents": _ratio(seconds["naive_8"], seconds["recorder_8"]),
        "speedup_64_agents": _ratio(seconds["naive_64"], seconds["recorder_64"]),
        "ratio_to_copy_8_agents": _ratio(seconds["recorder_8"], seconds["copy_8"]),
        "trajectories_per_second": {
            way: round(counts[int(way.rsplit("_", 1)[1])] / median(times), 1)
            for way, times in seconds.items()
        },
    }


def _ratio(numerators: Sequence[float], denominators: Sequence[float]) -> float:
    return round(median(n / d for n, d in zip(numerators, denominators, strict=True)), 3)


async def _prepared(home: Path) -> EmbeddedServer:
    server = await asyncio.to_thread(ensure_server, home)
    await migrate(server.dsn(), embedded=True)
    connection = await connect(server.dsn())
    assert await connection.fetchval("SHOW fsync") == "on"
    await connection.close()
    return server


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rounds: a glance, not a figure")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--only", choices=("speed", "crash"), help="only one of the two parts")
    arguments = parser.parse_args()
    rounds, share, kills = (2, 0.25, 1) if arguments.quick else (9, 1.0, 4)
    started = time.perf_counter()
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="babylon-bench-") as folder:
        Path(folder).chmod(0o711)  # as root the server runs under another account
        home = Path(folder) / "home"
        try:
            server = asyncio.run(_prepared(home))
            if arguments.only != "crash":
                figures |= report(asyncio.run(measure(server, OWN, rounds, share)))
                print("the same with long prompts")
                longer = asyncio.run(measure(server, LONG, max(2, rounds // 2), share / 2))
                figures["long_prompts"] = report(longer)
            if arguments.only != "speed":
                figures |= drill(home, kills)
        finally:
            destroy_server(home)
    figures |= {"rounds": rounds, "calls_per_trajectory": STEPS, "quick": arguments.quick}
    figures |= {"seconds": round(time.perf_counter() - started, 1), "machine": machine("asyncpg")}
    print(f"{figures['seconds']:.0f} s")
    if arguments.json:
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
