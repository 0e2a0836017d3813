"""What Dagster's UI calls stale, by a real webserver, and what only `babylon status` and the dashboard say.

One day goes through what happens to recorded data: it is made, rows arrive late, it is made again step by
step, it is made again for nothing, and its outcomes change by themselves.
"""

import asyncio
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import dagster as dg
import pytest

from babylon_rl.api.dashboard import read_dashboard
from babylon_rl.database.connection import connect
from babylon_rl.database.embedded import destroy_server, ensure_server
from babylon_rl.database.migrations import migrate
from babylon_rl.definitions import defs
from babylon_rl.orchestration.changes import changed_windows
from babylon_rl.orchestration.instance import LIBRARY_ENVIRONMENT, open_instance
from babylon_rl.orchestration.jobs import HOURLY_ASSETS
from babylon_rl.orchestration.runs import partition_tags
from babylon_rl.outcomes.sync import sync_window
from babylon_rl.settings import Settings, get_settings
from babylon_rl.windows import windows_of_day
from babylon_rl_tests.dagster_services import DagsterServices, Staleness, dagster_services
from babylon_rl_tests.orchestration.recorded import record_window

pytestmark = pytest.mark.long

DAY = "2026-10-02"
WINDOWS = windows_of_day(DAY)
LATE, OTHER = WINDOWS[3], WINDOWS[7]
AGENTS = ["agent-a", "agent-b", "agent-c"]


class Installation:
    def __init__(self, dagster: DagsterServices, instance: dg.DagsterInstance, home: Path) -> None:
        self.dagster, self.instance, self.home = dagster, instance, home

    def on_database(self, work: Callable[[asyncpg.Connection], Awaitable[Any]]) -> Any:
        async def run() -> Any:
            connection = await connect(ensure_server(self.home).dsn())
            try:
                return await work(connection)
            finally:
                await connection.close()

        return asyncio.run(run())

    def make(self, *assets: str, partitions: tuple[str, ...] = ()) -> None:
        """A run of the same job and storage as the UI's, in this process: it takes seconds less to start."""
        keys = {dg.AssetKey(name) for name in assets}
        job = defs.resolve_implicit_global_asset_job_def()
        chosen = job.get_subset(asset_selection=keys, asset_check_selection=set())
        tags = partition_tags(*(partitions or (None,)))
        assert chosen.execute_in_process(instance=self.instance, tags=tags).success

    def observe(self) -> None:
        """What the button *Observe* of the asset does."""
        self.make("recorded_rows")

    def stale(self, *assets: str) -> dict[tuple[str, str], set[tuple[str, str, str | None, str]]]:
        """The root causes of each stale window; every other window is fresh."""
        found = {(a, w): one for a in assets for w, one in self.windows(a).items()}
        assert {one.status for one in found.values()} <= {"FRESH", "STALE"}
        return {key: one.causes for key, one in found.items() if one.status == "STALE"}

    def windows(self, asset: str) -> dict[str, Staleness]:
        return self.dagster.staleness(asset, WINDOWS)

    def day(self) -> Staleness:
        return self.dagster.staleness("training_batch", [DAY])[DAY]

    def status(self) -> dict[str, str | None]:
        """What `babylon status` lists as changed: by window, in words."""
        return {facts.window_id: facts.stale for facts in self.on_database(changed_windows)}

    def dashboard(self) -> dict[str, Any]:
        return self.on_database(read_dashboard)


@pytest.fixture(scope="module")
def installation() -> Iterator[Installation]:
    with tempfile.TemporaryDirectory(prefix="babylon-stale-") as text, pytest.MonkeyPatch.context() as patch:
        folder = Path(text)
        folder.chmod(0o711)  # as root the server runs under another account
        home = folder / "home"
        for name in ("DAGSTER_HOME", "DAGSTER_PG", *LIBRARY_ENVIRONMENT):
            patch.setenv(name, "")  # set by the instance, and restored
        for name in Settings.model_fields:
            patch.delenv(name.upper(), raising=False)
        for name, value in (("BABYLON_HOME", str(home)), ("WANDB_MODE", "none"), ("SCORER", "heuristic")):
            patch.setenv(name, value)
        get_settings.cache_clear()
        try:
            asyncio.run(migrate(ensure_server(home).dsn(), embedded=True))
            with dagster_services({}, folder) as services:
                with open_instance(get_settings()) as instance:
                    found = Installation(services, instance, home)
                    found.on_database(lambda game: record_window(game, LATE, AGENTS))
                    found.on_database(lambda game: record_window(game, OTHER, AGENTS))
                    yield found
        finally:
            destroy_server(home)
            get_settings.cache_clear()


def test_what_is_stale_and_where_it_is_said(installation: Installation):
    one = installation
    one.make(*HOURLY_ASSETS, partitions=(WINDOWS[0], WINDOWS[-1]))
    one.make("training_batch", partitions=(DAY,))
    assert one.stale(*HOURLY_ASSETS) == {}, "a range run, with a version of its own for each window"
    assert one.day().status == "FRESH"
    one.observe()
    assert one.stale(*HOURLY_ASSETS) == {}, "nothing has changed"

    # Late rows: Dagster learns of them when somebody observes.
    one.on_database(lambda game: record_window(game, LATE, ["agent-d"]))
    assert one.stale(*HOURLY_ASSETS) == {}
    one.observe()
    news = {("DATA", "recorded_rows", LATE, "has a new data version")}
    assert one.stale(*HOURLY_ASSETS) == {("trajectories", LATE): news}, "one window, one step at a time"
    assert one.status() == {LATE: "3 rows when it was scored and 4 now"}

    # Made again one step at a time: what is above a step makes it stale, and it is remembered until scored.
    one.make("trajectories", partitions=(LATE,))
    news = {("DATA", "trajectories", LATE, "has a new data version")}
    assert one.stale(*HOURLY_ASSETS) == {(asset, LATE): news for asset in HOURLY_ASSETS[1:]}
    assert one.status() == {LATE: "frozen with other rows and not scored since"}
    assert [w["windowId"] for w in one.dashboard()["staleWindows"]] == [LATE]
    one.make(*HOURLY_ASSETS[1:], partitions=(LATE,))
    assert one.stale(*HOURLY_ASSETS) == {}
    assert one.dashboard()["staleWindows"] == [] and one.status() == {}
    assert one.day().causes == {("DATA", "scored_groups", LATE, "has a new data version")}
    one.make("training_batch", partitions=(DAY,))
    assert one.day().status == "FRESH"

    # Made again for nothing: the same versions, so nothing below is stale.
    before = {asset: one.windows(asset) for asset in HOURLY_ASSETS}
    one.make("trajectories", partitions=(WINDOWS[0], WINDOWS[-1]))
    one.make("trajectories", partitions=(OTHER,))
    assert {asset: one.windows(asset) for asset in HOURLY_ASSETS} == before

    # Outcomes that change by themselves: nothing that Dagster has seen.
    one.on_database(_another_price)
    assert one.stale(*HOURLY_ASSETS) == {} and one.day().status == "FRESH"
    assert list(one.status()) == [OTHER]
    assert [w["windowId"] for w in one.dashboard()["staleWindows"]] == [OTHER]


async def _another_price(game: asyncpg.Connection) -> None:
    await game.execute('UPDATE "StockPrice" SET "price" = "price" * 2')
    assert (await sync_window(game, game, OTHER)).stale
