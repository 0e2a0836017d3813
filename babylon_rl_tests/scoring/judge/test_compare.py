"""`babylon judge compare`: judges against each other, the money and themselves, on frozen windows."""

import asyncio
import json
import sys
from collections.abc import Iterator

import pytest

from babylon_rl import cli
from babylon_rl.database.connection import open_databases
from babylon_rl.orchestration.resources import ArtifactStoreResource
from babylon_rl.orchestration.window_steps import derive_window, freeze_window
from babylon_rl.records.reader import refresh_window_rows
from babylon_rl.settings import Settings, get_settings
from babylon_rl_tests.judge_reading import strict
from babylon_rl_tests.judge_server import KEY, JudgeServer
from babylon_rl_tests.orchestration.recorded import record_window

WINDOWS = ["2026-10-02T03:00", "2026-10-02T04:00"]
AGENTS = [f"agent-{i}" for i in range(6)]


@pytest.fixture
def frozen(settings: Settings, judge: JudgeServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[JudgeServer]:
    """Two frozen windows of six agents, and a judge in the environment."""
    for name, value in {
        "JUDGE_BASE_URL": judge.url,
        "JUDGE_MODEL": "openai/first",
        "JUDGE_API_KEY": KEY,
        "JUDGE_INPUT_PRICE": "1",
        "JUDGE_CANARY_RATE": "0",
        "JUDGE_ATTEMPTS": "1",
    }.items():
        monkeypatch.setenv(name, value)
    get_settings.cache_clear()

    async def freeze() -> None:
        made = get_settings()
        async with open_databases(made) as db:
            for window_id in WINDOWS:
                await record_window(db.game, window_id, AGENTS)
            await refresh_window_rows(db.game, db.rl)
            for window_id in WINDOWS:
                await freeze_window(db, ArtifactStoreResource().open(), window_id, made)
                await derive_window(db, window_id, made)

    asyncio.run(freeze())
    yield judge


def babylon(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: str
) -> tuple[int, str]:
    """Runs the program; returns its status and all that it printed."""
    monkeypatch.setattr(sys, "argv", ["babylon", "judge", "compare", *words])
    status = 0
    try:
        cli.main()
    except SystemExit as ended:
        status = int(ended.code or 0)
    captured = capsys.readouterr()
    return status, captured.out + captured.err


def test_two_judges_on_the_same_windows(
    frozen: JudgeServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    frozen.by_model = {"second": "inverted"}
    words = ("--judge", "openai/first", "--judge", "openai/second", "--json")
    status, text = babylon(capsys, monkeypatch, *words)
    assert status == 0, text
    found = json.loads(text.splitlines()[-1])
    assert (found["windows"], found["episodes"]) == (2, 12)
    first, second = found["variants"]
    assert first["kendall_pnl"] == pytest.approx(1.0, abs=0.2) and second["kendall_pnl"] < -0.8
    assert first["flip_rate"] == 0.0 and first["calls"] == 4 and first["cost_usd"] > 0
    assert found["pairs"][0]["kendall"] == pytest.approx(-1.0)
    _, again = babylon(capsys, monkeypatch, *words)
    assert [v["calls"] for v in json.loads(again.splitlines()[-1])["variants"]] == [0, 0]


def test_a_judge_with_a_liking_for_places_flips(
    frozen: JudgeServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path
):
    frozen.manner = "by_position"
    (tmp_path / "mine.txt").write_text("Only courage counts.")
    status, text = babylon(
        capsys, monkeypatch, "--rubric", "default", "--rubric", str(tmp_path / "mine.txt"), "--orders", "4"
    )
    assert status == 0 and "mine.txt, 4 orders" in text and "flip rate" in text
    assert "openai/first, 4 orders" in text and "tau" in text
    assert frozen.calls == 16 and any("Only courage counts." in seen.text for seen in frozen.seen)


def test_dropout_and_a_chosen_window(
    frozen: JudgeServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    words = ("--window", WINDOWS[1], "--target-trajectories", "1", "--orders", "1", "--json")
    _, text = babylon(capsys, monkeypatch, *words)
    found = json.loads(text.splitlines()[-1])
    assert (found["windows"], found["episodes"]) == (1, 5), "at most 30 % of six"
    assert len(strict(frozen.seen[0].messages)) == 5


@pytest.mark.parametrize(
    ("manner", "words", "message"),
    [
        ("wrong_key", (), "refused the key"),
        ("refusal", (), "no window could be judged"),
        ("honest", ("--window", "yesterday"), "yesterday"),
        ("honest", ("--window", "2026-10-09T00:00"), "none of the windows can be judged"),
        ("honest", ("--judge", "openai/a", "--judge", "openai/a"), "occurs twice"),
        ("honest", ("--rubric", "/no/such/file"), "cannot be read"),
    ],
)
def test_what_cannot_be_compared_is_one_line(
    frozen: JudgeServer,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    manner: str,
    words: tuple[str, ...],
    message: str,
):
    frozen.manner = manner
    status, text = babylon(capsys, monkeypatch, *words)
    assert status == 1 and message in text and "Traceback" not in text and KEY not in text
