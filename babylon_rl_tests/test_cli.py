"""`babylon …` as a person meets it: one line per error, its remedy, and a status."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from babylon_rl.database.embedded import destroy_server
from babylon_rl.settings import Settings


@pytest.fixture
def environment(settings: Settings) -> dict[str, str]:
    """The test's database and an empty home, and nothing else of the caller's."""
    names = ("BABYLON_HOME", "DATABASE_URL")
    return {name: os.environ[name] for name in names} | {"PATH": os.environ["PATH"], "WANDB_MODE": "none"}


def babylon(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "babylon_rl.cli", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


def error_of(done: subprocess.CompletedProcess[str]) -> str:
    """The one line of an error, after checking that there is nothing else."""
    assert done.returncode == 1, done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: ")
    return lines[0]


@contextmanager
def occupied_port() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def test_help_names_every_command(environment: dict[str, str]):
    shown = babylon(environment, "--help").stdout
    for name in ("migrate", "doctor", "simulate", "windows", "outcomes", "train", "models", "deploy"):
        assert name in shown
    for name in ("rollback", "serve", "status", "demo", "dev", "db"):
        assert name in shown


def test_an_unknown_window_id(environment: dict[str, str]):
    line = error_of(babylon(environment, "windows", "check", "2026-10-01 14:00"))
    assert "'2026-10-01 14:00' is not a window id" in line
    assert "2026-10-01T14:00" in line, "the remedy shows one"


def test_an_unreachable_database(environment: dict[str, str]):
    secret = "hunter2"
    url = f"postgresql://nobody:{secret}@127.0.0.1:1/nowhere"
    line = error_of(babylon(environment | {"DATABASE_URL": url}, "windows", "list"))
    assert "127.0.0.1" in line and "babylon doctor" in line
    assert secret not in line


def test_a_missing_migration(environment: dict[str, str], empty_dsn: str):
    line = error_of(babylon(environment | {"DATABASE_URL": empty_dsn}, "windows", "list"))
    assert "Run `babylon migrate`" in line


def test_migrate_brings_what_was_missing_once(environment: dict[str, str], empty_dsn: str):
    here = environment | {"DATABASE_URL": empty_dsn}
    planned = babylon(here, "migrate", "--embedded", "--dry-run")
    assert "would apply 001_add_rl_training_tables" in planned.stdout
    applied = babylon(here, "migrate", "--embedded")
    assert applied.returncode == 0, applied.stderr
    assert "applied 005_add_roles" in applied.stdout
    assert babylon(here, "migrate", "--embedded").stdout.strip() == "schema rl is up to date"


@pytest.mark.parametrize("command", [("serve", "--port"), ("dev", "--port")])
def test_an_occupied_port(environment: dict[str, str], command: tuple[str, ...]):
    with occupied_port() as port:
        line = error_of(babylon(environment, *command, str(port)))
    assert f"Port {port} on 127.0.0.1 is in use" in line
    assert not Path(environment["BABYLON_HOME"], "dagster").exists(), "nothing was started"


def test_an_unknown_setting_is_named(environment: dict[str, str]):
    line = error_of(babylon(environment | {"SCORER": "luck"}, "status"))
    assert "SCORER='luck'" in line


def test_an_unknown_version(environment: dict[str, str]):
    assert "v9.9.9" in error_of(babylon(environment, "deploy", "v9.9.9"))
    assert "no model is registered" in error_of(babylon(environment, "models"))
    assert "no model was ever deployed" in error_of(babylon(environment, "rollback"))


def test_nothing_recorded_yet(environment: dict[str, str]):
    assert "no recorded rows yet" in error_of(babylon(environment, "windows", "list"))
    done = babylon(environment, "windows", "check", "2026-10-01T14:00")
    assert done.returncode == 1
    assert "0 rows of 0 agents" in done.stdout


def test_doctor_says_what_is_wrong_and_how_to_repair_it(environment: dict[str, str], empty_dsn: str):
    sick = babylon(environment | {"DATABASE_URL": empty_dsn, "DAGSTER_PG": empty_dsn}, "doctor")
    assert sick.returncode == 1
    assert "bad  schema rl" in sick.stdout and "babylon migrate" in sick.stdout
    healthy = babylon(environment | {"DAGSTER_PG": empty_dsn}, "doctor")
    assert healthy.returncode == 0, healthy.stdout
    assert "ok   schema" in healthy.stdout


def test_a_traceback_only_on_request(environment: dict[str, str]):
    assert "Traceback" not in babylon(environment, "windows", "check", "soon").stderr
    assert "Traceback" in babylon(environment, "--debug", "windows", "check", "soon").stderr


def test_the_embedded_database_can_be_started_named_and_stopped(tmp_path: Path):
    home = tmp_path / "home"
    here = {"BABYLON_HOME": str(home), "PATH": os.environ["PATH"]}
    try:
        assert "PostgreSQL started" in babylon(here, "db", "start").stdout
        assert "PostgreSQL runs" in babylon(here, "db", "start").stdout
        assert babylon(here, "db", "dsn", "--database", "dagster").stdout.startswith("postgresql://")
        assert babylon(here, "db", "dsn", "--database", "postgres").returncode == 2
        assert babylon(here, "db", "stop").stdout.strip() == "PostgreSQL stopped"
        assert "nothing stopped" in babylon(here, "db", "stop").stdout
    finally:
        destroy_server(home)
