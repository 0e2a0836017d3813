"""What Dagster costs: loading, single runs, a backfill of 30 days, a sensor tick and a page over a year.

    python benchmarks/orchestration.py [--quick] [--json]

Code server, webserver, daemon and an embedded PostgreSQL as processes of their own, as `babylon service run`
starts them. Twenty agents record a row of 30 KB and an order in each hour. The backfill is launched over
GraphQL as the page does, and goes through the daemon and its queue; its CPU seconds are those of the
services, of every run and of PostgreSQL, its peak is that of the largest run worker. Per window is the CPU
(PostgreSQL included) of a range run of the three hourly assets, less that of the same steps called without
Dagster. The year is made of copies of a processed window's rows and events.
"""

import argparse
import asyncio
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Any

import parts.repository  # noqa: F401  (makes the tests' harness importable)
from parts.cpu import cpu_of
from parts.history import process_history, record_days
from parts.machine import machine

from babylon_rl.database.connection import connect, open_databases
from babylon_rl.database.embedded import EmbeddedServer, destroy_server, ensure_server
from babylon_rl.database.migrations import migrate
from babylon_rl.orchestration.instance import LIBRARY_ENVIRONMENT, open_instance
from babylon_rl.orchestration.jobs import HOURLY_ASSETS
from babylon_rl.orchestration.resources import JUDGE
from babylon_rl.orchestration.runs import HOURLY_JOB, run_hours
from babylon_rl.orchestration.scoring_steps import score_windows
from babylon_rl.orchestration.window_steps import derive_window, freeze_window
from babylon_rl.records.reader import refresh_window_rows
from babylon_rl.records.store import ArtifactStore
from babylon_rl.settings import get_settings
from babylon_rl.windows import day_of, window_id_at, windows_between, windows_of_day
from babylon_rl_tests.dagster_services import LOCATION, REPOSITORY, DagsterServices, dagster_services

YEAR = 8_760
_TICK = """
mutation ($selector: SensorSelector!, $cursor: String) {
  sensorDryRun(selectorData: $selector, cursor: $cursor) {
    __typename ... on PythonError { message }
    ... on DryRunInstigationTick { evaluationResult { cursor skipReason error { message } } } } }
"""
_PAGE = """
query ($key: AssetKeyInput!) { assetNodeOrError(assetKey: $key) { ... on AssetNode {
  partitionKeysByDimension { name type partitionKeys }
  assetPartitionStatuses { __typename ... on TimePartitionStatuses {
    ranges { status startTime endTime startKey endKey } } } } } }
"""


class PeakOfWorkers:
    """The largest resident set that a run worker reaches, in MB, while the block runs."""

    def __init__(self, dagster: DagsterServices) -> None:
        self.mb = 0.0
        self._dagster, self._ended = dagster, threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> "PeakOfWorkers":
        self._thread.start()
        return self

    def __exit__(self, *problem: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(1.0):
            for worker in self._dagster.workers():
                with suppress(OSError):
                    for line in Path(f"/proc/{worker.pid}/status").read_text().splitlines():
                        if line.startswith("VmHWM"):
                            self.mb = max(self.mb, int(line.split()[1]) / 1024)


def load_cpu(times: int) -> float:
    """Median CPU seconds of a process that loads the code location."""
    found = []
    line = "import babylon_rl.definitions as d; d.defs.get_repository_def()"
    for _ in range(times):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-c", line], check=True, cwd=Path(__file__).parents[1])
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        found.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return median(found)


def per_partition(server: EmbeddedServer, days: list[str]) -> dict[str, float]:
    """CPU milliseconds per window: of a range run of each day, and of the same steps without Dagster."""
    settings, half = get_settings(), len(days) // 2
    own = os.getpid()

    async def steps(day: str) -> None:
        async with open_databases(settings, role=JUDGE) as db:
            files = ArtifactStore(settings.home / "artifacts")
            await refresh_window_rows(db.game, db.rl)
            windows = windows_of_day(day)
            for window_id in windows:
                await freeze_window(db, files, window_id, settings)
            for window_id in windows:
                await derive_window(db, window_id, settings)
            async for _ in score_windows(
                db, files, windows, settings, lambda: open_databases(settings, role=JUDGE)
            ):
                pass

    def measured(work: Callable[[str], object], days: list[str]) -> float:
        found = []
        for day in days:
            before = cpu_of(own, server.pid)
            work(day)
            found.append((cpu_of(own, server.pid) - before) * 1000 / 24)
        return median(found[1:])  # the first one warms up

    with open_instance(settings) as instance:
        with_dagster = measured(lambda day: run_hours(instance, day), days[:half])
    without = measured(lambda day: asyncio.run(steps(day)), days[half:])
    return {"cpu_ms_per_partition": with_dagster - without, "cpu_ms_per_partition_without": without}


def single_runs(dagster: DagsterServices, windows: list[str]) -> float:
    """Median CPU seconds of a run of one window: its process and what the code server does for it."""
    code, found = dagster.processes["code"].pid, []
    for window_id in windows:
        before = cpu_of(code)
        run = dagster.launch(HOURLY_JOB, window_id)
        text = "query ($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }"

        def status(run: str = run, text: str = text) -> str:
            return dagster.query(text, id=run)["runOrError"]["status"]

        dagster.until(lambda: status() in ("SUCCESS", "FAILURE"), f"run {run} goes on", 180)
        if status() != "SUCCESS":
            sys.exit(f"run {run} of {window_id} failed")
        dagster.until(lambda: not dagster.workers(), "the worker does not end")
        found.append(cpu_of(code) - before)
    return median(found)


def backfill(dagster: DagsterServices, server: EmbeddedServer, windows: list[str]) -> dict[str, float]:
    """Seconds, CPU seconds and largest worker of a backfill of the hourly assets."""
    services = [process.pid for process in dagster.processes.values()]
    before, started = cpu_of(*services, server.pid), time.perf_counter()
    with PeakOfWorkers(dagster) as peak:
        state = dagster.wait(dagster.backfill(HOURLY_ASSETS, windows), 3600)
    seconds = time.perf_counter() - started
    if state["status"] != "COMPLETED_SUCCESS":
        sys.exit(f"the backfill ended as {state}")
    return {
        "backfill_720_s": seconds,
        "backfill_720_cpu_s": cpu_of(*services, server.pid) - before,
        "worker_peak_mb": peak.mb,
    }


def timed(work: Callable[[], Any], times: int) -> float:
    """Median milliseconds, warm."""
    found = []
    for turn in range(times + 2):
        started = time.perf_counter()
        work()
        if turn >= 2:
            found.append((time.perf_counter() - started) * 1000)
    return median(found)


def year(dagster: DagsterServices, times: int) -> dict[str, float]:
    """A tick of the readiness sensor through webserver and code server, and an asset page's statuses."""
    selector = {
        "repositoryName": REPOSITORY,
        "repositoryLocationName": LOCATION,
        "sensorName": "window_readiness",
    }

    def tick(cursor: str) -> dict[str, Any]:
        result = dagster.query(_TICK, selector=selector, cursor=cursor)["sensorDryRun"]
        found = result.get("evaluationResult")
        if not found or found["error"]:
            sys.exit(f"the sensor's tick failed: {result}")
        return found

    now = datetime.now(UTC)
    # As it stands after a year of ticks: behind it all windows but those of the last day.
    cursor = {"watermark": window_id_at(now - timedelta(days=1)), "seen_at": f"{now:%Y-%m-%dT%H:%M:%S+00:00}"}

    def page() -> None:
        node = dagster.query(_PAGE, key={"path": ["scored_groups"]})["assetNodeOrError"]
        keys = node["partitionKeysByDimension"][0]["partitionKeys"]
        if len(keys) < YEAR:
            sys.exit(f"the page shows {len(keys)} partitions")

    return {
        "sensor_tick_ms": timed(lambda: tick(json.dumps(cursor)), times),
        "status_page_ms": timed(page, times),
    }


def measure(home: Path, folder: Path, quick: bool) -> dict[str, Any]:
    server = ensure_server(home)
    end = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=1)
    first = end - timedelta(hours=YEAR)
    count = 3 if quick else 30
    start = end - timedelta(days=count)
    extra = start - timedelta(days=6)  # days of the runs that are measured one by one
    environment = {"BABYLON_HOME": str(home), "FIRST_PARTITION": window_id_at(first), "WANDB_MODE": "none"}
    os.environ.update(environment | LIBRARY_ENVIRONMENT | {"SCORER": "heuristic"})
    for name in ("DATABASE_URL", "RL_DATABASE_URL", "DAGSTER_PG", "DAGSTER_HOME"):
        os.environ.pop(name, None)
    get_settings.cache_clear()

    async def record() -> None:
        await migrate(server.dsn(), embedded=True)
        game = await connect(server.dsn())
        await record_days(game, extra, end)
        await game.close()

    async def history(like: str) -> None:
        rl, dagster = await connect(server.dsn()), await connect(server.dsn("dagster"))
        known = {row["window_id"] for row in await rl.fetch("SELECT window_id FROM rl.window_state")}
        missing = [
            w for w in windows_between(first, datetime.now(UTC) - timedelta(hours=1)) if w not in known
        ]
        await process_history(rl, dagster, missing, like)
        await rl.close()
        await dagster.close()

    _say("recording")
    asyncio.run(record())
    windows = windows_between(start, end)
    days = [day_of(window_id_at(extra + timedelta(days=n))) for n in range(6)]
    found: dict[str, Any] = {"windows": len(windows), "load_cpu_s": load_cpu(3 if quick else 7)}
    _say("range runs with and without Dagster")
    found |= per_partition(server, days)
    with dagster_services(os.environ, folder) as dagster:
        _say(f"a backfill of {len(windows)} windows")
        found |= backfill(dagster, server, windows)
        _say("single runs")
        found["run_cpu_s"] = single_runs(dagster, windows_of_day(days[0])[: 2 if quick else 5])
        _say("a year of history")
        asyncio.run(history(windows[0]))
        found |= year(dagster, 7 if quick else 21)
    return found


def _say(what: str) -> None:
    print(f"... {what}", file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="3 days instead of 30: a glance, not a figure")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="babylon-bench-") as text:
        folder = Path(text)
        folder.chmod(0o711)
        home = folder / "home"
        try:
            found = measure(home, folder, arguments.quick)
        finally:
            destroy_server(home)
    count = found["windows"]
    print(f"code location, to load         {found['load_cpu_s']:8.2f} s of CPU")
    print(f"run of one window              {found['run_cpu_s']:8.2f} s of CPU")
    print(
        f"range run, per window          {found['cpu_ms_per_partition']:8.1f} ms of CPU for Dagster, "
        f"{found['cpu_ms_per_partition_without']:.1f} ms for the steps"
    )
    print(
        f"backfill of {count} windows         {found['backfill_720_s']:8.1f} s, "
        f"{found['backfill_720_cpu_s']:.1f} s of CPU, largest worker {found['worker_peak_mb']:.0f} MB"
    )
    print(f"sensor's tick, a year behind it{found['sensor_tick_ms']:8.0f} ms")
    print(f"page of {YEAR} partitions, warm {found['status_page_ms']:8.0f} ms")
    if arguments.json:
        rounded = {k: round(v, 3) if isinstance(v, float) else v for k, v in found.items()}
        print(json.dumps(rounded | {"quick": arguments.quick, "machine": machine("dagster", "asyncpg")}))


if __name__ == "__main__":
    main()
