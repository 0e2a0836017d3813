"""Where judgments go: the truth and its history in `rl`, the latest one in the game's tables."""

import asyncpg
import msgspec
import pytest

from babylon_rl.database.connection import connect
from babylon_rl.scoring.judge.history import earlier_scores, in_common, project, store_run
from babylon_rl.scoring.window_scorer import ScoredWindow
from babylon_rl_tests.game_rows import WINDOW, add_trajectory, insert
from babylon_rl_tests.judge_reading import score_of
from babylon_rl_tests.judge_server import JudgeServer
from babylon_rl_tests.scoring.judge.made import make_window

pytestmark = pytest.mark.anyio

PNLS = (40.0, -35.0, 5.0)
SHA = "c0ffee" * 10 + "0000"


async def recorded(game: asyncpg.Connection):
    """A window whose agents have two rows each in the game."""
    ids = {
        f"agent-{i}": [await add_trajectory(game, f"agent-{i}") for _ in range(2)] for i in range(len(PNLS))
    }
    window = make_window(PNLS)
    episodes = [msgspec.structs.replace(e, trajectory_ids=ids[e.agent_id]) for e in window.episodes]
    return msgspec.structs.replace(window, episodes=episodes), ids


async def stored(rl: asyncpg.Connection, scored: ScoredWindow, sha: str = SHA) -> None:
    await rl.executemany(
        "INSERT INTO rl.scores (window_id, agent_id, scorer, group_sha256, reward, advantage)"
        " VALUES ($1, $2, $3, $4, $5, $6)",
        [
            (scored.group.window_id, m.agent_id, scored.group.scorer, sha, m.reward, m.advantage)
            for m in scored.group.members
        ],
    )
    await store_run(rl, scored, sha)


async def test_each_score_carries_method_judge_rubric_and_cost(judge: JudgeServer, ruler, rl):
    window, _ = await recorded(rl)
    scored = await (await ruler(judge_input_price=1.0, judge_output_price=2.0)).score(window)
    await stored(rl, scored)
    rows = await rl.fetch("SELECT * FROM rl.scores ORDER BY agent_id")
    assert [row["reward"] for row in rows] == [score_of(pnl) for pnl in PNLS]
    assert {row["method"] for row in rows} == {"ruler"}
    assert {row["judge_model"] for row in rows} == {"openai/test-judge"}
    assert {row["rubric_sha256"] for row in rows} == {scored.run.rubric_sha256}
    assert (
        sum(row["cost_usd"] for row in rows) == pytest.approx(scored.run.cost_usd) and scored.run.cost_usd > 0
    )
    run = await rl.fetchrow("SELECT * FROM rl.judge_runs")
    assert (run["status"], run["episodes"], run["calls"], run["group_sha256"]) == ("judged", 3, 1, SHA)
    judgments = await rl.fetch("SELECT * FROM rl.judgments ORDER BY rank")
    assert [row["agent_id"] for row in judgments] == ["agent-0", "agent-2", "agent-1"]
    assert judgments[0]["components"] == dict.fromkeys(("profit", "timing", "risk", "opportunity"), 0.5)
    assert judgments[0]["criteria"]["rubric"] == "built-in 1"


async def test_the_game_sees_the_latest_judgment_on_every_row(judge: JudgeServer, ruler, rl, dsn: str):
    window, ids = await recorded(rl)
    scored = await (await ruler()).score(window)
    before = await rl.fetchval('SELECT max("updatedAt") FROM "trajectories"')
    game = await connect(dsn, role="babylon_judge")
    assert await project(game, scored, SHA) == 6
    again = msgspec.structs.replace(
        scored, judgments=[msgspec.structs.replace(j, score=j.score / 2) for j in scored.judgments]
    )
    assert await project(game, again, SHA) == 6
    await game.close()
    rows = await rl.fetch('SELECT * FROM "reward_judgments" ORDER BY "trajectoryId"')
    assert len(rows) == 6, "one per trajectory"
    found = {row["trajectoryId"]: row for row in rows}
    best = found[ids["agent-0"][0]]
    assert best["overallScore"] == score_of(40.0) / 2
    assert (best["rank"], best["normalizedScore"], best["judgeModel"]) == (1, 1.0, "openai/test-judge")
    assert best["groupId"] == f"{WINDOW}:{SHA[:16]}" and best["reasoning"] == "by its profit"
    assert "rubricSha256" in best["criteriaJson"] and "timing" in best["componentScoresJson"]
    row = await rl.fetchrow('SELECT * FROM "trajectories" WHERE "trajectoryId" = $1', ids["agent-0"][1])
    assert row["aiJudgeReward"] == score_of(40.0) / 2 and row["aiJudgeReasoning"] == "by its profit"
    assert row["judgedAt"] is not None
    assert await rl.fetchval('SELECT max("updatedAt") FROM "trajectories"') == before


async def test_rows_of_others_and_deleted_rows_are_left_alone(judge: JudgeServer, ruler, rl):
    window, ids = await recorded(rl)
    foreign, gone = ids["agent-0"][0], ids["agent-1"][0]
    await insert(
        rl,
        "reward_judgments",
        id="theirs",
        trajectoryId=foreign,
        judgeModel="heuristic",
        judgeVersion="1",
        overallScore=0.3,
        reasoning="theirs",
        criteriaJson="{}",
    )
    await rl.execute('DELETE FROM "trajectories" WHERE "trajectoryId" = $1', gone)
    await project(rl, await (await ruler()).score(window), SHA)
    found = {
        row["trajectoryId"]: row["reasoning"] for row in await rl.fetch('SELECT * FROM "reward_judgments"')
    }
    assert found[foreign] == "theirs" and gone not in found and len(found) == 5


async def test_a_failure_is_kept_without_scores(judge: JudgeServer, ruler, rl):
    judge.manner = "refusal"
    scored = await (await ruler(judge_attempts=1)).score(make_window(PNLS))
    await store_run(rl, scored, None)
    run = await rl.fetchrow("SELECT * FROM rl.judge_runs")
    assert run["status"] == "failed" and "refused" in run["reason"] and run["calls"] == 1
    assert await project(rl, scored, SHA) == 0
    assert await rl.fetchval("SELECT count(*) FROM rl.judgments") == 0


async def test_history_keeps_every_scoring_and_compares_with_the_last(judge: JudgeServer, ruler, rl):
    window, _ = await recorded(rl)
    assert await earlier_scores(rl, WINDOW) is None
    await stored(rl, await (await ruler()).score(window))
    judge.manner = "inverted"
    second = await (await ruler(judge_model="openai/other", judge_alarm_correlation=-1.0)).score(window)
    last = await earlier_scores(rl, WINDOW)
    assert last is not None and last.judge_model == "openai/test-judge"
    before, now = in_common(last.scores, second.judgments)
    assert before == [score_of(pnl) for pnl in PNLS] and now == [1 - score for score in before]
    await stored(rl, second, "beef" * 16)
    assert await rl.fetchval("SELECT count(*) FROM rl.judge_runs") == 2
    assert await rl.fetchval("SELECT count(*) FROM rl.scores") == 6


@pytest.mark.parametrize("role", ["babylon_reader", "babylon_trainer", "babylon_gateway"])
async def test_what_judges_said_is_the_judges_alone(dsn: str, role: str):
    connection = await connect(dsn, role=role)
    try:
        for table in ("rl.judgments", "rl.judge_cache"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.fetch(f"SELECT * FROM {table}")
        if role == "babylon_reader":
            assert await connection.fetch("SELECT * FROM rl.judge_runs") == []
            assert await connection.fetch("SELECT * FROM rl.judge_costs") == []
    finally:
        await connection.close()


async def test_costs_are_told_by_day_judge_and_window(judge: JudgeServer, ruler, rl):
    scorer = await ruler(judge_input_price=1.0)
    for hour in range(2):
        await scorer.score(make_window(PNLS, f"2026-10-01T{hour:02}:00"))
    rows = await rl.fetch("SELECT * FROM rl.judge_costs ORDER BY window_id")
    assert [row["window_id"] for row in rows] == ["2026-10-01T00:00", "2026-10-01T01:00"]
    assert all(row["calls"] == 1 and row["cost_usd"] > 0 and row["input_tokens"] > 0 for row in rows)
