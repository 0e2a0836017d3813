"""The dashboard in a headless Chromium, on a desk and on a phone; no request leaves this machine."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from babylon_rl.database.connection import connect
from babylon_rl.deployment.deploy import deploy
from babylon_rl.deployment.registry import ensure_base, register
from babylon_rl.deployment.verdicts import record_benchmark
from babylon_rl.deployment.watch import WatchRules, watch
from babylon_rl.settings import Settings
from babylon_rl_tests.api.conftest import TOKEN, Admin, admin_settings
from babylon_rl_tests.api.dagster_double import DagsterDouble
from babylon_rl_tests.api.recorded_day import record_day, run
from babylon_rl_tests.deployment.experiments import Market, full_hour, noisy
from babylon_rl_tests.skipping import require_tool

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
DESK, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
TALE = "<img src=x onerror=\"document.title='hacked'\"> promoted"

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    chromium = require_tool("chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium, headless=True, args=FLAGS)
        yield opened
        opened.close()


@pytest.fixture
def dagster() -> Iterator[DagsterDouble]:
    with DagsterDouble() as double:
        yield double


@pytest.fixture
def admin(settings: Settings, dsn: str, dagster: DagsterDouble) -> Iterator[Admin]:
    """A recorded day, three models of which one serves, and an attempt to smuggle in markup."""
    record_day(dsn)

    async def models() -> None:
        rl = await connect(dsn)
        await ensure_base(rl, base_model="tiny", storage_path="file:///models/base")
        for number in (1, 2, 3):
            model = await register(rl, parent_version="v0.0.0", storage_path="file:///models/x")
            mean = 0.01 * number
            standing = {"return_mean": mean, "return_low": mean - 0.005, "return_high": mean + 0.005}
            base = {"return_mean": 0.0, "return_low": -0.005, "return_high": 0.005}
            difference = {"mean": mean, "low": mean - 0.006, "high": mean + 0.006}
            await record_benchmark(
                rl,
                version=model.version,
                incumbent="v0.0.0",
                purpose="gate",
                seed_key=f"seeds {number}",
                windows=128,
                metrics={
                    "standings": {model.version: standing, "v0.0.0": base},
                    "verdict": {"difference": difference},
                },
                verdict="promoted",
                reason="because",
            )
        await deploy(rl, None, "v0.0.1", reason="the first")
        await deploy(rl, None, "v0.0.2", reason=TALE)
        await rl.close()

    run(models())
    changes: dict[str, Any] = {"training_min_trajectories": 90, "dagster_url": dagster.url}
    with Admin(admin_settings(settings, **changes)) as started:
        yield started


@pytest.fixture
def page(browser: "Browser", admin: Admin) -> Iterator["Page"]:
    """A page of an empty profile that fails the test on any error, and on any request to elsewhere."""
    context = browser.new_context(viewport=DESK)  # type: ignore[arg-type]
    opened = context.new_page()
    wrong: list[str] = []
    opened.on("pageerror", lambda error: wrong.append(str(error)))
    opened.on(
        "console",
        lambda message: wrong.append(message.text) if "Content Security Policy" in message.text else None,
    )
    opened.on("request", lambda asked: None if asked.url.startswith(admin.url) else wrong.append(asked.url))
    yield opened
    context.close()
    assert wrong == []


def log_in(page: "Page", admin: Admin) -> None:
    page.goto(f"{admin.url}/admin/training")
    page.fill("#token", TOKEN)
    page.click("#login button")
    page.wait_for_selector("#tiles .tile")


def shows(page: "Page", place: str, text: str) -> None:
    """Waits until a part of the page says something; the page's policy forbids evaluated predicates."""
    page.locator(place).filter(has_text=text).wait_for(timeout=15000)


def test_login_wants_the_right_token_and_forgets_it(page: "Page", admin: Admin) -> None:
    page.goto(f"{admin.url}/admin/training")
    page.fill("#token", "wrong-token-0123456789")
    page.click("#login button")
    shows(page, "#login-error", "missing or wrong")
    assert page.locator("#board").is_hidden()
    log_in(page, admin)
    assert page.context.cookies() == [] and page.evaluate("localStorage.length") == 0
    page.reload()
    page.wait_for_selector("#tiles .tile")
    page.click("#logout")
    assert page.locator("#board").is_hidden() and page.evaluate("sessionStorage.length") == 0


def test_what_operators_look_for_is_there(page: "Page", admin: Admin) -> None:
    log_in(page, admin)
    assert "v0.0.2" in page.inner_text("#tiles")
    assert "ready" in page.inner_text("#readiness") and "96 of 90" in page.inner_text("#readiness")
    assert page.locator("#curve svg circle").count() == 3
    assert page.locator("#models tbody tr").count() == 4
    assert "+3.00 % [+2.40 %, +3.60 %] over v0.0.0" in page.inner_text("#models")
    assert page.locator("#windows .cell.scored").count() >= 24
    assert page.locator("#collection svg rect").count() == 48
    assert "<img src=x" in page.inner_text("#history"), "text stays text"
    assert page.title() != "hacked"
    assert page.locator("main svg[role=img]:not([aria-label])").count() == 0


@pytest.mark.parametrize("width", [320, 390, 768])
def test_nothing_is_wider_than_a_phone(page: "Page", admin: Admin, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 844})
    log_in(page, admin)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    page.locator("#models button").first.click()
    box = page.locator("dialog").bounding_box()
    assert box is not None and box["x"] >= 0 and box["x"] + box["width"] <= width


def test_training_is_started_and_cancelled_after_a_question(
    page: "Page", admin: Admin, dagster: DagsterDouble
) -> None:
    log_in(page, admin)
    page.click("#train")
    assert page.locator("dialog[open]").count() == 1 and not dagster.runs
    page.click("#dialog-cancel")
    assert not dagster.runs
    page.click("#train")
    page.fill("#batch-size", "40")
    page.click("#dialog-ok")
    page.wait_for_selector("#readiness .job")
    [asked] = dagster.runs.values()
    assert asked["config"]["ops"]["training_batch"]["config"]["batch_size"] == 40
    asked |= {
        "status": "STARTED",
        "steps": {"training_batch": "SUCCESS", "trained_checkpoint": "IN_PROGRESS"},
    }
    page.wait_for_selector("#readiness .job progress[value='0.25']", timeout=15000)
    page.click("#readiness .job button")
    page.click("#dialog-ok")
    shows(page, "#jobs", "cancelled")


def test_a_model_is_deployed_and_taken_back(page: "Page", admin: Admin) -> None:
    log_in(page, admin)
    page.click("button[aria-label='Deploy v0.0.3']")
    page.select_option("#strategy", "immediate")
    page.click("#dialog-ok")
    shows(page, "#tiles", "v0.0.3")
    page.click("#rollback")
    page.click("#dialog-ok")
    shows(page, "#tiles", "v0.0.2")
    admin.post("/api/admin/training/rollback")
    page.click("#rollback")
    page.click("#dialog-ok")
    shows(page, "#dialog-error", "first model that was deployed")


def test_a_rollout_is_started_watched_and_promoted(page: "Page", admin: Admin, dsn: str) -> None:
    """What the experiment says is there as soon as a look at it is: the figures, and what decides."""
    log_in(page, admin)
    page.click("button[aria-label='Deploy v0.0.3']")
    page.select_option("#strategy", "gradual")
    page.fill("#schedule", "50:200,100")
    page.click("dialog button:has-text('Deploy')")
    shows(page, "#rollout", "v0.0.3 on trial with")
    shows(page, "#rollout", "Schedule: 50 % for 200 h, then 100 %")
    shows(page, "#rollout", "Nothing has settled yet")

    async def played() -> None:
        connection = await connect(dsn)
        await connection.execute("UPDATE rl.rollouts SET origin = $1, block_windows = 1", full_hour(64))
        await connection.execute("UPDATE rl.rollout_stages SET from_time = $1", full_hour(64))
        market = Market(connection)
        await market.play(await market.assignment(), 60, noisy(0.0))
        for _ in range(3):
            await watch(connection, None, WatchRules(), owner="test")
        await connection.close()

    run(played())
    shows(page, "#rollout", "minimum detectable effect")
    shows(page, "#rollout", "attributed P&L (USD per agent and hour)")
    shows(page, "#rollout", "60 hours, 30 pairs of blocks")
    if place := os.environ.get("SCREENSHOTS"):
        page.locator("#rollout").screenshot(path=f"{place}/rollout.png")
    page.click("#promote")
    page.click("dialog button:has-text('Promote')")
    shows(page, "#rollout", "No experiment is running")
    assert "v0.0.3" in page.locator("#rollout").inner_text()


def test_named_agents_try_a_model(page: "Page", admin: Admin) -> None:
    log_in(page, admin)
    page.click("button[aria-label='Deploy v0.0.3']")
    page.select_option("#strategy", "test")
    assert page.locator("#schedule").is_hidden() and page.locator("#percentage").is_hidden()
    page.click("dialog button:has-text('Deploy')")
    shows(page, "#dialog-error", "needs the agents that try the model")
    page.fill("#agents", "agent-7, agent-9")
    page.click("dialog button:has-text('Deploy')")
    shows(page, "#rollout", "v0.0.3 on trial with 2 named agents")
    shows(page, "#rollout", "agent-7, agent-9")
    assert "2 named agents get v0.0.3" in page.inner_text("#tiles")
    page.click("#rollback")
    page.click("dialog button:has-text('Roll back')")
    shows(page, "#rollout", "No experiment is running")
    assert "v0.0.2" in page.inner_text("#rollout")


def test_the_page_follows_what_happens_elsewhere(page: "Page", admin: Admin) -> None:
    log_in(page, admin)
    admin.post("/api/admin/training/deploy", {"modelVersion": "v0.0.3", "strategy": "immediate"})
    shows(page, "#tiles", "v0.0.3")


def test_the_keyboard_reaches_everything(page: "Page", admin: Admin) -> None:
    log_in(page, admin)
    page.focus("#train")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "dialog-cancel"
    page.keyboard.press("Escape")
    assert page.locator("dialog[open]").count() == 0


def test_the_screenshot_of_the_docs_is_there() -> None:
    picture = Path(__file__).parents[2] / "docs" / "dashboard.png"
    assert picture.read_bytes().startswith(b"\x89PNG") and picture.stat().st_size < 400_000
