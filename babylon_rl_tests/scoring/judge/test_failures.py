"""A judge that fails: retried where it can help, a clear message, and nothing scored by default."""

import asyncio
import socket
import time

import pytest
from pydantic import SecretStr

from babylon_rl.scoring.groups import SCORED, UNJUDGED
from babylon_rl.scoring.judge import client
from babylon_rl.scoring.judge.errors import JudgeSetupError
from babylon_rl_tests.judge_reading import score_of
from babylon_rl_tests.judge_server import KEY, JudgeServer
from babylon_rl_tests.scoring.judge.made import make_window

pytestmark = pytest.mark.anyio

PNLS = (40.0, -35.0, 5.0, 90.0)
HONEST = {f"agent-{i}": score_of(pnl) for i, pnl in enumerate(PNLS)}


def rewards(scored) -> dict[str, float]:
    return {member.agent_id: member.reward for member in scored.group.members}


async def arrived(judge: JudgeServer) -> None:
    while not judge.seen:  # noqa: ASYNC110 - the server runs in another thread
        await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    "manner",
    ["reordered", "strings", "fenced", "prose", "thinking", "no_schema", "no_temperature"],
)
async def test_what_can_be_read_is_not_asked_twice(judge: JudgeServer, ruler, manner: str):
    judge.manner = manner
    scored = await (await ruler()).score(make_window(PNLS))
    assert rewards(scored) == HONEST
    assert scored.run.calls == 1


@pytest.mark.parametrize(
    "manner",
    ["duplicate", "missing", "extra", "out_of_range", "negative", "nan", "null", "words", "truncated", "cut"]
    + ["empty", "nothing", "refusal", "filtered", "no_choices", "html", "list"],
)
async def test_an_invalid_reply_is_asked_for_again(judge: JudgeServer, ruler, rl, manner: str):
    judge.then(manner, manner)
    scored = await (await ruler()).score(make_window(PNLS))
    assert rewards(scored) == HONEST and scored.run.calls == 3
    assert "An earlier answer was not usable" in judge.seen[2].text
    assert judge.seen[0].text != judge.seen[1].text, "each request has names and a mark of its own"
    kinds = await rl.fetch(
        "SELECT status FROM rl.judge_calls WHERE judge_model = $1 ORDER BY id", "openai/test-judge"
    )
    assert kinds[-1]["status"] == "ok" and kinds[0]["status"] != "ok"


async def test_a_cut_answer_gets_more_room(judge: JudgeServer, ruler):
    judge.then("cut", "cut")
    await (await ruler()).score(make_window(PNLS))
    rooms = [seen.body["max_tokens"] for seen in judge.seen]
    assert rooms == [rooms[0], 2 * rooms[0], 4 * rooms[0]]


async def test_a_judge_that_never_answers_well_leaves_the_window_unjudged(judge: JudgeServer, ruler):
    judge.manner = "missing"
    scored = await (await ruler(judge_attempts=3)).score(make_window(PNLS))
    assert scored.group.status == UNJUDGED and scored.group.members == []
    assert "no usable answer in 3 attempts" in scored.group.reason and "missing id" in scored.group.reason
    assert (
        scored.run.status == "failed" and scored.run.calls == 3 and scored.run.reason == scored.group.reason
    )


@pytest.mark.parametrize("manner", ["rate_limited:", "overloaded", "broken", "drop"])
async def test_passing_trouble_is_waited_out(judge: JudgeServer, ruler, manner: str):
    judge.then(manner, manner)
    scored = await (await ruler()).score(make_window(PNLS))
    assert rewards(scored) == HONEST and scored.run.calls == 3


async def test_retry_after_is_honoured_by_everybody(judge: JudgeServer, ruler):
    scorer = await ruler()
    judge.then("rate_limited:0.6")
    windows = [make_window(PNLS, f"2026-10-01T{hour:02}:00") for hour in range(2)]
    first = asyncio.create_task(scorer.score(windows[0]))
    await arrived(judge)
    await asyncio.sleep(0.1)
    limited = judge.seen[0].at
    await scorer.score(windows[1])
    await first
    assert len(judge.seen) == 3
    assert all(seen.at - limited >= 0.55 for seen in judge.seen[1:])


async def test_a_wait_that_is_too_long_is_not_waited(judge: JudgeServer, ruler):
    judge.manner = "rate_limited:86400"
    started = time.monotonic()
    scored = await (await ruler()).score(make_window(PNLS))
    assert scored.group.status == UNJUDGED and "limits the rate" in scored.group.reason
    assert judge.calls == 1 and time.monotonic() - started < 60


@pytest.mark.parametrize("manner", ["hang", "drip"])
async def test_a_judge_that_hangs_is_left(judge: JudgeServer, ruler, rl, manner: str):
    judge.manner = manner
    scorer = await ruler(judge_timeout_seconds=0.3, judge_attempts=2, judge_input_price=1.0)
    scored = await scorer.score(make_window(PNLS))
    assert scored.group.status == UNJUDGED and "gave no answer in 0.3 s" in scored.group.reason
    assert judge.calls == 2
    assert await rl.fetchval("SELECT min(cost_usd) FROM rl.judge_calls") > 0, (
        "it may have worked, and be paid"
    )


async def test_an_answer_without_end_is_cut_off(judge: JudgeServer, ruler):
    judge.manner = "huge"
    scored = await (await ruler()).score(make_window(PNLS))
    assert scored.group.status == UNJUDGED and "more than 8 MiB" in scored.group.reason


async def test_an_unreachable_host_is_named(judge: JudgeServer, ruler):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    scorer = await ruler(judge_base_url=f"http://127.0.0.1:{port}/v1", judge_attempts=2)
    scored = await scorer.score(make_window(PNLS))
    assert scored.group.status == UNJUDGED
    assert "127.0.0.1 cannot be reached" in scored.group.reason and "JUDGE_BASE_URL" in scored.group.reason


async def test_a_dead_judge_does_not_take_every_windows_patience(
    judge: JudgeServer, ruler, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(client, "PAUSE", 0.2)
    judge.manner = "overloaded"
    scorer = await ruler(judge_attempts=2, judge_concurrency=1)
    found = [await scorer.score(make_window(PNLS, f"2026-10-01T{hour:02}:00")) for hour in range(5)]
    assert judge.calls == 6, "three windows tried twice, two did not try"
    assert all(scored.group.status == UNJUDGED for scored in found)
    assert "not tried" in found[4].group.reason
    judge.manner = "honest"
    await asyncio.sleep(0.25)
    assert (await scorer.score(make_window(PNLS))).group.status == SCORED


@pytest.mark.parametrize(
    ("manner", "message"),
    [
        ("wrong_key", "refused the key"),
        ("unknown_model", "knows no model 'test-judge'"),
        ("no_credit", "no credit left"),
    ],
)
async def test_a_wrong_setup_stops_at_once(judge: JudgeServer, ruler, rl, manner: str, message: str):
    judge.manner = manner
    with pytest.raises(JudgeSetupError, match=message) as caught:
        await (await ruler()).score(make_window(PNLS))
    assert judge.calls == 1 and KEY not in str(caught.value)
    assert await rl.fetchval("SELECT sum(cost_usd) FROM rl.judge_calls") == 0
    assert KEY not in str(await rl.fetch("SELECT problem FROM rl.judge_calls"))


async def test_redirects_are_not_followed(judge: JudgeServer, ruler):
    judge.manner = "redirect"
    scored = await (await ruler()).score(make_window(PNLS))
    assert scored.group.status == UNJUDGED and judge.calls == 1
    assert "307" in scored.group.reason


async def test_the_budget_is_a_hard_stop_and_what_was_scored_stays(judge: JudgeServer, ruler, rl):
    prices = {"judge_input_price": 100.0, "judge_output_price": 100.0}
    scorer = await ruler(judge_daily_budget_usd=0.5, **prices)
    found = [await scorer.score(make_window(PNLS, f"2026-10-01T{hour:02}:00")) for hour in range(6)]
    scored = [s for s in found if s.group.status == SCORED]
    stopped = [s for s in found if s.group.status == UNJUDGED]
    assert scored and stopped
    assert "JUDGE_DAILY_BUDGET_USD" in stopped[0].group.reason
    assert await rl.fetchval("SELECT sum(cost_usd) FROM rl.judge_calls") <= 0.5
    assert judge.calls == len(scored)
    again = [
        await (await ruler(judge_daily_budget_usd=0.0, **prices)).score(make_window(PNLS, s.group.window_id))
        for s in scored
    ]
    assert [s.group.status for s in again] == [SCORED] * len(scored), "verdicts that are kept cost nothing"


async def test_the_budget_holds_for_requests_at_the_same_time(judge: JudgeServer, ruler, rl):
    judge.delay = 0.1
    scorer = await ruler(judge_daily_budget_usd=0.9, judge_input_price=100.0, judge_output_price=100.0)
    windows = [make_window(PNLS, f"2026-10-01T{hour:02}:00") for hour in range(8)]
    await asyncio.gather(*(scorer.score(window) for window in windows))
    assert 0 < judge.calls < 8
    assert await rl.fetchval("SELECT sum(cost_usd) FROM rl.judge_calls") <= 0.9


async def test_a_request_that_was_killed_stays_on_the_bill(judge: JudgeServer, ruler, rl):
    judge.manner = "hang"
    scorer = await ruler(judge_input_price=1.0)
    task = asyncio.create_task(scorer.score(make_window(PNLS)))
    await arrived(judge)
    booked = await rl.fetchrow("SELECT status, cost_usd FROM rl.judge_calls")
    assert booked["status"] == "reserved" and booked["cost_usd"] > 0
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    row = await rl.fetchrow("SELECT status, cost_usd FROM rl.judge_calls")
    assert (row["status"], row["cost_usd"]) == ("interrupted", booked["cost_usd"])


async def test_a_half_judged_window_goes_on_where_it_stopped(judge: JudgeServer, ruler):
    judge.then("honest", "honest", "bad_request", "honest")
    stopped = await (await ruler(judge_orders=4, judge_concurrency=1)).score(make_window(PNLS))
    assert stopped.group.status == UNJUDGED and judge.calls == 4
    resumed = await (await ruler(judge_orders=4)).score(make_window(PNLS))
    assert resumed.group.status == SCORED and judge.calls == 5
    assert (resumed.run.calls, resumed.run.cached) == (1, 3)


async def test_no_more_requests_at_once_than_allowed(judge: JudgeServer, ruler):
    judge.delay = 0.05
    scorer = await ruler(judge_concurrency=3)
    windows = [make_window(PNLS, f"2026-10-01T{hour:02}:00") for hour in range(12)]
    found = await asyncio.gather(*(scorer.score(window) for window in windows))
    assert all(scored.group.status == SCORED for scored in found)
    assert judge.most_at_once == 3


async def test_without_a_key_nothing_is_sent(judge: JudgeServer, ruler):
    with pytest.raises(JudgeSetupError, match="needs a key, and neither JUDGE_API_KEY nor OPENAI_API_KEY"):
        await ruler(judge_api_key=None, judge_base_url=None, judge_model="openai/gpt-4o-mini")
    judge.key = KEY
    scored = await (await ruler(judge_api_key=None, openai_api_key=SecretStr(KEY))).score(make_window(PNLS))
    assert scored.group.status == SCORED, "the seeds' name of the key counts"
