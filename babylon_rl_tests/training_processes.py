"""Training processes that can be killed at a named point: forked from one that has ART imported already.

    with Nursery() as nursery:
        ended = nursery.train(settings_as_environment, day, kill_at=Stage.JOB_NOTED)

Each training is a process of its own that really dies of SIGKILL; forking only spares the import of ART.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
import traceback
from dataclasses import dataclass
from typing import Any, Self

from babylon_rl.training.stages import Stage, listening


@dataclass(frozen=True)
class Ended:
    """How a training process ended.

    Attributes:
        killed: By SIGKILL, at the named point.
        result: What it reported: `status` and `version`, or `error` and `message`.
        pid: Of the process.
    """

    killed: bool
    result: dict[str, Any]
    pid: int


class Nursery:
    """A process that imports ART once and forks trainings; a context manager."""

    def __enter__(self) -> Self:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "babylon_rl_tests.training_processes"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        assert self._read() == "ready"
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()

    def start(
        self,
        environment: dict[str, str],
        day: str,
        *,
        kill_at: Stage | None = None,
        occurrence: int = 1,
        stop_at: Stage | None = None,
    ) -> int:
        """Start a training and return its process id; it kills (or stops) itself at the point."""
        order = {
            "environment": environment,
            "day": day,
            "kill_at": kill_at,
            "occurrence": occurrence,
            "stop_at": stop_at,
        }
        return int(self._ask(order))

    def wait(self, pid: int) -> Ended:
        """Wait for a training's end."""
        answer = json.loads(self._ask({"wait": pid}))
        return Ended(answer["signal"] == signal.SIGKILL, answer["result"], pid)

    def train(self, environment: dict[str, str], day: str, **options: Any) -> Ended:
        """Run a training to its end."""
        return self.wait(self.start(environment, day, **options))

    def _ask(self, order: dict[str, Any]) -> str:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline().strip()
        assert line, "the nursery died"
        return line


def _main() -> None:
    import torch

    from babylon_rl.training.art_import import import_art

    torch.set_num_threads(1)
    import_art()
    from art.preprocessing import pack, tokenize  # noqa: F401  (what a training would import late)

    from babylon_rl.deployment import candidates  # noqa: F401

    print("ready", flush=True)
    reports: dict[int, int] = {}
    for line in sys.stdin:
        order = json.loads(line)
        if "wait" in order:
            _, status = os.waitpid(order["wait"], 0)
            with os.fdopen(reports.pop(order["wait"])) as report:
                text = report.read()
            ended = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
            print(json.dumps({"signal": ended, "result": json.loads(text or "{}")}), flush=True)
            continue
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(reading)
            _child(order, writing)
        os.close(writing)
        reports[pid] = reading
        print(pid, flush=True)


def _child(order: dict[str, Any], writing: int) -> None:
    """Never returns."""
    try:
        os.environ.update(order["environment"])
        devnull = os.open(os.devnull, os.O_RDONLY)
        os.dup2(devnull, 0)
        os.dup2(2, 1)
        with listening(_listener(order)):
            result = asyncio.run(_train(order["day"]))
    except BaseException as problem:
        if order["environment"].get("SHOW_TRACEBACK"):
            traceback.print_exc()
        result = {"error": type(problem).__name__, "message": str(problem)}
    with os.fdopen(writing, "w") as report:
        json.dump(result, report)
    os._exit(0)


def _listener(order: dict[str, Any]) -> Any:
    left = {order["kill_at"]: order["occurrence"], order["stop_at"]: 1}

    def listen(stage: Stage) -> None:
        if stage not in left:
            return
        left[stage] -= 1
        if left[stage] == 0:
            os.kill(os.getpid(), signal.SIGKILL if stage == order["kill_at"] else signal.SIGSTOP)

    return listen


async def _train(day: str) -> dict[str, Any]:
    from babylon_rl.database.connection import open_databases
    from babylon_rl.deployment.candidates import train_day
    from babylon_rl.records.store import ArtifactStore
    from babylon_rl.settings import get_settings

    get_settings.cache_clear()
    settings = get_settings()
    async with open_databases(settings) as db:
        training = await train_day(db, ArtifactStore(settings.home / "artifacts"), settings, day)
    return {"status": training.status, "version": training.model.version}


if __name__ == "__main__":
    _main()
