"""The GPU backend's driver against a double of its process, and what of the real one runs without a GPU."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from babylon_rl.database.connection import connect
from babylon_rl.policy.checkpoints import verify_checkpoint
from babylon_rl.policy.engine import EmbeddedEngine
from babylon_rl.policy.errors import CheckpointError
from babylon_rl.training import units
from babylon_rl.training.chunk_ledger import ChunkLedger, read_chunks
from babylon_rl.training.chunks import cut
from babylon_rl.training.conversion import TrainableEpisode, to_art_groups
from babylon_rl.training.local_gpu import worker
from babylon_rl.training.local_gpu.driver import Limits
from babylon_rl.training.local_gpu.errors import (
    GpuEnvironmentError,
    GpuOutOfMemoryError,
    GpuTrainerCrashError,
    GpuTrainerHungError,
)
from babylon_rl.training.local_gpu.setup import LOCK, locked
from babylon_rl.training.local_gpu.trainer import LocalTrainer
from babylon_rl.training.options import CutRules, LocalTrainConfig
from babylon_rl.training.trainer import NoAnswerError, TrainedChunk
from babylon_rl.training.units import TrainingUnit
from babylon_rl_tests import gpu_double
from babylon_rl_tests.played import play_day, trainable
from babylon_rl_tests.shared_database import dsn, file_dsn
from babylon_rl_tests.skipping import skip

pytestmark = pytest.mark.anyio

__all__ = ["dsn", "file_dsn"]

UNIT = TrainingUnit("b" * 64, "v0.0.0", {"backend": "local"}, "local")
NAMES = {"name": "babylon-agent", "project": "tests", "base_model": "Qwen/Qwen2.5-0.5B-Instruct"}
QUICK = Limits(silence=20, deadline=60)


@pytest.fixture(scope="module")
def episodes(base_engine: EmbeddedEngine) -> list[TrainableEpisode]:
    return trainable(play_day(base_engine, windows=2, agents=4, seed=2))


@pytest.fixture
async def rl(anyio_backend: str, dsn: str) -> AsyncIterator[asyncpg.Connection]:
    opened = await connect(dsn, role="babylon_trainer")
    yield opened
    await opened.close()


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """A Python that runs the double instead of the worker."""
    program = tmp_path / "python"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} {gpu_double.__file__} "$@"\n')
    program.chmod(0o755)
    return program


class Run:
    """One unit on the double."""

    def __init__(self, rl: asyncpg.Connection, python: Path, home: Path, limits: Limits = QUICK) -> None:
        self.rl, self.python, self.home, self.limits = rl, python, home, limits
        self.steps: list[tuple[int, int]] = []
        self.trainer = LocalTrainer(
            python,
            LocalTrainConfig(lora_rank=4),
            NAMES,
            None,
            0,
            home / "checkpoints" / "unit",
            {"parent": "v0.0.0"},
            home / "work",
            limits,
        )

    async def train(
        self, episodes: list[TrainableEpisode], rules: CutRules | None = None
    ) -> list[TrainedChunk]:
        chunks = cut(episodes, rules or CutRules())
        lease = await units.claim(self.rl, UNIT, owner="test", ttl=timedelta(0))
        ledger = await ChunkLedger.open(self.rl, lease, chunks)
        return [await self.trainer.train(chunk, ledger, self.note, lambda: None) for chunk in chunks]

    def note(self, done: int, total: int, _: dict[str, float]) -> None:
        self.steps.append((done, total))


async def test_an_adapter_is_trained_in_another_process_and_becomes_a_checkpoint(
    rl: asyncpg.Connection, python: Path, tmp_path: Path, episodes: list[TrainableEpisode]
) -> None:
    run = Run(rl, python, tmp_path)
    [trained] = await run.train(episodes)
    assert run.steps == [(1, 2), (2, 2)] and trained.step == 1
    manifest = verify_checkpoint(tmp_path / "checkpoints" / "unit")
    assert manifest["parent"] == "v0.0.0" and manifest["device"] == gpu_double.FAKE_GPU
    assert trained.metrics == {"loss/train": 0.375} and len(trained.samples) == 2
    assert await run.trainer.complete([]) == "HOLD"
    asked = json.loads((tmp_path / "work" / "request.json").read_text())
    assert asked["peft"] == {"r": 4, "lora_alpha": 16.0} and asked["parent"] is None
    assert asked["train"]["scale_rewards"] is False
    [row] = await read_chunks(rl, UNIT.key)
    assert (row.status, row.step_after) == ("done", 1)
    await run.trainer.close()
    assert not (tmp_path / "work" / "art").exists() and (tmp_path / "work" / "trainer.log").exists()


async def test_a_later_chunk_starts_from_the_one_before(
    rl: asyncpg.Connection, python: Path, tmp_path: Path, episodes: list[TrainableEpisode]
) -> None:
    from safetensors.numpy import load_file

    run = Run(rl, python, tmp_path)
    trained = await run.train(episodes, CutRules(windows=1))
    assert [chunk.step for chunk in trained] == [1, 2]
    [weights] = load_file(tmp_path / "checkpoints" / "unit-2of2" / "adapter_model.safetensors").values()
    assert weights.max() == 2.0, "one per chunk, one on top of the other"


async def test_a_finished_chunk_is_found_again(
    rl: asyncpg.Connection, python: Path, tmp_path: Path, episodes: list[TrainableEpisode], monkeypatch: Any
) -> None:
    await Run(rl, python, tmp_path).train(episodes)
    monkeypatch.setenv("SCENARIO", "crash at start")
    again = Run(rl, python, tmp_path)
    [trained] = await again.train(episodes)
    assert trained.step == 1 and not again.steps and trained.metrics == {"loss/train": 0.375}
    with pytest.raises(NoAnswerError, match="earlier run"):
        await again.trainer.complete([])


@pytest.mark.parametrize(
    ("scenario", "error", "text"),
    [
        ("out of memory", GpuOutOfMemoryError, r"CUDA out of memory.*smaller BASE_MODEL.*WANDB_API_KEY"),
        ("killed", GpuOutOfMemoryError, "a machine short of memory"),
        ("other error", GpuTrainerCrashError, "failed: ValueError: bad chat template"),
        ("segfault", GpuTrainerCrashError, "died of signal SIGSEGV"),
        ("crash at start", GpuTrainerCrashError, r"ended with status 1: ImportError: libcuda"),
        ("nothing", GpuTrainerCrashError, "ended without a checkpoint"),
        ("pickle", CheckpointError, "adapter_model.safetensors"),
    ],
)
async def test_what_goes_wrong_is_told_with_a_remedy(
    rl: asyncpg.Connection,
    python: Path,
    tmp_path: Path,
    episodes: list[TrainableEpisode],
    monkeypatch: pytest.MonkeyPatch,
    scenario: str,
    error: type[Exception],
    text: str,
) -> None:
    monkeypatch.setenv("SCENARIO", scenario)
    with pytest.raises(error, match=text) as told:
        await Run(rl, python, tmp_path).train(episodes)
    assert told.value.remedy  # type: ignore[attr-defined]
    assert not os.listdir(tmp_path / "checkpoints") if (tmp_path / "checkpoints").exists() else True
    assert (await read_chunks(rl, UNIT.key))[0].status == "training"
    monkeypatch.delenv("SCENARIO")
    [trained] = await Run(rl, python, tmp_path).train(episodes)
    assert trained.step == 1


@pytest.mark.parametrize(
    ("limits", "setting"),
    [
        (Limits(silence=0.4, deadline=60), "LOCAL_GPU_SILENCE_MINUTES"),
        (Limits(silence=60, deadline=0.4), "TRAINING_DEADLINE_MINUTES"),
    ],
)
async def test_a_process_that_hangs_is_stopped(
    rl: asyncpg.Connection,
    python: Path,
    tmp_path: Path,
    episodes: list[TrainableEpisode],
    monkeypatch: pytest.MonkeyPatch,
    limits: Limits,
    setting: str,
) -> None:
    monkeypatch.setenv("SCENARIO", "hang")
    started = time.monotonic()
    with pytest.raises(GpuTrainerHungError, match=f"raise {setting}"):
        await Run(rl, python, tmp_path, limits).train(episodes)
    assert time.monotonic() - started < 10
    listed = subprocess.run(["pgrep", "-f", str(tmp_path)], capture_output=True, text=True)  # noqa: ASYNC221
    assert listed.stdout.strip() == ""


async def test_a_lost_lease_stops_the_process(
    rl: asyncpg.Connection, python: Path, tmp_path: Path, episodes: list[TrainableEpisode]
) -> None:
    run = Run(rl, python, tmp_path)

    def lost(*_: Any) -> None:
        raise RuntimeError("lease lost")

    run.note = lost  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="lease lost"):
        await run.train(episodes)
    assert not (tmp_path / "checkpoints" / "unit").exists()


async def test_an_answer_that_fails_does_not_lose_the_checkpoint(
    rl: asyncpg.Connection, python: Path, tmp_path: Path, episodes: list[TrainableEpisode], monkeypatch: Any
) -> None:
    monkeypatch.setenv("SCENARIO", "no answer")
    run = Run(rl, python, tmp_path)
    await run.train(episodes)
    with pytest.raises(NoAnswerError, match="vLLM is gone"):
        await run.trainer.complete([])
    assert verify_checkpoint(tmp_path / "checkpoints" / "unit")


async def test_noise_on_the_pipe_is_passed_over(
    rl: asyncpg.Connection, python: Path, tmp_path: Path, episodes: list[TrainableEpisode], monkeypatch: Any
) -> None:
    monkeypatch.setenv("SCENARIO", "chatter")
    [trained] = await Run(rl, python, tmp_path).train(episodes)
    assert trained.step == 1


async def test_a_missing_environment_is_told(
    rl: asyncpg.Connection, tmp_path: Path, episodes: list[TrainableEpisode]
) -> None:
    with pytest.raises(GpuEnvironmentError, match=r"cannot be started.*babylon train setup-gpu"):
        await Run(rl, tmp_path / "nowhere", tmp_path).train(episodes)


@pytest.fixture
def jealous_python(python: Path) -> Path:
    """A double that refuses to run where it can see the key."""
    code = Path(gpu_double.__file__).read_text()
    start = "def main() -> None:"
    spy = python.with_name("spy.py")
    spy.write_text(code.replace(start, f"{start}\n    assert 'WANDB_API_KEY' not in os.environ"))
    python.write_text(f'#!/bin/sh\nexec {sys.executable} {spy} "$@"\n')
    return python


async def test_the_process_is_not_given_the_key(
    rl: asyncpg.Connection,
    jealous_python: Path,
    tmp_path: Path,
    episodes: list[TrainableEpisode],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    assert await Run(rl, jealous_python, tmp_path).train(episodes)


def test_the_worker_revives_what_it_is_sent(episodes: list[TrainableEpisode]) -> None:
    """ART's own validation would drop every trajectory without a word."""
    import art

    for group in to_art_groups(episodes):
        dump = json.loads(json.dumps(group.model_dump(mode="json")))
        revived = worker.revive(art, dump)
        assert len(revived.trajectories) == len(group.trajectories) > 0
        again = revived.model_dump(mode="json")
        for sent in (dump, again):
            for trajectory in sent["trajectories"]:
                trajectory.pop("start_time", None)
        assert again["trajectories"] == dump["trajectories"]


def test_the_worker_starts_from_the_parent_alone(tmp_path: Path) -> None:
    parent = tmp_path / "parent"
    parent.mkdir()
    (parent / "adapter_config.json").write_text("{}")
    request = {
        "art_path": str(tmp_path / "art"),
        "project": "p",
        "name": "n",
        "parent": str(parent),
        "step": 7,
    }
    stale = tmp_path / "art" / "p" / "models" / "n" / "checkpoints" / "0009"
    stale.mkdir(parents=True)
    worker.place_parent(request)
    assert os.listdir(stale.parent) == ["0007"]
    worker.place_parent({**request, "parent": None})
    assert not stale.parent.exists()


@pytest.mark.parametrize(
    ("problem", "kind"),
    [
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), "out_of_memory"),
        (ValueError("No available memory for the cache blocks."), "out_of_memory"),
        (ValueError("bad"), "other"),
    ],
)
def test_the_worker_knows_a_lack_of_memory(problem: Exception, kind: str) -> None:
    assert worker.kind_of(problem) == kind


def test_the_worker_ends_with_its_parent(tmp_path: Path) -> None:
    """Its children too: a GPU is not left to a process whose parent was killed."""
    program = f"""
import os, subprocess, sys, time
sys.path.insert(0, {str(Path(worker.__file__).parent)!r})
import worker
worker.GRACE = 0.2
child = subprocess.Popen(["sleep", "600"])
worker.die_with_parent(sys.stdin)
print(child.pid, flush=True)
time.sleep(600)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdin is not None and process.stdout is not None
    child = int(process.stdout.readline())
    process.stdin.close()
    assert process.wait(10) == -signal.SIGKILL
    process.stdout.close()
    for _ in range(50):
        try:
            os.kill(child, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    assert Path(f"/proc/{child}/stat").read_text().split()[2] == "Z"


def test_the_lock_pins_everything_with_hashes() -> None:
    pins = locked()
    assert pins["openpipe-art"] == "0.5.18" and pins["litellm"] == "1.82.0"
    assert pins["torch"] == "2.10.0" and pins["transformers"] == "5.2.0" and pins["unsloth"] == "2026.3.3"
    assert pins["openai"].split(".")[0] == "2" and pins["polars"].split(".")[0] == "1"
    text = LOCK.read_text()
    entries = re.split(r"\n(?=[A-Za-z0-9])", text.strip())
    assert len(entries) == len(pins) > 100
    assert all("--hash=sha256:" in entry for entry in entries)


@pytest.mark.long
def test_the_lock_resolves(tmp_path: Path) -> None:
    """Every pin with its hash is in the index and they fit together; only metadata is fetched."""
    tool = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(tmp_path / "tool"), "uv"]
    if subprocess.run(tool, capture_output=True).returncode != 0:
        skip("no package index can be reached")
    command = [str(tmp_path / "tool" / "bin" / "uv"), "pip", "install", "--dry-run", "--require-hashes"]
    platform = ["--python-version", "3.11", "--python-platform", "x86_64-manylinux_2_28"]
    target = ["--target", str(tmp_path / "nothing"), "--system-certs", "-r", str(LOCK)]
    found = subprocess.run([*command, *platform, *target], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr[-2000:]
    assert "torch==2.10.0" in found.stderr and not (tmp_path / "nothing" / "torch").exists()
