"""The RULER scorer against a real server: scores by name, cached, in orders, in parts."""

import msgspec
import pytest

from babylon_rl.scoring.groups import SCORED, UNJUDGED, score_window
from babylon_rl.scoring.local import PnlScorer
from babylon_rl.scoring.window_scorer import WindowToScore
from babylon_rl_tests.judge_reading import score_of, strict
from babylon_rl_tests.judge_server import JudgeServer
from babylon_rl_tests.scoring.judge.made import make_window, outcomes

pytestmark = pytest.mark.anyio

PNLS = (40.0, -35.0, 5.0, 90.0)
HONEST = {f"agent-{i}": score_of(pnl) for i, pnl in enumerate(PNLS)}


def rewards(scored) -> dict[str, float]:
    return {member.agent_id: member.reward for member in scored.group.members}


async def test_rewards_are_the_judges_scores(judge: JudgeServer, ruler):
    scored = await (await ruler()).score(make_window(PNLS))
    assert scored.group.status == SCORED
    assert rewards(scored) == HONEST
    assert scored.group.scorer == "ruler" and "openai/test-judge" in scored.group.scorer_version
    assert scored.run.status == "judged" and scored.run.method == "ruler" and scored.run.calls == 1
    assert scored.run.spearman == pytest.approx(1.0) and scored.run.kendall == pytest.approx(1.0)
    assert [j.rank for j in scored.judgments] == [2, 4, 3, 1]
    assert [j.normalized_score for j in scored.judgments][3] == 1.0


async def test_the_trained_group_is_untouched_but_for_its_rewards(judge: JudgeServer, ruler):
    window = make_window(PNLS)
    judged = (await (await ruler()).score(window)).group
    local = score_window(window.episodes, PnlScorer(), 3)

    def bare(group):
        return [
            msgspec.structs.replace(member, reward=0.0, advantage=0.0, components={})
            for member in group.members
        ]

    assert bare(judged) == bare(local)
    text = msgspec.json.encode(judged).decode()
    assert "by its profit" not in text and "finds gold" not in text and "104" not in text


async def test_the_judge_sees_the_truth_once_and_no_ids(judge: JudgeServer, ruler):
    await (await ruler()).score(make_window(PNLS))
    (seen,) = judge.seen
    assert seen.text.count("AURUM finds gold") == 1
    assert seen.text.count('"market-1"') == 1
    assert len(strict(seen.messages)) == 4
    assert "agent-0" not in seen.text.replace("plan of agent-0", "")
    assert "Trade perpetuals" not in seen.text, "prompts stay at home"
    assert seen.body["response_format"]["json_schema"]["strict"] is True


async def test_a_second_scoring_costs_nothing_and_is_equal(judge: JudgeServer, ruler, rl):
    scorer = await ruler()
    first = await scorer.score(make_window(PNLS))
    again = await (await ruler()).score(make_window(PNLS))
    assert judge.calls == 1
    assert (again.run.calls, again.run.cached, again.run.cost_usd) == (0, 1, 0.0)
    assert msgspec.json.encode(first.group) == msgspec.json.encode(again.group)
    assert await rl.fetchval("SELECT count(*) FROM rl.judge_calls") == 1


@pytest.mark.parametrize(
    "change",
    [
        {"judge_model": "openai/other"},
        {"judge_temperature": 0.5},
        {"judge_episode_tokens": 200},
    ],
)
async def test_what_the_verdict_depends_on_asks_again(judge: JudgeServer, ruler, change):
    window = make_window(PNLS)
    await (await ruler()).score(window)
    if "judge_episode_tokens" in change:
        long = [msgspec.structs.replace(e, steps=e.steps * 30) for e in window.episodes]
        window = msgspec.structs.replace(window, episodes=long)
        await (await ruler()).score(window)
    before = judge.calls
    await (await ruler(**change)).score(window)
    assert judge.calls == before + 1


async def test_other_outcomes_or_another_rubric_ask_again(judge: JudgeServer, ruler, tmp_path):
    window = make_window(PNLS)
    await (await ruler()).score(window)
    await (await ruler()).score(msgspec.structs.replace(window, outcomes=outcomes(news=[])))
    rubric = tmp_path / "mine.txt"
    rubric.write_text("Only courage counts.")
    scored = await (await ruler(judge_rubric=rubric)).score(window)
    assert judge.calls == 3
    assert "Only courage counts." in judge.seen[-1].text
    assert scored.run.rubric == "mine.txt"


async def test_several_orders_are_averaged_and_their_spread_is_reported(judge: JudgeServer, ruler):
    judge.manner = "by_position"
    scored = await (await ruler(judge_orders=3, judge_alarm_correlation=-1.0)).score(make_window(PNLS))
    assert judge.calls == 3
    assert len({tuple(strict(seen.messages).values()) for seen in judge.seen}) == 3, "different orders"
    assert scored.run.orders == 3
    assert scored.run.spread > 0 and scored.run.flip_rate > 0
    judge.manner = "honest"
    honest = await (await ruler(judge_orders=3, judge_model="openai/b")).score(make_window(PNLS))
    assert honest.run.spread == 0 and honest.run.flip_rate == 0
    assert rewards(honest) == pytest.approx(HONEST)


async def test_equal_episodes_are_judged_once_and_alike(judge: JudgeServer, ruler):
    window = make_window((40.0, -35.0, 5.0))
    twin = msgspec.structs.replace(window.episodes[0], agent_id="twin")
    scored = await (await ruler()).score(msgspec.structs.replace(window, episodes=[*window.episodes, twin]))
    assert len(strict(judge.seen[0].messages)) == 3
    assert rewards(scored)["twin"] == rewards(scored)["agent-0"] == HONEST["agent-0"]


async def test_thin_and_unsettled_windows_are_not_judged(judge: JudgeServer, ruler):
    scorer = await ruler()
    assert (await scorer.score(make_window((1.0, 2.0)))).group.status == "thin"
    assert (await scorer.score(WindowToScore("2026-10-01T14:00", [], None))).group.status == "empty"
    without = msgspec.structs.replace(make_window(PNLS), outcomes=None)
    assert (await scorer.score(without)).group.status == "immature"
    assert judge.calls == 0


async def test_a_group_too_large_is_split_around_an_anchor(judge: JudgeServer, ruler):
    pnls = [float(10 * i - 60) for i in range(13)]
    scored = await (await ruler(judge_context_tokens=4500)).score(make_window(pnls))
    assert judge.calls > 1
    sizes = [len(strict(seen.messages)) for seen in judge.seen]
    assert sum(sizes) == 13 + len(sizes) - 1, "one shared anchor"
    assert rewards(scored) == pytest.approx({f"agent-{i}": score_of(p) for i, p in enumerate(pnls)})


async def test_a_judge_that_cannot_read_it_all_gets_halves(judge: JudgeServer, ruler):
    judge.manner = "fits:4"
    pnls = [float(10 * i - 40) for i in range(9)]
    scored = await (await ruler()).score(make_window(pnls))
    assert rewards(scored) == pytest.approx({f"agent-{i}": score_of(p) for i, p in enumerate(pnls)})
    before = judge.calls
    again = await (await ruler()).score(make_window(pnls))
    assert judge.calls == before and rewards(again) == rewards(scored), "also the refusal is remembered"


async def test_a_judge_that_cannot_read_two_fails_visibly(judge: JudgeServer, ruler):
    judge.manner = "too_long"
    scored = await (await ruler()).score(make_window(PNLS))
    assert scored.group.status == UNJUDGED and scored.group.members == []
    assert "cannot read" in scored.group.reason and "JUDGE_EPISODE_TOKENS" in scored.group.reason


async def test_dropout_leaves_out_at_most_its_share(judge: JudgeServer, ruler):
    pnls = [float(i) for i in range(10)]
    scored = await (await ruler(target_trajectories=24)).score(make_window(pnls))
    assert scored.run.dropped == 3 and len(scored.group.members) == 7
    assert len(strict(judge.seen[0].messages)) == 7
    again = await (await ruler(target_trajectories=24)).score(make_window(pnls))
    assert [m.agent_id for m in again.group.members] == [m.agent_id for m in scored.group.members]


async def test_a_flat_judge_is_asked_again_and_gives_a_group_without_spread(judge: JudgeServer, ruler):
    judge.manner = "flat"
    scored = await (await ruler()).score(make_window(PNLS))
    assert scored.group.status == "no_spread" and judge.calls == 2
    assert scored.run.status == "judged" and "all scores are equal" in scored.run.alarm
    checked = await (await ruler(scorer="ruler_with_heuristic_check")).score(make_window(PNLS))
    assert checked.group.status == SCORED and checked.run.method == "local pnl"
    assert sorted(rewards(checked).values())[0] == 0.25 and rewards(checked)["agent-3"] == 0.75
    still = make_window((0.0, 0.0, 0.0))
    assert (await (await ruler(judge_model="openai/b")).score(still)).run.alarm is None, (
        "nothing was at stake"
    )


async def test_a_proxy_of_the_environment_is_not_used_for_a_private_judge(
    judge: JudgeServer, ruler, monkeypatch: pytest.MonkeyPatch
):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    scored = await (await ruler()).score(make_window(PNLS))
    assert scored.group.status == SCORED
