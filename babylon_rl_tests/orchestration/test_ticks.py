"""What the readiness sensor requests, and what it remembers."""

from datetime import UTC, datetime, timedelta

import pytest

from babylon_rl.orchestration.readiness import WindowFacts, judge_window
from babylon_rl.orchestration.ticks import MAX_REQUESTS, Cursor, plan_tick
from babylon_rl.settings import Settings
from babylon_rl.windows import windows_between

SETTINGS = Settings(
    _env_file=None,
    min_agents_per_window=3,
    window_delay_minutes=5,
    thin_window_deadline_minutes=60,
    training_horizon="1h",
)
WINDOW = "2026-10-01T10:00"
END = datetime(2026, 10, 1, 11, tzinfo=UTC)


def facts(window_id: str = WINDOW, **values) -> WindowFacts:
    return WindowFacts(window_id, **{"rows": 40, "agents": 4, "fingerprint": "f1", "seen_at": END, **values})


def judge(window: WindowFacts, minutes_after_end: float):
    return judge_window(window, END + timedelta(minutes=minutes_after_end), SETTINGS)


@pytest.mark.parametrize(
    ("window", "minutes", "verdict"),
    [
        (facts(), 4, "waiting"),
        (facts(), 5, "ready"),
        (facts(agents=2), 30, "waiting"),
        (facts(agents=2), 60, "thin"),
        (WindowFacts(WINDOW), 59, "waiting"),
        (WindowFacts(WINDOW), 61, "thin"),
        (facts(group_status="scored", processed_at=END + timedelta(minutes=6)), 90, "done"),
        (facts(group_status="thin", agents=2, processed_at=END + timedelta(minutes=61)), 90, "done"),
        (facts(group_status="immature", processed_at=END + timedelta(minutes=6)), 30, "waiting"),
        (facts(group_status="immature", processed_at=END + timedelta(minutes=6)), 65, "matured"),
        # rows that were read again after the window was processed
        (facts(group_status="scored", processed_at=END - timedelta(minutes=1)), 90, "ready"),
    ],
)
def test_the_verdict_on_a_window(window: WindowFacts, minutes: float, verdict: str):
    found = judge(window, minutes)
    assert found.verdict == verdict
    assert found.reason


def test_the_run_key_changes_with_content_and_stage():
    first = judge(facts(), 10).run_key
    late_row = judge(facts(fingerprint="f2"), 10).run_key
    matured = judge(facts(group_status="immature", processed_at=END + timedelta(minutes=6)), 90).run_key
    assert len({first, late_row, matured}) == 3


def test_a_day_of_ready_windows_is_requested_in_bounded_portions_and_never_twice():
    window_ids = windows_between(END - timedelta(hours=30), END)
    now = END + timedelta(hours=3)
    verdicts = [judge_window(facts(w), now, SETTINGS) for w in window_ids]

    first = plan_tick(verdicts, Cursor(), now)
    assert len(first.requests) == MAX_REQUESTS
    assert first.cursor.watermark == window_ids[MAX_REQUESTS]
    assert "6 more at the next ticks" in first.reason

    used = {v.run_key for v in first.requests}
    second = plan_tick(verdicts, first.cursor, now, used_keys=used)
    assert [v.facts.window_id for v in second.requests] == window_ids[MAX_REQUESTS:]
    assert second.cursor.watermark == window_ids[-1]

    third = plan_tick(verdicts, second.cursor, now, used_keys=used | {v.run_key for v in second.requests})
    assert third.requests == []
    assert "30 were requested earlier and are not done" in third.reason


def test_a_lost_cursor_requests_nothing_twice():
    verdicts = [judge(facts(), 10)]
    assert plan_tick(verdicts, Cursor(), END, used_keys={verdicts[0].run_key}).requests == []


def test_claimed_windows_are_left_alone_and_hold_the_watermark():
    plan = plan_tick([judge(facts(), 10)], Cursor(), END, claimed={WINDOW})
    assert plan.requests == []
    assert plan.cursor.watermark == WINDOW
    assert "1 claimed" in plan.reason


def test_rows_that_were_only_read_again_are_no_news():
    seen_again = judge(facts(group_status="scored", processed_at=END - timedelta(minutes=1)), 90)
    plan = plan_tick([seen_again], Cursor(), END, used_keys={seen_again.run_key})
    assert plan.requests == []
    assert plan.cursor.pending == []
    assert "1 done" in plan.reason


def test_the_reason_names_the_window_that_waits():
    plan = plan_tick([judge(facts(agents=2), 30)], Cursor(), END)
    assert f"{WINDOW}: 2 of 3 agents" in plan.reason


@pytest.mark.parametrize("text", [None, "", "not json", "[]", '{"pending": 3}'])
def test_an_unreadable_cursor_starts_anew(text: str | None):
    assert Cursor.load(text) == Cursor()


def test_a_cursor_survives_storage():
    cursor = Cursor(WINDOW, END.isoformat(), [WINDOW])
    assert Cursor.load(cursor.dump()) == cursor
