"""What an operator sees and clicks in Dagster's UI: a headless Chromium before the real webserver and daemon.

The pictures of docs/dagster_ui.md:

    UI_SCREENSHOTS=docs/ui .venv/bin/pytest babylon_rl_tests/orchestration/test_ui.py
"""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

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
SIZE = {"width": 1280, "height": 860}
WAIT = 60_000
"""Milliseconds for a part of a page to come."""

AGENTS = ["agent-ada", "agent-bob", "agent-cyd", "agent-dan", "agent-eve"]
MADE, CLICKED = "2026-10-20", "2026-10-21"
POISONED = f"{MADE}T07:00"
SOURCE = "https://example.org/babylon_rl/blob/main"


@pytest.fixture(scope="module")
def dagster() -> Iterator[DagsterServices]:
    """All partitions since October; two recorded days, of which the first was backfilled."""
    with tempfile.TemporaryDirectory(prefix="babylon-ui-") as text:
        folder = Path(text)
        folder.chmod(0o711)  # as root the server runs under another account
        home = folder / "home"
        try:
            run(_record(ensure_server(home)))
            environment = {name.upper(): "" for name in Settings.model_fields}
            environment |= {"BABYLON_HOME": str(home), "DAGSTER_HOME": ""}
            environment |= {"WANDB_MODE": "none", "SCORER": "heuristic", "SOURCE_URL": SOURCE}
            with dagster_services({k: v for k, v in environment.items() if v}, folder) as services:
                backfill = services.backfill(HOURLY_ASSETS, windows_of_day(MADE))
                state = services.wait(backfill)
                assert state["status"] == "COMPLETED_SUCCESS", services.failures(backfill)
                yield services
        finally:
            destroy_server(home)


async def _record(server: EmbeddedServer) -> None:
    await migrate(server.dsn(), embedded=True)
    game = await connect(server.dsn())
    try:
        for window_id in windows_of_day(MADE) + windows_of_day(CLICKED):
            await record_window(game, window_id, AGENTS, garbage=int(window_id == POISONED))
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


def test_the_graph_shows_every_asset(page: "Page", dagster: DagsterServices) -> None:
    page.goto(f"{dagster.url}/asset-groups")
    shows(page, *HOURLY_ASSETS, "recorded_rows", "training_batch", "trained_checkpoint", "deployed_model")
    picture(page, "graph")


def test_an_asset_explains_itself(page: "Page", dagster: DagsterServices) -> None:
    page.goto(f"{dagster.url}/assets/scored_groups?view=overview")
    shows(page, "One GRPO group per window", "babylon-rl", "rl.scores", "advantage", "docs/judge.md")
    picture(page, "asset")


def test_a_window_shows_its_partition_bar_and_its_metadata(page: "Page", dagster: DagsterServices) -> None:
    page.goto(f"{dagster.url}/assets/trajectories?view=partitions&partition={POISONED}")
    shows(page, "Materialized (24)", "rows/quarantined", "rows/good_share", "frozen", *AGENTS)
    picture(page, "window")


def test_figures_of_windows_are_plotted(page: "Page", dagster: DagsterServices) -> None:
    page.goto(f"{dagster.url}/assets/scored_groups?view=events&partition={POISONED}")
    shows(page, "groups/reward_mean")


def test_a_check_says_what_it_found(page: "Page", dagster: DagsterServices) -> None:
    page.goto(f"{dagster.url}/assets/scored_groups?view=checks&checkDetail=reward_spread")
    shows(page, "reward_spread", "Succeeded", "Evaluation result", "Passed")
    picture(page, "check")


def test_a_tick_of_the_sensor_gives_reasons(page: "Page", dagster: DagsterServices) -> None:
    page.goto(f"{dagster.url}/locations/babylon_rl/sensors/window_readiness")
    page.get_by_text("Preview tick result").first.click()
    page.get_by_role("button", name="Continue").click()
    shows(page, f"{CLICKED}T00:00")
    picture(page, "tick")


def test_a_backfill_is_launched_by_clicking(page: "Page", dagster: DagsterServices) -> None:
    page.goto(f"{dagster.url}/assets/trajectories?view=partitions")
    page.get_by_text("Materialize…").first.click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_text("Custom").click()
    chosen = dialog.locator("input[type=text]").first
    chosen.fill(f"[{CLICKED}T00:00...{CLICKED}T23:00]")
    chosen.press("Enter")
    dialog.get_by_text("24 partitions", exact=True).wait_for()
    picture(page, "launch")
    dialog.get_by_text("Launch backfill").last.click()
    dagster.until(lambda: dagster.partitions("trajectories")["numMaterialized"] == 48, "no backfill", 180)
    page.goto(f"{dagster.url}/assets/trajectories?view=partitions&partition={CLICKED}T12:00")
    shows(page, "Materialized (48)", "Failed (0)", "frozen")
