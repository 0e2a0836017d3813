"""The three flows of the seeds' training guide, and a loop that is stopped, from the command line.

Every step is `babylon …` in a process of its own; the agents played an hour-by-hour day in PostgreSQL before.
W&B Training, W&B and the judge are local servers that speak their protocols.
"""

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from openai import OpenAI

from babylon_rl.database.connection import connect
from babylon_rl.policy.engine import EmbeddedEngine
from babylon_rl.settings import Settings
from babylon_rl.simulation.world import ensure_world, simulate_day
from babylon_rl_tests.end_to_end.test_dev import wait_for
from babylon_rl_tests.judge_server import KEY, judge_server
from babylon_rl_tests.training_server import TrainingServer
from babylon_rl_tests.wandb_server import WandbServer

pytestmark = pytest.mark.long

DAY = date(2026, 10, 2)
WINDOW = f"{DAY}T14:00"
LIMIT = 240
"""Seconds after which a command counts as stuck."""


@pytest.fixture
def environment(
    settings: Settings, home_with_base: Path, empty_dsn: str, dsn: str, base_engine: EmbeddedEngine
):
    """What the commands see; in the database five agents have played a day with the base model."""

    async def play() -> None:
        connection = await connect(dsn)
        world = await ensure_world(connection, connection, seed=3, agents=5, start_day=DAY)
        await simulate_day(connection, connection, base_engine, world, DAY)
        await connection.close()

    asyncio.run(play())
    names = ("BABYLON_HOME", "DATABASE_URL", "PATH")
    return {name: os.environ[name] for name in names} | {"DAGSTER_PG": empty_dsn, "OMP_NUM_THREADS": "1"}


def babylon(environment: dict[str, str], *arguments: str) -> str:
    """The command's words, one space between them: how lines are wrapped is not what is tested."""
    command = [sys.executable, "-m", "babylon_rl.cli", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == 0, done.stdout + done.stderr
    return " ".join(done.stdout.split())


def query(dsn: str, sql: str, *arguments: Any) -> list[asyncpg.Record]:
    async def read() -> list[asyncpg.Record]:
        connection = await connect(dsn)
        try:
            return await connection.fetch(sql, *arguments)
        finally:
            await connection.close()

    return asyncio.run(read())


def test_flow_1_local_development(environment: dict[str, str], dsn: str) -> None:
    """Only a database: list, train one, and the model answers on this machine, for nothing."""
    local = environment | {"TRAIN_RL_LOCAL": "true"}
    listed = babylon(local | {"MODE": "list"}, "train")
    assert str(DAY) in listed and "0 scored windows are untrained" in listed
    said = babylon(local | {"MODE": "single"}, "train")
    assert "backend: embedded (auto: no WANDB_API_KEY, and the GPU backend is not installed" in said
    assert re.search(r"run \S+ succeeded", said)
    [model] = query(dsn, "SELECT * FROM rl.models WHERE version <> 'v0.0.0'")
    assert model["version"] == "v0.0.1" and model["branch"] is None and model["day"] == DAY
    assert model["metrics"]["costs/actual_usd"] == 0
    shown = babylon(local, "costs")
    assert "self-managed: $7,000; saved 75 to 88 %" in shown and "v0.0.1: estimated $0.00" in shown
    assert "the same bytes in every file" in babylon(local, "reproduce", "v0.0.1")

    babylon(local, "deploy", "v0.0.1", "--force")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "babylon_rl.cli", "serve"]
    gateway = subprocess.Popen(command, env=local | {"PORT": str(port)}, stderr=subprocess.DEVNULL)
    try:
        wait_for(f"http://127.0.0.1:{port}/readyz")
        client = OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none")
        answer = client.chat.completions.with_raw_response.create(
            model="babylon-agent", messages=[{"role": "user", "content": "BTC?"}], max_tokens=4
        )
        assert answer.headers["x-model-version"] == "v0.0.1" and answer.parse().choices[0].message.content
    finally:
        gateway.send_signal(signal.SIGINT)
        gateway.wait(60)


def test_flow_2_cloud_production(environment: dict[str, str], dsn: str) -> None:
    """A key is all that changes: W&B trains, tracks and serves; nothing runs on a GPU of ours."""
    key = "k" * 40  # as long as W&B's client wants one
    with TrainingServer(api_key=key) as remote, WandbServer() as wandb:
        cloud = environment | {
            "WANDB_API_KEY": remote.api_key,
            "WANDB_ENTITY": "team",
            "WANDB_BASE_URL": wandb.base_url,
            "TRAINING_API_URL": remote.base_url,
            "TRAINING_POLL_SECONDS": "0.05",
            "MODE": "single",
        }
        said = babylon(cloud, "train", "--window", WINDOW)
        assert "backend: serverless (auto: WANDB_API_KEY is set)" in said
        assert "Iteration 1 complete! Checkpoint: step 1 (v0.0.1)" in said
        assert "Found 5 simultaneous agents" in said and re.search(
            r"pnl rewards: min=\S+, max=\S+, avg=", said
        )
        [model] = query(dsn, "SELECT * FROM rl.models WHERE version = 'v0.0.1'")
        assert model["base_model"] == "OpenPipe/Qwen3-14B-Instruct" and model["branch"] == f"window-{WINDOW}"
        assert model["storage_path"].startswith("wandb-artifact:///") and model["storage_path"].endswith(
            ":step1"
        )
        assert model["metrics"]["completions"][0]["answer"], "the service served what it had trained"
        assert model["metrics"]["costs/estimated_low_usd"] == 1.0
        assert len(remote.jobs) == 1 and not list(Path(environment["BABYLON_HOME"]).glob("checkpoints/*"))
        assert [run for run in wandb.runs if run.startswith("train-window-2026-10-02T14-00")]
        assert model["metrics"]["wandb"]["degraded"] is None and wandb.unknown == []
        again = babylon(cloud, "train", "--window", WINDOW)
        assert "was complete before" in again and len(remote.jobs) == 1


def test_flow_3_the_original_trainer(environment: dict[str, str], dsn: str) -> None:
    """RULER: a judge that sees the ground truth scores what the last hours recorded, and that is trained."""
    with judge_server() as judge:
        ruler = environment | {
            "WANDB_MODE": "none",
            "SCORER": "ruler",
            "JUDGE_BASE_URL": judge.url,
            "JUDGE_MODEL": "openai/test-judge",
            "JUDGE_API_KEY": KEY,
            "JUDGE_CANARY_RATE": "0",
            "JUDGE_INPUT_PRICE": "0.15",
            "JUDGE_OUTPUT_PRICE": "0.6",
        }
        flags = ("--min-agents", "5", "--lookback-hours", "3", "--iterations", "1")
        said = babylon(ruler, "train", "--mode", "continuous", *flags, "--learning-rate", "1e-3")
    assert "ITERATION 1/1 ====" in said and "Found 3 windows with 5+ agents" in said
    assert f"Processing {DAY}T21:00 Found 5 simultaneous agents RULER scores: min=" in said
    assert re.search(r"Best: \S+ \(score: [\d.]+, P&L: \$", said)
    assert "Iteration 1 complete! Checkpoint: step 1 (v0.0.1)" in said
    assert "TRAINING COMPLETE ====" in said and "Final step: 1 Inference endpoint:" in said
    assert said.endswith("Model: babylon-agent-v0.0.1")
    scorers = query(dsn, "SELECT DISTINCT scorer FROM rl.window_state WHERE group_status = 'scored'")
    assert [row["scorer"] for row in scorers] == ["ruler"]
    assert judge.seen and all("GROUND TRUTH" in seen.text.upper() for seen in judge.seen)
    [unit] = query(dsn, "SELECT * FROM rl.training_units")
    assert unit["status"] == "done" and unit["config"]["learning_rate"] == 1e-3


def test_a_loop_survives_a_failed_iteration_and_ends_on_sigterm(
    environment: dict[str, str], dsn: str
) -> None:
    quiet = environment | {"WANDB_MODE": "none"}
    one = ("train", "--mode", "continuous", "--lookback-hours", "4", "--windows-per-iteration", "1")
    babylon(quiet, *one, "--iterations", "1")
    [damaged] = query(dsn, "SELECT group_uri FROM rl.window_state WHERE window_id = $1", f"{DAY}T21:00")
    file = Path(environment["BABYLON_HOME"], "artifacts", damaged["group_uri"])
    file.chmod(0o600)
    file.write_bytes(file.read_bytes()[:-1])

    command = [sys.executable, "-m", "babylon_rl.cli", *one, "--poll", "600"]
    process = subprocess.Popen(
        command,
        env=quiet,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    watchdog = threading.Timer(LIMIT, process.kill)
    watchdog.start()
    said = []
    try:
        for line in _lines(process):
            said.append(line)
            if "Iteration 1 complete!" in line:
                process.send_signal(signal.SIGTERM)
        status = process.wait(LIMIT)
    finally:
        watchdog.cancel()
        process.kill()
    words = " ".join(" ".join(said).split())
    assert status == 0, words
    assert f"{DAY}T21:00 is left out" in words, "the damaged one is named"
    assert f"Processing {DAY}T22:00" in words and "TRAINING STOPPED" in words
    trained = query(dsn, "SELECT window_id, version FROM rl.trained_windows ORDER BY window_id")
    assert [row["window_id"] for row in trained][:2] == [f"{DAY}T20:00", f"{DAY}T22:00"]
    units = query(dsn, "SELECT status FROM rl.training_units")
    assert {row["status"] for row in units} <= {"done", "failed"}, "nothing is left running"

    if len(trained) == 2:  # it stopped before the last window
        babylon(quiet, *one, "--iterations", "1")
        trained = query(dsn, "SELECT window_id FROM rl.trained_windows ORDER BY window_id")
    assert [row["window_id"][-5:-3] for row in trained] == ["20", "22", "23"], "the next call goes on"


def _lines(process: subprocess.Popen[str]) -> Iterator[str]:
    assert process.stdout is not None
    yield from process.stdout


def test_a_day_of_answers_to_recorded_prompts_is_trained(environment: dict[str, str], dsn: str) -> None:
    """GROUPING=resample through the real assets: asked once, frozen, trained on-policy, windows counted."""
    settings = {
        "WANDB_MODE": "none",
        "GROUPING": "resample",
        "RESAMPLE_PROMPTS": "48",
        "RESAMPLE_ANSWERS": "4",
    }
    resampling = environment | settings | {"TRAINING_MIN_TRAJECTORIES": "20", "TRAINING_MIN_GROUPS": "5"}
    babylon(resampling, "train")
    [batch] = query(dsn, "SELECT status, reason, groups, calls, config FROM rl.training_batches")
    assert batch["status"] == "ready", batch["reason"]
    assert batch["groups"] <= 48 and 20 <= batch["calls"] <= 48 * 4
    [model] = query(dsn, "SELECT version, metrics FROM rl.models WHERE version <> 'v0.0.0'")
    windows = query(dsn, "SELECT window_id FROM rl.trained_windows WHERE version = $1", model["version"])
    assert windows and all(re.fullmatch(rf"{DAY}T\d\d:00", row["window_id"]) for row in windows)
