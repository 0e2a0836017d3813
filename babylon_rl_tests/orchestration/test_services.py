"""`babylon service`: units that systemd accepts and that hold no secret; services that find each other."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from babylon_rl.orchestration.services import (
    SERVICES,
    TARGET,
    UnitFolderError,
    UnknownServiceError,
    command,
    install,
    units,
)
from babylon_rl.settings import Settings, get_settings
from babylon_rl_tests.skipping import require_tool

SECRETS = {"ADMIN_TOKEN": "a-token-of-16-and-more", "OPENAI_API_KEY": "sk-0123456789"}


@pytest.fixture
def secretive(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    get_settings.cache_clear()
    return get_settings()


def test_installing_twice_changes_nothing_and_no_unit_holds_a_secret(secretive: Settings, tmp_path: Path):
    environment = tmp_path / "etc" / "environment"
    files = units(secretive, system=True, environment_file=environment)
    assert {file.name for file in files} == {TARGET, *(f"babylon-{name}.service" for name in SERVICES)}
    first = install(tmp_path / "units", files, environment)
    assert {written.state for written in first} == {"created"}
    assert environment.stat().st_mode & 0o777 == 0o600
    environment.write_text("ADMIN_TOKEN=mine\n")
    assert {written.state for written in install(tmp_path / "units", files, environment)} == {"unchanged"}
    assert environment.read_text() == "ADMIN_TOKEN=mine\n"
    (tmp_path / "units" / TARGET).write_text("by hand")
    states = [w.path.name for w in install(tmp_path / "units", files, environment) if w.state == "updated"]
    assert states == [TARGET]
    together = "".join(file.text for file in files)
    assert secretive.database_url
    for secret in (*SECRETS.values(), secretive.database_url.get_secret_value()):
        assert secret not in together


def test_systemd_accepts_the_units(secretive: Settings, tmp_path: Path):
    require_tool("systemd-analyze")
    files = units(secretive, system=True, environment_file=tmp_path / "environment")
    install(tmp_path / "units", files, tmp_path / "environment")
    paths = [str(tmp_path / "units" / file.name) for file in files]
    verified = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *paths],
        capture_output=True,
        text=True,
        env={**os.environ, "SYSTEMD_UNIT_PATH": f"{tmp_path / 'units'}:"},
    )
    ours = [line for line in verified.stderr.splitlines() if "babylon" in line]
    assert not ours, verified.stderr


def test_a_dry_run_prints_and_writes_nothing(secretive: Settings, tmp_path: Path):
    line = [sys.executable, "-m", "babylon_rl.cli", "service", "install", "--dry-run"]
    line += ["--folder", str(tmp_path)]
    printed = subprocess.run(line, capture_output=True, text=True, check=True).stdout
    assert all(f"service run {name}" in printed for name in SERVICES)
    assert not list(tmp_path.glob("babylon*"))


def test_a_folder_that_cannot_be_written_is_said(settings: Settings, tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UnitFolderError, match="cannot be written"):
        install(tmp_path / "file" / "units", [], tmp_path / "environment")


def test_an_unknown_service_is_refused(settings: Settings):
    with pytest.raises(UnknownServiceError, match="There are code, webserver, daemon, gateway, admin"):
        command("database", settings)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.long
def test_the_webserver_finds_the_code_server(settings: Settings, empty_dsn: str, tmp_path: Path):
    ports = {"code": _free_port(), "webserver": _free_port()}
    environment = {**os.environ, "DAGSTER_PG": empty_dsn, "WANDB_MODE": "none"}
    processes = []
    with contextlib.ExitStack() as stack:
        log = stack.enter_context((tmp_path / "log").open("wb"))
        for name, port in ports.items():
            line = [sys.executable, "-m", "babylon_rl.cli", "service", "run", name, "--port", str(port)]
            line += ["--code-port", str(ports["code"])]
            processes.append(
                subprocess.Popen(line, env=environment, stdout=log, stderr=log, start_new_session=True)
            )
        try:
            assert _loaded_location(ports["webserver"]) == "babylon_rl"
        finally:
            for process in processes:
                process.send_signal(signal.SIGINT)
            for process in processes:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=20)
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()


def _loaded_location(port: int) -> str:
    query = (
        "{ workspaceOrError { ... on Workspace { locationEntries { name locationOrLoadError "
        "{ __typename } } } } }"
    )
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx.HTTPError, ValueError, KeyError, TypeError):
            answer = httpx.post(f"http://127.0.0.1:{port}/graphql", json={"query": query}, timeout=10).json()
            [entry] = answer["data"]["workspaceOrError"]["locationEntries"]
            if entry["locationOrLoadError"]["__typename"] == "RepositoryLocation":
                return entry["name"]
            mutation = "mutation { reloadWorkspace { __typename } }"
            httpx.post(f"http://127.0.0.1:{port}/graphql", json={"query": mutation}, timeout=30)
        time.sleep(1)
    return ""
