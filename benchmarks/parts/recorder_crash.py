"""Kill -9 of a recording process and of the server, at moments drawn at random, while eight agents record.

The drill knows what was acknowledged: the client writes a trajectory's id into a pipe after its end has
returned. After a kill of the client another one records again what was not acknowledged, under the same ids;
after a kill of the server the same client repeats its ends until the server is back.
"""

import asyncio
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from babylon_rl.database.connection import connect, create_pool
from babylon_rl.database.embedded import EmbeddedServer, ensure_server
from babylon_rl.recorder import TrajectoryRecorder
from babylon_rl.recorder.errors import NotStoredError
from parts.recorded_play import STEPS, Author, record

AGENTS = 8
_WAIT = 120.0  # seconds for a client that should end by itself


class Client:
    """A process that records the trajectories `<run>/<agent>/<number>` that are not acknowledged yet."""

    def __init__(self, dsn: str, run: str, each: int, acknowledged: set[str]) -> None:
        command = [sys.executable, "-m", "parts.recorder_crash", dsn, run, str(each)]
        self.acknowledged = acknowledged
        self._process = subprocess.Popen(
            command,
            cwd=Path(__file__).parents[1],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdin is not None
        self._process.stdin.write("\n".join(sorted(acknowledged)) + "\n")
        self._process.stdin.close()
        self._listener = threading.Thread(target=self._listen)
        self._listener.start()

    def wait_for(self, count: int) -> None:
        """Returns when so many are acknowledged, or the client has ended."""
        while len(self.acknowledged) < count and self._process.poll() is None:
            time.sleep(0.005)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        self._listener.join()

    def finish(self) -> None:
        """Waits for the client's own end."""
        if self._process.wait(_WAIT) != 0:
            raise SystemExit(f"the recording client ended with status {self._process.returncode}")
        self._listener.join()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.endswith("\n"):  # else it was cut by the kill, and nobody has read it
                self.acknowledged.add(line.strip())


def drill(home: Path, kills: int) -> dict[str, Any]:
    """Kills the client and the server so many times each and counts what is lost or there twice."""
    server = ensure_server(home)
    asyncio.run(_users(server))
    chance = random.Random(11)
    acknowledged: set[str] = set()
    planned: set[str] = set()
    unanswered = 0
    for victim in ("client", "server"):
        each = 30 * (kills + 1)
        own = set(_ids(victim, each))
        planned |= own
        done: set[str] = set()
        client = Client(server.dsn(), victim, each, done)
        for number in range(kills):
            client.wait_for(len(own) * (number + 1) // (kills + 1))
            time.sleep(chance.uniform(0, 0.05))
            if victim == "client":
                client.kill()
                unanswered += asyncio.run(_stored(server, own)) - len(done)
                client = Client(server.dsn(), victim, each, done)
            else:
                _kill_server(server)
                server = ensure_server(home)
        client.finish()
        acknowledged |= done
    if planned != acknowledged:
        raise SystemExit(f"{len(planned - acknowledged)} trajectories were never acknowledged")
    found = asyncio.run(_count(server, acknowledged))
    print(
        f"{kills} kills of the client, {kills} of the server: {len(acknowledged)} acknowledged, "
        f"{found['lost_acknowledged']} lost, {found['duplicates']} stored twice, {found['incomplete']} with "
        f"other than {STEPS} calls; {unanswered} were stored but not acknowledged when the client died"
    )
    return {**found, "acknowledged": len(acknowledged), "kills": 2 * kills, "stored_unanswered": unanswered}


def _ids(run: str, each: int) -> Iterator[str]:
    return (f"{run}/{agent}/{number}" for agent in range(AGENTS) for number in range(each))


def _kill_server(server: EmbeddedServer) -> None:
    postmaster = psutil.Process(server.pid)
    victims = [postmaster, *postmaster.children()]
    for process in victims:
        process.send_signal(signal.SIGKILL)
    psutil.wait_procs(victims, timeout=10)


async def _users(server: EmbeddedServer) -> None:
    connection = await connect(server.dsn())
    insert = 'INSERT INTO "User" ("id", "updatedAt") VALUES ($1, now()) ON CONFLICT DO NOTHING'
    await connection.executemany(insert, [(f"agent-{number}",) for number in range(AGENTS)])
    await connection.execute('DELETE FROM "trajectories"')
    await connection.execute('DELETE FROM "llm_call_logs"')
    await connection.close()


async def _stored(server: EmbeddedServer, ids: set[str]) -> int:
    # The dead client's sessions may still commit what they had been sent.
    connection = await connect(server.dsn())
    others = "pid <> pg_backend_pid() AND datname = current_database() AND backend_type = 'client backend'"
    while await connection.fetchval(f"SELECT count(*) FROM pg_stat_activity WHERE {others}"):
        await connection.execute("SELECT pg_sleep(0.02), pg_stat_clear_snapshot()")
    count = 'SELECT count(*) FROM "trajectories" WHERE "trajectoryId" = ANY($1::text[])'
    stored = int(await connection.fetchval(count, list(ids)) or 0)
    await connection.close()
    return stored


async def _count(server: EmbeddedServer, acknowledged: set[str]) -> dict[str, int]:
    connection = await connect(server.dsn())
    # The scenario names what was recorded, whatever id it was stored under.
    rows = dict(
        await connection.fetch('SELECT "scenarioId", count(*) FROM "trajectories" GROUP BY "scenarioId"')
    )
    calls = dict(
        await connection.fetch('SELECT "trajectoryId", count(*) FROM "llm_call_logs" GROUP BY "trajectoryId"')
    )
    await connection.close()
    return {
        "lost_acknowledged": len(acknowledged - rows.keys()),
        "duplicates": sum(rows.values()) - len(rows),
        "incomplete": sum(calls.get(key, 0) != STEPS for key in rows) + len(calls.keys() - rows.keys()),
    }


async def _client(dsn: str, run: str, each: int, acknowledged: set[str]) -> None:
    steps = Author(3).play()
    async with await create_pool(dsn, min_size=0, max_size=AGENTS) as pool:
        recorder = TrajectoryRecorder(pool)

        async def agent(number: int) -> None:
            for count in range(each):
                name = f"{run}/{number}/{count}"
                if name in acknowledged:
                    continue
                _, end = await record(
                    recorder, f"agent-{number}", steps, trajectory_id=name, scenario_id=name
                )
                while True:
                    try:
                        await recorder.end_trajectory(name, at=end)
                        break
                    except NotStoredError:
                        await asyncio.sleep(0.05)
                os.write(sys.stdout.fileno(), f"{name}\n".encode())

        await asyncio.gather(*(agent(number) for number in range(AGENTS)))


if __name__ == "__main__":
    asyncio.run(_client(sys.argv[1], sys.argv[2], int(sys.argv[3]), set(sys.stdin.read().split())))
