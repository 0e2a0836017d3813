"""The data tools as a person meets them: spawn, check, archive, restore, export, forget."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from babylon_rl.database.connection import connect
from babylon_rl_tests.kept_windows import AGENTS, WINDOW, keep_window
from babylon_rl_tests.test_cli import babylon, environment, error_of

__all__ = ["environment"]


def in_database(dsn: str, work: Callable[[asyncpg.Connection], Any]) -> Any:
    async def run() -> Any:
        connection = await connect(dsn)
        try:
            return await work(connection)
        finally:
            await connection.close()

    return asyncio.run(run())


@pytest.fixture
def kept(environment: dict[str, str], dsn: str) -> dict[str, str]:
    home = Path(environment["BABYLON_HOME"])
    in_database(dsn, lambda connection: keep_window(connection, home / "artifacts"))
    return environment


def test_the_seeds_way_from_spawning_to_ready(environment: dict[str, str]) -> None:
    spawn = ("spawn", "--agents", "5", "--duration", "5", "--windows", "3")
    made = babylon(environment, *spawn, "--seed", "7", "--until", "2026-10-02T14:20")
    assert made.returncode == 0, made.stderr
    assert made.stdout.splitlines()[-1] == "15 trajectories of 5 agents in 3 windows (seed 7)"

    left_out = babylon(environment, "windows", "check")
    assert left_out.returncode == 1
    assert "Windows with 5+ agents: 0" in left_out.stdout and "--test-users counts them" in left_out.stdout
    assert "READY FOR TRAINING!" not in left_out.stdout

    counted = babylon(environment, "windows", "check", "--test-users")
    assert counted.returncode == 0, counted.stdout
    lines = counted.stdout.splitlines()
    assert lines[0] == "3 windows recorded, from 2026-10-02T12:00 to 2026-10-02T14:00"
    assert lines[1:5] == [f"Windows with {n}+ agents: {k}" for n, k in ((2, 3), (3, 3), (5, 3), (8, 0))]
    assert lines[5].startswith("sample 2026-10-02T14:00: 5 rows of 5 agents, on average 1")
    assert lines[-1] == "✅ READY FOR TRAINING!"
    assert babylon(environment | {"INCLUDE_TEST_AGENTS": "true"}, "windows", "check").returncode == 0


def test_windows_are_listed_newest_first_with_distinct_agents(environment: dict[str, str], dsn: str) -> None:
    home = Path(environment["BABYLON_HOME"])
    for hour, agents in ((3, AGENTS), (4, AGENTS[:2]), (6, AGENTS[:1])):
        window_id = f"2026-10-02T{hour:02d}:00"
        in_database(dsn, lambda c, w=window_id, a=agents: keep_window(c, home / "artifacts", w, a))
    done = babylon(environment, "windows", "list")
    assert done.returncode == 0, done.stderr
    found = [line.split()[:4] for line in done.stdout.splitlines()[1:]]
    assert found == [
        ["2026-10-02T06:00", "1", "1", "1"],
        ["2026-10-02T04:00", "2", "2", "1"],
        ["2026-10-02T03:00", "4", "4", "1"],
    ]
    few = babylon(environment, "windows", "list", "--min-agents", "2").stdout
    assert "T06:00" not in few and "T04:00" in few
    everything = babylon(environment, "windows", "check")
    assert everything.returncode == 1 and "3 in quarantine (30.0%)" in everything.stdout
    assert "  invalid_json: 3, for example " in everything.stdout
    assert "❌ NOT READY: 1 of 3 windows have 3+ agents" in everything.stdout
    assert "good enough, 95% are needed" in everything.stdout
    one = babylon(environment, "windows", "check", "2026-10-02T03:00")
    assert one.returncode == 0 and "quarantine: 1 rows" in one.stdout and "invalid_json" in one.stdout


def test_archive_and_restore(kept: dict[str, str], dsn: str, tmp_path: Path) -> None:
    assert "nothing to archive" in error_of(babylon(kept, "archive"))
    assert "STORAGE_ROOTS" in error_of(babylon(kept, "archive", WINDOW, "--place", str(tmp_path / "backup")))
    here = kept | {"STORAGE_ROOTS": str(tmp_path / "backup")}
    done = babylon(here, "archive", "--day", "2026-10-02", "--place", str(tmp_path / "backup"), "--prune")
    assert done.returncode == 0, done.stderr
    assert "1 windows archived (1 anew" in done.stdout and "1 windows kept" in done.stdout
    in_database(dsn, lambda c: c.execute('DELETE FROM "trajectories"; DELETE FROM rl.scores'))
    done = babylon(here, "restore", WINDOW, "--place", str(tmp_path / "backup"), "--game-rows")
    assert done.returncode == 0, done.stderr
    assert "4 rows of rl, 5 trajectories and 0 call logs of the game came back" in done.stdout
    assert in_database(dsn, lambda c: c.fetchval("SELECT count(*) FROM rl.scores")) == 4


def test_export(kept: dict[str, str]) -> None:
    done = babylon(kept, "export", "--form", "openai", "--split", "1,0,0", "--since", "2026-10-01")
    assert done.returncode == 0, done.stderr
    assert "train: 1 windows, 8 LLM calls" in done.stdout
    (file,) = (Path(kept["BABYLON_HOME"]) / "exports").glob("openai-*/train.jsonl")
    assert len([json.loads(line) for line in file.read_text().splitlines()]) == 8
    assert "three numbers" in error_of(babylon(kept, "export", "--split", "half"))
    assert "no scored window" in error_of(babylon(kept, "export", "--until", "2026-09-01"))


def test_forget(kept: dict[str, str], dsn: str) -> None:
    assert "--yes" in error_of(babylon(kept, "forget", "agent-b"))
    done = babylon(kept, "forget", "agent-b", "--game-rows", "--yes")
    assert done.returncode == 0, done.stderr
    assert "1 trajectories of the game; rewritten: 2 stored files" in done.stdout
    assert "trained on it, no longer reproducible: none" in done.stdout
    query = """SELECT count(*) FROM "trajectories" WHERE "agentId" = 'agent-b'"""
    assert in_database(dsn, lambda c: c.fetchval(query)) == 0


def test_a_dry_run_of_the_migrations_changes_nothing(environment: dict[str, str], empty_dsn: str) -> None:
    here = environment | {"DATABASE_URL": empty_dsn}
    for _ in range(2):
        planned = babylon(here, "migrate", "--embedded", "--dry-run")
        assert planned.returncode == 0 and "would apply 011_add_seed_views" in planned.stdout
    schemas = "SELECT count(*) FROM pg_namespace WHERE nspname = 'rl'"
    assert in_database(empty_dsn, lambda c: c.fetchval(schemas)) == 0
