"""What an operator sees and clicks in Dagster's UI: a headless Chromium before the real webserver and daemon.

A month of 720 windows: four weeks made by `babylon backfill`, two days from the page, one window by the
sensor when rows came late. It ends the day before yesterday, since the page plots the newest partitions.
The pictures of docs/dagster_ui.md:

    UI_SCREENSHOTS=docs/ui .venv/bin/pytest babylon_rl_tests/orchestration/test_ui.py
"""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from babylon_rl.database.connection import connect
from babylon_rl.database.embedded import EmbeddedServer, destroy_server, ensure_server
from babylon_rl.database.migrations import migrate
from babylon_rl.orchestration.jobs import HOURLY_ASSETS
from babylon_rl.settings import Settings
from babylon_rl.windows import windows_of_day
from babylon_rl_tests.api.recorded_day import run
from babylon_rl_tests.dagster_services import DagsterServices, dagster_services
from babylon_rl_tests.orchestration.recorded import record_window
from babylon_rl_tests.skipping import require_tool

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.long

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SIZE = {"width": 1440, "height": 1000}
WAIT = 60_000
"""Milliseconds for a part of a page to come."""

AGENTS = ["agent-ada", "agent-bob", "agent-cyd", "agent-dan", "agent-eve"]
DAYS = [f"{datetime.now(UTC) - timedelta(days=before):%Y-%m-%d}" for before in range(31, 1, -1)]
MADE, CLICKED = DAYS[:28], DAYS[28:]
POISONED = f"{DAYS[19]}T07:00"
THIN = f"{DAYS[19]}T04:00"
LATE = f"{DAYS[4]}T10:00"
"""Recorded with a single agent; the others' rows come after it was made."""
SENSOR = "/locations/babylon_rl/sensors/window_readiness"
SOURCE = "https://github.com/example/babylon_rl/blob/main"

_TICKS = """
{ sensorOrError(sensorSelector: { repositoryName: "__repository__", repositoryLocationName: "babylon_rl",
                                  sensorName: "window_readiness" }) { ... on Sensor {
    sensorState { ticks(limit: 9) { status skipReason runIds error { message } } } } } }
"""
# The recorder of the tests knows a straight line only.
_WAVES = """
UPDATE "StockPrice" SET price = 100 + 8 * sin(extract(epoch FROM timestamp) / 50000)
                                    + 3 * sin(extract(epoch FROM timestamp) / 9000)
"""
# Rows of that long ago would be found by the nightly comparison only.
_JUST_NOW = """
UPDATE "trajectories" SET "createdAt" = now() AT TIME ZONE 'UTC'
 WHERE "windowId" = $1 AND "agentId" <> 'agent-ada'
"""


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedServer]:
    """A database server of the module's own."""
    with tempfile.TemporaryDirectory(prefix="babylon-ui-") as text:
        folder = Path(text)
        folder.chmod(0o711)  # as root the server runs under another account
        try:
            yield ensure_server(folder / "home")
        finally:
            destroy_server(folder / "home")


@pytest.fixture(scope="module")
def dagster(server: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DagsterServices]:
    """A recorded month of which four weeks are made, and the services."""
    run(_record(server))
    environment = {name.upper(): "" for name in Settings.model_fields} | {"DAGSTER_HOME": ""}
    environment |= {"BABYLON_HOME": str(server.home), "WANDB_MODE": "none"}
    environment |= {"SCORER": "heuristic", "SOURCE_URL": SOURCE}
    environment |= {"FIRST_PARTITION": f"{DAYS[0]}T00:00"}
    environment = {k: v for k, v in environment.items() if v}
    line = [sys.executable, "-m", "babylon_rl.cli", "backfill", "--no-train", "--yes"]
    line += ["--from", MADE[0], "--to", MADE[-1]]
    made = subprocess.run(line, env=os.environ | environment, capture_output=True, text=True)
    assert made.returncode == 0 and "672 windows made" in made.stdout, made.stdout + made.stderr
    with dagster_services(environment, tmp_path_factory.mktemp("logs")) as services:
        yield services


async def _record(server: EmbeddedServer) -> None:
    await migrate(server.dsn(), embedded=True)
    game = await connect(server.dsn())
    try:
        await game.execute("SET synchronous_commit = off")
        for day in DAYS:
            for window_id in windows_of_day(day):
                count = {THIN: 2, LATE: 1}.get(window_id, len(AGENTS))
                await record_window(game, window_id, AGENTS[:count], garbage=int(window_id == POISONED))
        await game.execute(_WAVES)
    finally:
        await game.close()


async def _record_late(server: EmbeddedServer) -> None:
    game = await connect(server.dsn())
    try:
        await record_window(game, LATE, AGENTS[1:])
        await game.execute(_WAVES)
        await game.execute(_JUST_NOW, LATE)
    finally:
        await game.close()


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    chromium = require_tool("chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium, headless=True, args=FLAGS)
        yield opened
        opened.close()


@pytest.fixture
def page(browser: "Browser") -> Iterator["Page"]:
    context = browser.new_context(viewport=SIZE)  # type: ignore[arg-type]
    context.set_default_timeout(WAIT)
    yield context.new_page()
    context.close()


def shows(page: "Page", *texts: str) -> None:
    """Waits until the page says all of it."""
    for text in texts:
        page.locator("body").filter(has_text=text).wait_for()


def picture(page: "Page", name: str) -> None:
    """Keeps a screenshot where UI_SCREENSHOTS says so."""
    folder = os.environ.get("UI_SCREENSHOTS")
    if folder:
        page.wait_for_timeout(1500)  # for what still moves
        Path(folder).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=str(Path(folder) / f"{name}.png"))


def ticks(dagster: DagsterServices, status: str) -> list[dict[str, Any]]:
    """The last ticks of the readiness sensor that ended so, newest first."""
    found = dagster.query(_TICKS)["sensorOrError"]["sensorState"]["ticks"]
    return [tick for tick in found if tick["status"] == status]


def test_the_graph_shows_every_asset(page: "Page", dagster: DagsterServices) -> None:
    page.set_viewport_size({"width": 1280, "height": 2150})
    page.goto(f"{dagster.url}/asset-groups")
    shows(page, *HOURLY_ASSETS, "recorded_rows", "training_batch", "trained_checkpoint", "deployed_model")
    page.locator("button:has([aria-label=settings])").last.click()
    page.get_by_text("Change graph to vertical orientation").first.click()
    page.reload()  # else it stays where it was, too small to read
    shows(page, *HOURLY_ASSETS, "% filled")
    picture(page, "graph")


def test_an_asset_explains_itself(page: "Page", dagster: DagsterServices) -> None:
    page.goto(f"{dagster.url}/assets/scored_groups?view=overview")
    shows(page, "One GRPO group per window", "babylon-rl", "rl.scores", "advantage", "docs/judge.md")
    picture(page, "asset")


def test_a_window_shows_its_partition_bar_and_its_metadata(page: "Page", dagster: DagsterServices) -> None:
    page.goto(f"{dagster.url}/assets/trajectories?view=partitions&partition={POISONED}")
    shows(page, "Materialized (672)", "Failed (0)", "rows/quarantined", "rows/good_share", "frozen", *AGENTS)
    picture(page, "window")


def test_a_thin_window_is_there_with_its_status(page: "Page", dagster: DagsterServices) -> None:
    page.goto(f"{dagster.url}/assets/scored_groups?view=partitions&partition={THIN}")
    shows(page, "thin", "2 of at least 3 agents")


def test_a_check_says_what_it_found(page: "Page", dagster: DagsterServices) -> None:
    page.goto(f"{dagster.url}/assets/scored_groups?view=checks&checkDetail=reward_spread")
    shows(page, "reward_spread", "Succeeded", "Evaluation result", "Passed")
    picture(page, "check")


def test_the_sensor_is_turned_on_and_requests_the_window_to_which_rows_came_late(
    page: "Page", dagster: DagsterServices, server: EmbeddedServer
) -> None:
    run(_record_late(server))
    page.goto(f"{dagster.url}{SENSOR}")
    page.locator("tr", has=page.get_by_text("Running", exact=True)).locator("label").click()
    dagster.until(lambda: ticks(dagster, "SUCCESS"), f"no tick: {ticks(dagster, 'FAILURE')}", 120)
    [tick] = ticks(dagster, "SUCCESS")
    assert len(tick["runIds"]) == 1
    shows(page, "1 run requested")
    picture(page, "tick")

    def agents() -> int:
        page.goto(f"{dagster.url}/assets/trajectories?view=partitions&partition={LATE}")
        shows(page, "rows/agents")
        return int(page.locator("tr", has_text="rows/agents").inner_text().split()[-1])

    dagster.until(lambda: agents() == len(AGENTS), "the late rows are not taken", 180)


def test_a_backfill_launched_by_clicking_ends_in_the_partition_bar(
    page: "Page", dagster: DagsterServices
) -> None:
    page.goto(f"{dagster.url}/assets/trajectories?view=partitions")
    page.get_by_text("Materialize…").first.click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_text("Custom").click()
    chosen = dialog.locator("input[type=text]").first
    chosen.fill(f"[{CLICKED[0]}T00:00...{CLICKED[-1]}T23:00]")
    chosen.press("Enter")
    dialog.get_by_text("48 partitions", exact=True).wait_for()
    picture(page, "launch")
    dialog.get_by_text("Launch backfill").last.click()
    dagster.until(lambda: dagster.partitions("trajectories")["numMaterialized"] >= 720, "no backfill", 240)
    page.goto(f"{dagster.url}/assets/trajectories?view=partitions&partition={CLICKED[-1]}T12:00")
    shows(page, "Failed (0)", "frozen")
    page.locator("body").filter(has_text=re.compile(r"Materialized \(7[2-9]\d\)")).wait_for()
    picture(page, "month")


def test_figures_are_plotted_over_the_windows(page: "Page", dagster: DagsterServices) -> None:
    page.goto(f"{dagster.url}/assets/scored_groups?view=overview")
    page.get_by_text("Plots", exact=True).first.click()
    plot = page.get_by_text("groups/reward_mean", exact=True).first
    plot.scroll_into_view_if_needed()
    assert page.locator("canvas").count() > 3
    picture(page, "plots")


def test_a_tick_without_a_request_says_why(page: "Page", dagster: DagsterServices) -> None:
    dagster.until(lambda: ticks(dagster, "SKIPPED"), "no tick was skipped", 180)
    page.goto(f"{dagster.url}{SENSOR}")
    page.get_by_text("0 runs requested", exact=True).first.hover()
    reason = re.compile(r"0 of \d+ windows requested, \d+ done")
    page.locator("body").filter(has_text=reason).wait_for()
