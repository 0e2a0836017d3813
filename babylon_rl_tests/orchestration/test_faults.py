"""Backfills through the daemon in which processes are killed: nothing is lost, nothing is there twice."""

import asyncio
import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from babylon_rl.database.connection import connect
from babylon_rl.database.embedded import EmbeddedServer, destroy_server, ensure_server
from babylon_rl.database.migrations import migrate
from babylon_rl.orchestration.instance import workspace_file
from babylon_rl.orchestration.jobs import HOURLY_ASSETS
from babylon_rl.settings import Settings
from babylon_rl.windows import windows_of_day
from babylon_rl_tests.dagster_services import DagsterServices, dagster_services
from babylon_rl_tests.orchestration.recorded import record_window

pytestmark = pytest.mark.long

AGENTS = ["agent-a", "agent-b", "agent-c"]
FAULTS = ("daemon", "code", "worker", "database")
DAYS = {fault: [f"2026-10-{2 * n + 1:02}", f"2026-10-{2 * n + 2:02}"] for n, fault in enumerate(FAULTS)}
TWICE = ["2026-10-09", "2026-10-10"]
POISONED = "T07:00"
WAIT = 600
"""Seconds after which a backfill counts as stuck."""

_COUNTS = """
SELECT count(*) AS windows, count(*) FILTER (WHERE group_status = 'scored') AS scored,
       count(DISTINCT group_sha256) AS groups, sum(rows) AS rows
  FROM rl.window_state WHERE left(window_id, 10) = ANY($1)
"""
_SCORES = """
SELECT count(*) AS scores, count(DISTINCT (window_id, agent_id)) AS members
  FROM rl.scores WHERE left(window_id, 10) = ANY($1)
"""
_QUARANTINED = "SELECT count(*) FROM rl.quarantine WHERE left(window_id, 10) = ANY($1)"


class Installation:
    """The services on an embedded server of their own, with a week of recorded windows."""

    def __init__(self, dagster: DagsterServices, home: Path) -> None:
        self.dagster = dagster
        self.home = home

    def fetch(self, query: str, days: list[str]) -> dict[str, int]:
        async def read() -> dict[str, int]:
            connection = await connect(ensure_server(self.home).dsn())
            try:
                row = await connection.fetchrow(query, days)
                assert row
                return dict(row)
            finally:
                await connection.close()

        return asyncio.run(read())

    def made(self, days: list[str]) -> int:
        return self.fetch(_COUNTS, days)["scored"]


@pytest.fixture(scope="module")
def installation() -> Iterator[Installation]:
    with tempfile.TemporaryDirectory(prefix="babylon-faults-") as text:
        folder = Path(text)
        folder.chmod(0o711)  # as root the server runs under another account
        home = folder / "home"
        try:
            asyncio.run(_record(ensure_server(home)))
            # As the repository's, but a killed worker is noticed after seconds instead of a minute.
            instance = (workspace_file().parent / "dagster.yaml").read_text()
            assert "poll_interval_seconds: 60" in instance
            impatient = folder / "dagster.yaml"
            impatient.write_text(instance.replace("poll_interval_seconds: 60", "poll_interval_seconds: 5"))
            environment = {name.upper(): "" for name in Settings.model_fields}
            environment |= {"BABYLON_HOME": str(home), "DAGSTER_INSTANCE_FILE": str(impatient)}
            environment |= {"WANDB_MODE": "none", "SCORER": "heuristic", "DAGSTER_PG": "", "DAGSTER_HOME": ""}
            with dagster_services({k: v for k, v in environment.items() if v}, folder) as services:
                yield Installation(services, home)
        finally:
            destroy_server(home)


async def _record(server: EmbeddedServer) -> None:
    await migrate(server.dsn(), embedded=True)
    game = await connect(server.dsn())
    try:
        await game.execute("SET synchronous_commit = off")
        for days in (*DAYS.values(), TWICE):
            for window_id in (w for day in days for w in windows_of_day(day)):
                poisoned = 1 if window_id.endswith(POISONED) else 0
                await record_window(game, window_id, AGENTS, garbage=poisoned)
    finally:
        await game.close()


def kill_daemon(installation: Installation) -> None:
    installation.dagster.kill("daemon")
    installation.dagster.start("daemon")


def kill_code_server(installation: Installation) -> None:
    """Its runs go on without it."""
    installation.dagster.kill("code")
    installation.dagster.start("code")
    installation.dagster.wait_until_loaded()


def kill_worker(installation: Installation) -> None:
    for worker in installation.dagster.workers():
        worker.kill()


def restart_database(installation: Installation) -> None:
    """Killed, not stopped: every connection breaks in the middle of what it does."""
    server = psutil.Process(ensure_server(installation.home).pid)
    os.kill(server.pid, signal.SIGKILL)
    psutil.wait_procs([server], timeout=30)
    ensure_server(installation.home)


STRIKES: dict[str, Callable[[Installation], None]] = {
    "daemon": kill_daemon,
    "code": kill_code_server,
    "worker": kill_worker,
    "database": restart_database,
}


@pytest.mark.parametrize("fault", FAULTS)
def test_every_window_is_there_once_after_a_kill_in_mid_backfill(installation: Installation, fault: str):
    dagster, days = installation.dagster, DAYS[fault]
    windows = [window for day in days for window in windows_of_day(day)]
    before = dagster.partitions("scored_groups")["numMaterialized"]
    backfill = dagster.backfill(HOURLY_ASSETS, windows)
    dagster.until(
        lambda: dagster.workers() and installation.fetch(_COUNTS, days)["windows"],
        "no run of the backfill is at work",
    )
    assert installation.made(days) < len(windows), "it is in the middle"
    STRIKES[fault](installation)
    state = dagster.wait(backfill, WAIT)

    assert state["status"] == "COMPLETED_SUCCESS", dagster.failures(backfill)
    assert materialized(state) == dict.fromkeys(HOURLY_ASSETS, (48, 0))
    assert dagster.partitions("scored_groups") == {
        "numMaterialized": before + 48,
        "numFailed": 0,
        "numMaterializing": 0,
    }
    assert_made_once(installation, days)


def test_two_backfills_over_the_same_range_make_every_window_once(installation: Installation):
    dagster = installation.dagster
    windows = [window for day in TWICE for window in windows_of_day(day)]
    both = [dagster.backfill(HOURLY_ASSETS, windows) for _ in range(2)]
    states = [dagster.wait(backfill, WAIT) for backfill in both]
    assert [state["status"] for state in states] == ["COMPLETED_SUCCESS"] * 2
    assert [materialized(state) for state in states] == [dict.fromkeys(HOURLY_ASSETS, (48, 0))] * 2
    assert_made_once(installation, TWICE)


@pytest.mark.parametrize("window_id", ["2026-09-30T23:00", "2999-01-01T00:00"])
def test_a_window_that_is_no_partition_is_not_launched(installation: Installation, window_id: str):
    """Before FIRST_PARTITION, and in the future."""
    with pytest.raises(ValueError, match="PythonError"):
        installation.dagster.backfill(HOURLY_ASSETS, [window_id])
    assert installation.fetch(_COUNTS, [window_id[:10]])["windows"] == 0


def materialized(state: dict[str, Any]) -> dict[str, tuple[int, int]]:
    """What the UI shows of a backfill: by asset, how many partitions were made and how many failed."""
    return {
        asset: (counts["numPartitionsMaterialized"], counts["numPartitionsFailed"])
        for asset, counts in state["assets"].items()
    }


def assert_made_once(installation: Installation, days: list[str]) -> None:
    """Every window of the days is in `rl`, with its rows, and each of its contents was scored once."""
    expected = 24 * len(days)
    found = installation.fetch(_COUNTS, days)
    assert (found["windows"], found["scored"], found["groups"]) == (expected, expected, expected)
    assert found["rows"] == expected * len(AGENTS), "the unreadable rows sank no window"
    assert installation.fetch(_QUARANTINED, days)["count"] == len(days)
    scores = installation.fetch(_SCORES, days)
    assert scores["scores"] == scores["members"] == expected * len(AGENTS)
