"""`babylon demo` as a newcomer runs it: from nothing, killed in the middle, and run again."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import asyncpg
import pytest

from babylon_rl.database.connection import connect
from babylon_rl.database.embedded import destroy_server, ensure_server

pytestmark = pytest.mark.long

COMMAND = [sys.executable, "-m", "babylon_rl.cli", "demo", "--days", "2", "--agents", "6"]


def environment(home: Path) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    return {**kept, "BABYLON_HOME": str(home), "OMP_NUM_THREADS": "1"}


def query(home: Path, sql: str) -> list[asyncpg.Record]:
    async def read() -> list[asyncpg.Record]:
        connection = await connect(ensure_server(home).dsn("babylon"))
        try:
            return await connection.fetch(sql)
        finally:
            await connection.close()

    return asyncio.run(read())


def wait_for_rows(home: Path, sql: str, process: "subprocess.Popen[str]") -> None:
    """Wait until a query finds something; the database may not exist yet."""
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()[0]
        try:
            if query(home, sql):
                return
        except (asyncpg.PostgresError, OSError):
            pass
        time.sleep(0.5)
    raise AssertionError(f"nothing found by: {sql}")


def test_killed_in_the_middle_it_goes_on_and_nothing_is_there_twice(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    try:
        first = subprocess.Popen(
            COMMAND, env=environment(home), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        ensure_server(home)
        wait_for_rows(home, "SELECT 1 FROM rl.training_units", first)
        first.send_signal(signal.SIGKILL)
        first.wait()

        second = subprocess.run(COMMAND, env=environment(home), capture_output=True, text=True, timeout=900)
        assert second.returncode == 0, second.stdout + second.stderr

        [days] = query(home, "SELECT count(*) AS n, count(DISTINCT version) AS versions FROM rl.trained_days")
        assert (days["n"], days["versions"]) == (2, 2)
        [rows] = query(home, 'SELECT count(*) AS n, count(DISTINCT "trajectoryId") AS ids FROM trajectories')
        assert rows["n"] == rows["ids"] == 2 * 24 * 2 * 6
        statuses = query(home, "SELECT DISTINCT group_status FROM rl.window_state")
        assert {row["group_status"] for row in statuses} == {"scored"}
        assert len(query(home, "SELECT 1 FROM rl.window_state")) == 48
        models = query(home, "SELECT version FROM rl.models ORDER BY version")
        assert [model["version"] for model in models] == ["v0.0.0", "v0.0.1", "v0.0.2"]
    finally:
        destroy_server(home)
