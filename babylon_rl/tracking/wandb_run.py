"""A run in W&B, online or offline, that keeps its promise never to fail its caller."""

import json
import logging
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from babylon_rl.tracking.interface import LoggedArtifact

if TYPE_CHECKING:
    import wandb

logger = logging.getLogger(__name__)
T = TypeVar("T")

STEP = "step"
"""The metric that all others are plotted over: W&B's own step refuses rows that come late or twice."""

USE_TIMEOUT = 60.0
"""Seconds that W&B may take to note which artifact a run has read; its library would wait for ever."""


class WandbRun:
    """A `Run` around a `wandb.Run`, or around none where W&B could not be opened at all."""

    def __init__(
        self, id: str, mode: str, run: "wandb.Run | None", journal: Path, degraded: str | None = None
    ) -> None:
        self.id = id
        self.mode = mode
        self.degraded = degraded
        self._run = run
        self._journal = journal
        self._closed = False
        if run is not None:
            self._attempt({}, lambda run: run.define_metric("*", step_metric=STEP))

    @property
    def url(self) -> str | None:
        return self._run.url if self._run is not None and self.mode == "online" else None

    def log(self, values: Mapping[str, Any], step: int | None = None) -> None:
        """Logs one row of metrics; see `Run.log`."""
        row = dict(values) if step is None else {**values, STEP: step}
        self._attempt({"log": row}, lambda run: run.log(row))

    def log_artifact(
        self,
        name: str,
        type: str,
        *,
        path: Path | None = None,
        metadata: Mapping[str, Any] | None = None,
        aliases: Sequence[str] = (),
        inputs: Sequence[LoggedArtifact] = (),
        used: bool = False,
    ) -> LoggedArtifact:
        """Logs a file, a folder or metadata; see `Run.log_artifact`."""
        name = re.sub(r"[^A-Za-z0-9_.-]", "-", name)[:128]
        labels = tuple(re.sub(r"[:/]", "-", alias) for alias in aliases)
        described = dict(metadata or {})
        if inputs:
            described["inputs"] = [{"name": i.name, "type": i.type, "digest": i.digest} for i in inputs]

        def send(run: "wandb.Run") -> str:
            artifact = _artifact(name, type, path, described)
            if used and self.mode == "online":
                _within(USE_TIMEOUT, lambda: run.use_artifact(artifact, aliases=list(labels)))
            else:
                run.log_artifact(artifact, aliases=list(labels))
            return artifact.digest

        entry = {"name": name, "type": type, "path": path, "metadata": described, "aliases": labels}
        return LoggedArtifact(name, type, self._attempt({"artifact": entry}, send), labels)

    def summary(self, values: Mapping[str, Any]) -> None:
        """Sets the run's final figures."""
        self._attempt({"summary": dict(values)}, lambda run: run.summary.update(dict(values)))

    def close(self, failed: bool = False) -> None:
        """Ends the run; a second call does nothing."""
        if not self._closed:
            self._attempt({}, lambda run: run.finish(exit_code=int(failed)))
            self._closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(failed=kind is not None)

    def _attempt(self, record: dict[str, Any], action: "Callable[[wandb.Run], T]") -> T | None:
        """Returns the action's result, or None after writing `record` to the journal instead."""
        try:
            if self._run is not None:
                return action(self._run)
        except Exception as error:
            self._degrade(f"{type(error).__name__}: {error}".splitlines()[0])
        if record:
            self._write(record)
        return None

    def _degrade(self, reason: str) -> None:
        if self.degraded is None:
            logger.warning(
                "W&B run %s is incomplete (%s); the rest is kept in %s", self.id, reason, self._journal
            )
        self.degraded = self.degraded or reason

    def _write(self, record: dict[str, Any]) -> None:
        try:
            self._journal.parent.mkdir(parents=True, exist_ok=True)
            with self._journal.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record, default=str) + "\n")
        except OSError as error:
            logger.warning("W&B run %s: %s cannot be written either: %s", self.id, self._journal, error)


def _within(seconds: float, action: Callable[[], object]) -> None:
    """Runs something that has no timeout of its own; what hangs is left to a thread that ends with us."""
    done: Future[object] = Future()

    def run() -> None:
        try:
            done.set_result(action())
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=run, daemon=True, name="wandb-use").start()
    try:
        done.result(seconds)
    except TimeoutError:
        raise TimeoutError(f"no answer within {seconds:g} s") from None


def _artifact(name: str, type: str, path: Path | None, metadata: dict[str, Any]) -> "wandb.Artifact":
    import wandb

    artifact = wandb.Artifact(name, type=type, metadata=metadata)
    if path is None:
        # Without a file all versions would have the digest of an empty artifact, and online be one version.
        with artifact.new_file("metadata.json") as file:
            json.dump(metadata, file, sort_keys=True, default=str)
    elif path.is_dir():
        for file in sorted(p for p in path.rglob("*") if p.is_file()):
            artifact.add_file(str(file), name=file.relative_to(path).as_posix(), policy="immutable")
    else:
        artifact.add_file(str(path), name=path.name, policy="immutable")
    return artifact
