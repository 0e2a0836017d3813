"""Code server, webserver and daemon as processes of their own, for tests and benchmarks of real backfills.

with dagster_services(environment, folder) as dagster:
    backfill = dagster.backfill(HOURLY, windows)
    dagster.kill("daemon")
    dagster.start("daemon")
    dagster.wait(backfill)
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

from babylon_rl.orchestration.runs import partition_tags
from babylon_rl_tests import dagster_queries as queries

NAMES = ("code", "webserver", "daemon")
FINISHED = ("COMPLETED_SUCCESS", "COMPLETED_FAILED", "COMPLETED", "FAILED", "CANCELED")
REPOSITORY = "__repository__"
LOCATION = "babylon_rl"


class Unfinished(AssertionError):
    """What was waited for did not come."""


@dataclass(frozen=True)
class Staleness:
    """What Dagster says of one partition.

    Attributes:
        causes: Root causes of its staleness: category, asset, partition and reason.
    """

    status: str
    version: str | None
    causes: set[tuple[str, str, str | None, str]]


class DagsterServices:
    """The three services; each can be killed and started again."""

    def __init__(self, environment: Mapping[str, str], folder: Path) -> None:
        self.environment = {**environment}
        self.ports = {"code": _free_port(), "webserver": _free_port(), "daemon": 0}
        self.url = f"http://127.0.0.1:{self.ports['webserver']}"
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.folder = folder

    def start(self, *names: str) -> None:
        """Starts services, as systemd would."""
        for name in names:
            line = [sys.executable, "-m", "babylon_rl.cli", "service", "run", name]
            line += ["--port", str(self.ports[name])] if self.ports[name] else []
            line += ["--code-port", str(self.ports["code"])]
            with (self.folder / f"{name}.log").open("ab") as log:
                self.processes[name] = subprocess.Popen(
                    line, env=self.environment, stdout=log, stderr=log, start_new_session=True
                )

    def wait_until_loaded(self) -> None:
        """Returns when the webserver shows the code location."""
        reload = "mutation { reloadWorkspace { __typename } }"

        def loaded() -> bool:
            with contextlib.suppress(httpx.HTTPError, ValueError, KeyError, TypeError):
                if self.query(queries.LOADED)["repositoriesOrError"]["nodes"]:
                    return True
                self.query(reload)
            return False

        self.until(loaded, "the code location is not loaded", 180)

    def query(self, text: str, **variables: Any) -> dict[str, Any]:
        """Asks the webserver by GraphQL.

        Raises:
            ValueError: It reports an error.
        """
        body = {"query": text, "variables": variables}
        answer = httpx.post(f"{self.url}/graphql", json=body, timeout=120).json()
        if answer.get("errors"):
            raise ValueError(str(answer["errors"])[:2000])
        return answer["data"]

    def backfill(self, assets: Sequence[str], partitions: Sequence[str]) -> str:
        """Launches a backfill as the page does and returns its id."""
        params = {"assetSelection": [{"path": [name]} for name in assets], "partitionNames": list(partitions)}
        launched = self.query(queries.BACKFILL, params=params)["launchPartitionBackfill"]
        if "backfillId" not in launched:
            raise ValueError(str(launched))
        return launched["backfillId"]

    def launch(self, job: str, *partitions: str, assets: Sequence[str] = ()) -> str:
        """Launches one run of a job, through the queue, and returns its id.

        Args:
            job: Name of the job; `__ASSET_JOB` for `assets`.
            partitions: None, one, or the first and the last.
            assets: What is made of the job; nothing for all.
        """
        selector: dict[str, Any] = {
            "pipelineName": job,
            "repositoryName": REPOSITORY,
            "repositoryLocationName": LOCATION,
        }
        if assets:
            selector |= {"assetSelection": [{"path": [name]} for name in assets], "assetCheckSelection": []}
        params = {
            "selector": selector,
            "mode": "default",
            "runConfigData": {},
            "executionMetadata": {
                "tags": [
                    {"key": key, "value": value}
                    for key, value in partition_tags(*(partitions or (None,))).items()
                ]
            },
        }
        launched = self.query(queries.RUN, params=params)["launchPipelineExecution"]
        if "run" not in launched:
            raise ValueError(str(launched))
        return launched["run"]["runId"]

    def run(self, run_id: str, seconds: float = 120) -> str:
        """Waits for the end of a run and returns its status."""
        status = ""

        def ended() -> bool:
            nonlocal status
            with contextlib.suppress(httpx.HTTPError, ValueError):
                status = self.query(queries.STATUS, id=run_id)["runOrError"].get("status", "")
            return status in ("SUCCESS", "FAILURE", "CANCELED")

        self.until(ended, f"{run_id} goes on", seconds)
        return status

    def staleness(self, asset: str, partitions: Sequence[str]) -> dict[str, "Staleness"]:
        """What the page of an asset says of partitions, by partition."""
        key = {"path": [asset]}
        found = self.query(queries.STALENESS, key=key, partitions=list(partitions))["assetNodeOrError"]
        parts = zip(partitions, found["status"], found["causes"], found["version"], strict=True)
        return {
            partition: Staleness(
                status,
                version,
                {
                    (cause["category"], cause["key"]["path"][0], cause["partitionKey"], cause["reason"])
                    for cause in causes
                },
            )
            for partition, status, causes, version in parts
        }

    def state(self, backfill: str) -> dict[str, Any]:
        """What the UI says of a backfill: its status, and counts of partitions by asset."""
        found = self.query(queries.STATE, id=backfill)["partitionBackfillOrError"]
        if "status" not in found:  # its storage is away
            return {"status": "UNKNOWN", "error": None, "assets": {}}
        counts = (found.get("assetBackfillData") or {}).get("assetBackfillStatuses", [])
        return {
            "status": found["status"],
            "error": found["error"],
            "assets": {count["assetKey"]["path"][0]: count for count in counts if count},
        }

    def runs(self, backfill: str) -> list[dict[str, Any]]:
        """The runs of a backfill, newest first: runId, status, tags."""
        tags = [{"key": "dagster/backfill", "value": backfill}]
        found = self.query(queries.RUNS, tags=tags)["runsOrError"]["results"]
        return [run | {"tags": {tag["key"]: tag["value"] for tag in run["tags"]}} for run in found]

    def failures(self, backfill: str) -> str:
        """What the runs of a backfill say that did not succeed; for the message of a failed test."""
        lines = []
        for run in self.runs(backfill):
            lines.append(f"{run['runId']} {run['status']} {run['tags']}")
            if run["status"] != "SUCCESS":
                events = self.query(queries.EVENTS, id=run["runId"])["logsForRun"].get("events", [])
                lines += [
                    f"  {e['message'][:300]} {(e.get('error') or {}).get('message', '')[:600]}"
                    for e in events
                    if e.get("error") or e.get("level") in ("ERROR", "WARNING")
                ]
        return "\n".join(lines)

    def partitions(self, asset: str) -> dict[str, int]:
        """What the page of an asset counts: numMaterialized, numFailed, numMaterializing."""
        counts: dict[str, int] = {}

        def read() -> bool:  # a webserver finds out once per pooled connection that its database was away
            with contextlib.suppress(ValueError):
                counts.update(
                    self.query(queries.PARTITIONS, key={"path": [asset]})["assetNodeOrError"][
                        "partitionStats"
                    ]
                )
            return bool(counts)

        self.until(read, f"no statistics of {asset}", 30)
        return counts

    def wait(self, backfill: str, seconds: float = 300) -> dict[str, Any]:
        """Waits for the end of a backfill and returns its state."""

        def finished() -> bool:
            with contextlib.suppress(httpx.HTTPError, ValueError):
                return self.state(backfill)["status"] in FINISHED
            return False

        self.until(finished, f"{backfill} goes on", seconds)
        return self.state(backfill)

    def until(self, condition: Callable[[], object], problem: str, seconds: float = 120) -> None:
        """Waits for a condition.

        Raises:
            Unfinished: It did not come true in time, or a service ended by itself.
        """
        deadline = time.monotonic() + seconds
        while not condition():
            for name, process in self.processes.items():
                if process.poll() is not None:
                    raise Unfinished(f"{name} ended by itself:\n{self.log(name)}")
            if time.monotonic() > deadline:
                logs = "\n".join(f"--- {name}\n{self.log(name)}" for name in self.processes)
                raise Unfinished(f"{problem}\n{logs}")
            time.sleep(0.2)

    def workers(self) -> list[psutil.Process]:
        """The processes of runs, wherever their parent went."""
        found = []
        for process in psutil.process_iter(["cmdline"]):
            line = " ".join(process.info["cmdline"] or [])
            with contextlib.suppress(psutil.Error):
                if "multiprocessing.spawn" in line and process.environ().get("DAGSTER_HOME") == self.home:
                    found.append(process)
        return found

    @property
    def home(self) -> str:
        return str(Path(self.environment["BABYLON_HOME"]) / "dagster")

    def kill(self, name: str) -> None:
        """`kill -9` of a service and, for the code server, of the process with the code; not of runs."""
        process = self.processes.pop(name)
        workers = {worker.pid for worker in self.workers()}
        family = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        for child in family:
            if child.pid not in workers:
                with contextlib.suppress(psutil.Error):
                    child.kill()
        process.wait()

    def stop(self) -> None:
        """Ends everything that was started here."""
        family = [psutil.Process(p.pid) for p in self.processes.values() if p.poll() is None]
        family += [child for parent in family for child in parent.children(recursive=True)]
        for process in reversed(self.processes.values()):
            process.send_signal(signal.SIGINT)
        _, alive = psutil.wait_procs(family, timeout=8)
        for process in [*alive, *self.workers()]:
            with contextlib.suppress(psutil.Error):
                process.kill()
        for process in self.processes.values():
            process.wait()

    def log(self, name: str) -> str:
        path = self.folder / f"{name}.log"
        return path.read_text(errors="replace")[-3000:] if path.exists() else ""


@contextlib.contextmanager
def dagster_services(environment: Mapping[str, str], folder: Path) -> Iterator[DagsterServices]:
    """Starts the services on the settings in `environment` and stops them afterwards."""
    services = DagsterServices({**os.environ, **environment}, folder)
    try:
        services.start(*NAMES)
        services.wait_until_loaded()
        yield services
    finally:
        services.stop()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
