"""The GPU trainer: a program of its own, run by the Python of the GPU environment.

    python worker.py REQUEST.json EVENTS_FD

It imports nothing of babylon_rl, whose other libraries that environment does not have. The request is a JSON
file (see `driver.Request`); events go to a file descriptor as JSON lines:

    {"event": "loaded", "gpu": "..."}            the model is on the GPU
    {"event": "step", "done": 1, "metrics": {}}  a gradient step
    {"event": "answer", "text": "..."} or {"event": "answer", "problem": "..."}
    {"event": "done", "checkpoint": "...", "step": 1, "metrics": {}}
    {"event": "error", "kind": "out_of_memory" or "other", "message": "..."}

It ends when its standard input does: a GPU is not left to a process whose parent is gone.
"""

import asyncio
import json
import os
import shutil
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

QUIET = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "PYTHON_DOTENV_DISABLED": "1",
    "WANDB_DISABLE_WEAVE": "true",
    "TOKENIZERS_PARALLELISM": "false",
}
MEMORY_WORDS = ("out of memory", "outofmemoryerror", "no available memory for the cache blocks")
GRACE = 10.0
"""Seconds that children get to end when the parent is gone."""


def emit(stream: Any, **event: Any) -> None:
    """Write one event; a parent that is gone is not waited for."""
    stream.write(json.dumps(event) + "\n")
    stream.flush()


def die_with_parent(stream: Any) -> None:
    """End this process and its children when `stream`, the parent's end of a pipe, is closed."""

    def watch() -> None:
        while stream.read(1):
            pass
        for process in members_of(os.getpgid(0)) - {os.getpid()}:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGTERM)
        time.sleep(GRACE)
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def members_of(group: int) -> set[int]:
    """Processes of a process group."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            if int(fields[2]) == group:
                found.add(int(stat.parent.name))
    return found


def kind_of(problem: BaseException) -> str:
    """Whether a failure means that memory does not suffice."""
    text = f"{type(problem).__name__} {problem}".lower()
    return "out_of_memory" if any(words in text for words in MEMORY_WORDS) else "other"


def revive(art: Any, dump: dict[str, Any]) -> Any:
    """A trajectory group from its JSON; ART's own validation would drop every trajectory."""
    from openai.types.chat.chat_completion import Choice

    def messages(items: list[Any]) -> list[Any]:
        return [
            Choice.model_validate(item) if "message" in item and "finish_reason" in item else item
            for item in items
        ]

    trajectories = []
    for given in dump["trajectories"]:
        histories = [
            art.trajectories.History(messages_and_choices=messages(history["messages_and_choices"]))
            for history in given.get("additional_histories", [])
        ]
        trajectories.append(
            art.Trajectory(
                messages_and_choices=messages(given["messages_and_choices"]),
                additional_histories=histories,
                reward=given["reward"],
                metadata=given.get("metadata", {}),
            )
        )
    return art.TrajectoryGroup(trajectories, metadata=dump.get("metadata", {}))


def read_groups(request: dict[str, Any]) -> list[dict[str, Any]]:
    """The trajectory groups as JSON."""
    return [json.loads(line) for line in Path(request["groups"]).read_text().splitlines()]


def place_parent(request: dict[str, Any]) -> None:
    """Put the parent's adapter where ART looks for the newest checkpoint."""
    folder = Path(request["art_path"]) / request["project"] / "models" / request["name"] / "checkpoints"
    shutil.rmtree(folder, ignore_errors=True)
    if request["parent"] is not None:
        shutil.copytree(request["parent"], folder / f"{request['step']:04d}")


async def train(request: dict[str, Any], events: Any) -> None:
    """Train one chunk with ART's LocalBackend and ask the result one question."""
    import art
    from art.local import LocalBackend

    class Reporting(LocalBackend):
        """Tells each gradient step as it happens; `train` itself only returns means."""

        async def _train_model(self, *arguments: Any, **options: Any) -> Any:
            done = 0
            async for metrics in super()._train_model(*arguments, **options):
                done += 1
                emit(events, event="step", done=done, metrics=numbers(metrics))
                yield metrics

    model = art.TrainableModel(
        name=request["name"],
        project=request["project"],
        base_model=request["base_model"],
        report_metrics=[],
        _internal_config={"peft_args": request["peft"]},
    )
    place_parent(request)
    backend = Reporting(path=request["art_path"])
    try:
        await model.register(backend)
        import torch

        emit(events, event="loaded", gpu=torch.cuda.get_device_name())
        groups = [revive(art, dump) for dump in read_groups(request)]
        result = await backend.train(model, groups, **request["train"])
        await answer(model, request["question"], events)
        emit(
            events,
            event="done",
            checkpoint=result.checkpoint_path,
            step=result.step,
            metrics=numbers(result.metrics),
        )
    finally:
        await backend.close()


async def answer(model: Any, question: list[Any], events: Any) -> None:
    """One completion; its failure is told and does not lose the checkpoint."""
    try:
        response = await model.openai_client().chat.completions.create(
            model=model.get_inference_name(), messages=question, max_tokens=12, temperature=0.0
        )
        emit(events, event="answer", text=response.choices[0].message.content)
    except Exception as problem:
        emit(events, event="answer", problem=f"{type(problem).__name__}: {problem}"[:300])


def numbers(metrics: dict[str, Any]) -> dict[str, float]:
    """The metrics that are finite numbers."""
    found = {name: float(value) for name, value in metrics.items() if isinstance(value, int | float)}
    return {name: value for name, value in found.items() if value - value == 0}


def main() -> int:
    """Run one request."""
    os.environ.update(QUIET)
    os.environ.pop("WANDB_API_KEY", None)  # ART would log to W&B by itself
    die_with_parent(sys.stdin)
    with os.fdopen(int(sys.argv[2]), "w") as events:
        try:
            asyncio.run(train(json.loads(Path(sys.argv[1]).read_text()), events))
        except BaseException as problem:
            text = " ".join(f"{type(problem).__name__}: {problem}".split())
            emit(events, event="error", kind=kind_of(problem), message=text[:1000])
            raise
    return 0


if __name__ == "__main__":
    sys.exit(main())
