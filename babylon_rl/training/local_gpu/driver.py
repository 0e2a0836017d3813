"""Driving the GPU trainer's process: its request, its events, and what its end means.

Out of memory, a crash and a process that hangs become errors of their own; the process and its children are
gone when this returns.
"""

import asyncio
import json
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from babylon_rl.training.local_gpu import worker
from babylon_rl.training.local_gpu.errors import (
    GpuEnvironmentError,
    GpuOutOfMemoryError,
    GpuTrainerCrashError,
    GpuTrainerHungError,
)

STOP_SECONDS = 15.0
"""Between asking a process to end and ending it."""
LAST_LINES = 3
_WORKER = str(Path(worker.__file__).resolve())


@dataclass(frozen=True)
class Request:
    """What the process is asked to train; becomes its JSON file.

    Attributes:
        parent: Adapter to start from; None for the base model.
        step: ART's step number of the parent.
        groups: File with one ART trajectory group as JSON per line.
        question: Messages that the result is asked once.
    """

    base_model: str
    name: str
    project: str
    art_path: str
    parent: str | None
    step: int
    groups: str
    train: Mapping[str, Any]
    peft: Mapping[str, Any]
    question: Sequence[Mapping[str, str]] = ()


@dataclass
class Outcome:
    """What the process told."""

    checkpoint: Path | None = None
    step: int | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    samples: list[dict[str, float]] = field(default_factory=list)
    gpu: str | None = None
    answer: str | None = None
    answer_problem: str | None = None


@dataclass(frozen=True)
class Limits:
    """When to stop the process, in seconds."""

    silence: float
    deadline: float


async def run_trainer(
    python: Path,
    request: Request,
    folder: Path,
    limits: Limits,
    on_step: Callable[[int, dict[str, float]], None] = lambda done, metrics: None,
) -> Outcome:
    """Train one chunk in a process of its own.

    Args:
        python: Of the GPU environment.
        folder: For the request and the process's output; kept for people.
        on_step: Receives each gradient step; what it raises stops the process.

    Raises:
        GpuEnvironmentError: The process cannot be started.
        GpuOutOfMemoryError: The GPU or the machine has too little memory.
        GpuTrainerCrashError: It ended without a checkpoint.
        GpuTrainerHungError: It gave no sign of life, or took too long.
    """
    asked, log = _write_request(folder, request)
    reading, writing = os.pipe()
    command = [str(python), _WORKER, str(asked), str(writing)]
    environment = {name: value for name, value in os.environ.items() if name != "WANDB_API_KEY"}
    with log.open("wb") as output:
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.PIPE,
                stdout=output,
                stderr=asyncio.subprocess.STDOUT,
                pass_fds=[writing],
                start_new_session=True,
                env={**environment, **worker.QUIET},
            )
        except OSError as problem:
            os.close(reading)
            raise GpuEnvironmentError(
                f"The GPU trainer cannot be started: {problem}", "Run `babylon train setup-gpu`."
            ) from problem
        finally:
            os.close(writing)
        try:
            return await _follow(process, reading, log, limits, on_step)
        finally:
            await _stop(process)


def _write_request(folder: Path, request: Request) -> tuple[Path, Path]:
    """Write the request; returns its file and the one for the process's output."""
    folder.mkdir(parents=True, exist_ok=True)
    asked = folder / "request.json"
    asked.write_text(json.dumps(asdict(request)))
    return asked, folder / "trainer.log"


async def _follow(
    process: asyncio.subprocess.Process,
    reading: int,
    log: Path,
    limits: Limits,
    on_step: Callable[[int, dict[str, float]], None],
) -> Outcome:
    outcome, failure = Outcome(), None
    started = alive = time.monotonic()
    size = 0
    stream = asyncio.StreamReader(limit=1 << 22)
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(stream), os.fdopen(reading, "rb", buffering=0)
    )
    pause = min(1.0, limits.silence / 4, limits.deadline / 4)
    try:
        while True:
            try:
                line = await asyncio.wait_for(stream.readline(), pause)
            except TimeoutError:
                now = time.monotonic()
                if (written := _size(log)) != size:
                    alive, size = now, written
                if now - started > limits.deadline:
                    what = f"it was not done after {limits.deadline / 60:g} minutes"
                    raise GpuTrainerHungError(what, "TRAINING_DEADLINE_MINUTES", log) from None
                if now - alive > limits.silence:
                    what = f"it gave no sign of life for {limits.silence / 60:g} minutes"
                    raise GpuTrainerHungError(what, "LOCAL_GPU_SILENCE_MINUTES", log) from None
                continue
            if not line:
                break
            alive = time.monotonic()
            failure = _read(line, outcome, on_step) or failure
    finally:
        transport.close()
    status = await asyncio.wait_for(process.wait(), STOP_SECONDS)
    return _judge(status, outcome, failure, log)


def _size(log: Path) -> int:
    return log.stat().st_size


def _read(
    line: bytes, outcome: Outcome, on_step: Callable[[int, dict[str, float]], None]
) -> dict[str, Any] | None:
    """Take in one event; returns it if it is an error. What is no event was not written by our worker."""
    try:
        event = json.loads(line)
        kind = event["event"]
    except (ValueError, TypeError, KeyError):
        return None
    if kind == "loaded":
        outcome.gpu = str(event.get("gpu"))
    elif kind == "step":
        outcome.samples.append({name: float(value) for name, value in event["metrics"].items()})
        on_step(len(outcome.samples), outcome.samples[-1])
    elif kind == "answer":
        outcome.answer, outcome.answer_problem = event.get("text"), event.get("problem")
    elif kind == "done":
        outcome.checkpoint, outcome.step = Path(event["checkpoint"]), int(event["step"])
        outcome.metrics = dict(event["metrics"])
    return event if kind == "error" else None


def _judge(status: int, outcome: Outcome, failure: dict[str, Any] | None, log: Path) -> Outcome:
    """What the end of the process means."""
    if failure is not None:
        message = str(failure.get("message", ""))
        if failure.get("kind") == "out_of_memory":
            raise GpuOutOfMemoryError(message, log)
        raise GpuTrainerCrashError("failed", message, log)
    if status == -signal.SIGKILL:
        raise GpuOutOfMemoryError("the process was killed, which is what a machine short of memory does", log)
    if status != 0:
        how = (
            f"died of signal {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        )
        raise GpuTrainerCrashError(how, _last_words(log), log)
    if outcome.checkpoint is None or not outcome.checkpoint.is_dir():
        raise GpuTrainerCrashError("ended without a checkpoint", _last_words(log), log)
    return outcome


def _last_words(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return " | ".join(lines[-LAST_LINES:])[-600:]


async def _stop(process: asyncio.subprocess.Process) -> None:
    """End the process and its children, first politely."""
    if process.stdin is not None:
        process.stdin.close()
    for wish in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, wish)
        with suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), STOP_SECONDS)
            if wish is signal.SIGKILL or not _group_lives(process.pid):
                return


def _group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True
