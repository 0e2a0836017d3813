"""The log file: lines that the seeds' grep finds, from several processes, without secrets."""

import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from babylon_rl import logs
from babylon_rl.deployment import registry
from babylon_rl.deployment.deploy import deploy
from babylon_rl.logs import AppLog, log_folder, start_logging
from babylon_rl.rl_model_config import log_rl_configuration
from babylon_rl.settings import Settings, get_settings


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("BABYLON_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("LOGS_DIR", str(tmp_path / "logs"))
    get_settings.cache_clear()
    ours = logging.getLogger("babylon_rl")
    for handler in [handler for handler in ours.handlers if isinstance(handler, AppLog)]:
        ours.removeHandler(handler)  # of a command that an earlier test ran in this process
        handler.close()
    before, level = list(ours.handlers), ours.level
    yield tmp_path / "logs"
    for handler in [handler for handler in ours.handlers if handler not in before]:
        ours.removeHandler(handler)
        handler.close()
    ours.setLevel(level)
    get_settings.cache_clear()


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "app.log").read_text().splitlines()]


def grep(folder: Path) -> str:
    """The command of seed 000, in the folder that holds `logs`."""
    command = ["grep", "-i", "RL model", "logs/app.log"]
    return subprocess.run(command, cwd=folder.parent, capture_output=True, text=True).stdout


def test_the_seeds_grep_finds_the_configuration(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NODE_ENV", "production")
    settings = Settings(_env_file=None)
    start_logging(settings)
    start_logging(settings)  # no second line each
    log_rl_configuration(settings)
    found = grep(folder).splitlines()
    assert len(found) == 1 and "RL Model Configuration: { enabled: false, available: true" in found[0]
    (line,) = lines(folder)
    assert line["data"]["production"] is True and line["level"] == "INFO" and line["time"].endswith("+00:00")
    assert (folder / "app.log").stat().st_mode & 0o077 == 0


@pytest.mark.anyio
async def test_a_deployment_is_logged(folder: Path, connection: asyncpg.Connection) -> None:
    start_logging(Settings(_env_file=None))
    await registry.ensure_base(connection, base_model="tiny")
    await deploy(connection, None, "v0.0.0", reason="first")
    assert "RL model v0.0.0 serves now (first)" in grep(folder)


def test_by_default_the_file_is_in_babylon_home(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOGS_DIR")
    settings = Settings(_env_file=None)
    assert log_folder(settings) == settings.home / "logs"
    monkeypatch.setenv("LOGS_DIR", "logs")
    monkeypatch.setenv("LOG_LEVEL", "info")
    assert log_folder(Settings(_env_file=None)) == Path(__file__).parents[1] / "logs"


def test_secrets_are_not_in_the_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", 'k3y"with\\quotes-0123456789')
    monkeypatch.setenv("DATABASE_URL", "postgresql://babylon:hunter2hunter2@db.example/babylon")
    settings = Settings(_env_file=None)
    start_logging(settings)
    log = logging.getLogger("babylon_rl.test")
    assert settings.wandb_api_key is not None
    key = settings.wandb_api_key.get_secret_value()
    log.error("no access with %s", key, extra={"data": {"key": key}})
    log.error("cannot reach postgresql://someone:pass-word-1@host/x or s3://a:b-c-d-e@bucket")
    log.error("Authorization: Bearer abcdef0123456789; api_key=zyxwvu9876543210")
    try:
        raise RuntimeError("dsn postgresql://babylon:hunter2hunter2@db.example/babylon")
    except RuntimeError:
        log.exception("failed")
    text = (folder / "app.log").read_text()
    for secret in ("k3y", "quotes-0123456789", "hunter2", "pass-word-1", "b-c-d-e", "abcdef012", "zyxwvu98"):
        assert secret not in text
    assert "db.example" not in text and "someone:***@host" in text
    assert [line["level"] for line in lines(folder)] == ["ERROR"] * 4
    assert "Traceback" in lines(folder)[3]["exception"]


def test_lines_of_several_processes_do_not_mix(folder: Path) -> None:
    program = (
        "import logging; from babylon_rl.logs import start_logging;"
        "from babylon_rl.settings import get_settings; start_logging(get_settings());"
        "[logging.getLogger('babylon_rl.many').info('x' * 20_000) for _ in range(50)]"
    )
    running = [subprocess.Popen([sys.executable, "-c", program]) for _ in range(3)]
    assert [process.wait(60) for process in running] == [0, 0, 0]
    found = lines(folder)
    assert len(found) == 150 and {len(line["message"]) for line in found} == {20_000}
    assert len({line["process"] for line in found}) == 3


def test_a_large_file_is_set_aside_and_old_ones_go(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "LARGEST", 100)
    settings = Settings(_env_file=None)
    for number in range(8):
        handler = AppLog(settings)
        handler.handle(logging.makeLogRecord({"msg": f"{number} " + "x" * 200, "levelno": logging.INFO}))
        handler.close()
    names = sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")
    assert names == ["app.log", *(f"app.log.{number}" for number in range(1, 6))]
    assert json.loads((folder / "app.log").read_text())["message"].startswith("7 ")


def test_a_folder_that_cannot_be_made_does_not_stop_the_process(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.write_text("a file is in the way")
    start_logging(Settings(_env_file=None))
    logging.getLogger("babylon_rl.test").error("still running")


def test_what_dagster_runs_say_is_in_the_file(folder: Path) -> None:
    import dagster as dg
    import yaml

    config = yaml.safe_load((Path(__file__).parents[1] / "dagster.yaml").read_text())["python_logs"]

    @dg.asset
    def talkative(context: dg.AssetExecutionContext) -> None:
        context.log.info("RL model of the context")
        logging.getLogger("babylon_rl.deployment").info("RL model of a room")

    with dg.instance_for_test(overrides={"python_logs": config}) as instance:
        run = dg.materialize([talkative], instance=instance)
        assert [
            line["message"].split(" - ")[-1] for line in lines(folder) if "RL model" in line["message"]
        ] == [
            "RL model of the context",
            "RL model of a room",
        ]
        assert {line["run"] for line in lines(folder)} == {run.run_id}
        start_logging(get_settings())
        dg.materialize([talkative], instance=instance)
        assert sum("RL model of a room" in line["message"] for line in lines(folder)) == 2
