"""Where judgments are kept: their truth and history in `rl`, and as the game's projection in its own tables.

`reward_judgments` has one row per trajectory; an episode's score is that of all its rows, and a later
judgment replaces an earlier one there. Rows of other writers are left alone. `updatedAt` is not touched: a
reward is no news about what was recorded.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import asyncpg
import msgspec

from babylon_rl.scoring.judge.rubric import CRITERIA
from babylon_rl.scoring.window_scorer import JudgeRun, Judgment, ScoredWindow

_OURS = "babylon-rl-"

_RUN = """
INSERT INTO rl.judge_runs (window_id, scorer, method, judge_model, rubric_sha256, group_sha256, status,
       reason, episodes, dropped, orders, spread, flip_rate, canaries, canary_score, canary_failed, alarm,
       spearman, kendall, calls, cached, input_tokens, output_tokens, cost_usd, seconds)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22,
        $23, $24, $25) RETURNING id
"""
_JUDGMENT = """
INSERT INTO rl.judgments (run_id, window_id, agent_id, trajectory_ids, score, normalized_score, rank,
       components, spread, reasoning, criteria)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
"""
_SCORES = """
UPDATE rl.scores SET method = $3, judge_model = $4, rubric_sha256 = $5, cost_usd = $6
 WHERE window_id = $1 AND group_sha256 = $2
"""
# Joined to the trajectories that exist: a player may have been deleted, with all rows, since they were read.
_PROJECT = """
INSERT INTO "reward_judgments" AS ours
       ("id", "trajectoryId", "judgeModel", "judgeVersion", "overallScore", "componentScoresJson", "rank",
        "normalizedScore", "groupId", "reasoning", "criteriaJson", "judgedAt")
SELECT $1 || t."trajectoryId", t."trajectoryId", $3, $4, $5, $6, $7, $8, $9, $10, $11, $12
  FROM "trajectories" t WHERE t."trajectoryId" = ANY($2::text[])
ON CONFLICT ("trajectoryId") DO UPDATE
   SET "judgeModel" = excluded."judgeModel", "judgeVersion" = excluded."judgeVersion",
       "overallScore" = excluded."overallScore", "componentScoresJson" = excluded."componentScoresJson",
       "rank" = excluded."rank", "normalizedScore" = excluded."normalizedScore",
       "groupId" = excluded."groupId", "reasoning" = excluded."reasoning",
       "criteriaJson" = excluded."criteriaJson", "judgedAt" = excluded."judgedAt"
 WHERE starts_with(ours."id", $1)
"""
_REWARD = """
UPDATE "trajectories" SET "aiJudgeReward" = $2, "aiJudgeReasoning" = $3, "judgedAt" = $4
 WHERE "trajectoryId" = ANY($1::text[])
"""
_LATEST = """
SELECT r.id, r.judge_model, r.rubric_sha256, r.method, j.agent_id, j.score
  FROM rl.judgments j JOIN (
       SELECT * FROM rl.judge_runs WHERE window_id = $1 AND status = 'judged' ORDER BY id DESC LIMIT 1) r
    ON r.id = j.run_id
"""


class EarlierScores(msgspec.Struct, frozen=True):
    """The last judgment of a window."""

    judge_model: str
    rubric_sha256: str
    method: str
    scores: dict[str, float]
    """By agent."""


async def store_run(rl: asyncpg.Connection, scored: ScoredWindow, group_sha256: str | None) -> int | None:
    """Keeps how a window was judged, and its judgments; returns the run's number, None without a judge.

    Call it in the transaction that stores the scores, after them.
    """
    run = scored.run
    if run is None:
        if group_sha256 is not None:
            await rl.execute(_SCORES, scored.group.window_id, group_sha256, scored.method, None, None, 0.0)
        return None
    number = await rl.fetchval(
        _RUN,
        run.window_id,
        run.scorer,
        run.method,
        run.judge_model,
        run.rubric_sha256,
        group_sha256,
        run.status,
        run.reason[:1000],
        run.episodes,
        run.dropped,
        run.orders,
        run.spread,
        run.flip_rate,
        run.canaries,
        run.canary_score,
        run.canary_failed,
        run.alarm,
        run.spearman,
        run.kendall,
        run.calls,
        run.cached,
        run.input_tokens,
        run.output_tokens,
        run.cost_usd,
        run.seconds,
    )
    await rl.executemany(
        _JUDGMENT,
        [
            (number, run.window_id, j.agent_id, j.trajectory_ids, j.score, j.normalized_score, j.rank)
            + (j.components, j.spread, j.reasoning, _criteria(run))
            for j in scored.judgments
        ],
    )
    if group_sha256 is not None and scored.judgments:
        share = run.cost_usd / len(scored.judgments)
        await rl.execute(
            _SCORES, run.window_id, group_sha256, run.method, run.judge_model, run.rubric_sha256, share
        )
    return number


async def project(game: asyncpg.Connection, scored: ScoredWindow, group_sha256: str) -> int:
    """Shows the judgments of a window to the game; returns how many trajectories have one.

    In one transaction of its own, which may be repeated.
    """
    run = scored.run
    if run is None or not scored.judgments:
        return 0
    now = datetime.now(UTC)
    group_id = f"{run.window_id}:{group_sha256[:16]}"
    async with game.transaction():
        for judgment in scored.judgments:
            await game.execute(
                _PROJECT,
                _OURS,
                judgment.trajectory_ids,
                run.judge_model,
                scored.group.scorer_version,
                judgment.score,
                _json(judgment.components),
                judgment.rank,
                judgment.normalized_score,
                group_id,
                judgment.reasoning,
                _json(_criteria(run)),
                now,
            )
            await game.execute(_REWARD, judgment.trajectory_ids, judgment.score, judgment.reasoning, now)
    return sum(len(judgment.trajectory_ids) for judgment in scored.judgments)


async def earlier_scores(rl: asyncpg.Connection, window_id: str) -> EarlierScores | None:
    """Returns the last judgment of a window that is stored, None if it was never judged."""
    rows = await rl.fetch(_LATEST, window_id)
    if not rows:
        return None
    first = rows[0]
    return EarlierScores(
        first["judge_model"],
        first["rubric_sha256"],
        first["method"] or "",
        {row["agent_id"]: row["score"] for row in rows},
    )


def in_common(first: dict[str, float], second: Sequence[Judgment]) -> tuple[list[float], list[float]]:
    """Returns the scores of the agents that both have, in one order."""
    pairs = [(first[j.agent_id], j.score) for j in second if j.agent_id in first]
    return [a for a, _ in pairs], [b for _, b in pairs]


def _criteria(run: JudgeRun) -> dict[str, Any]:
    return {
        "scorer": run.scorer,
        "method": run.method,
        "rubric": run.rubric,
        "rubricSha256": run.rubric_sha256,
        "criteria": list(CRITERIA),
        "orders": run.orders,
    }


def _json(value: Any) -> str:
    return msgspec.json.encode(value, order="deterministic").decode()
