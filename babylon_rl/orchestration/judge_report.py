"""What the UI shows of a judged window: its best and worst episodes with the judge's reasons, and the cost.

These are the judge's words about the ground truth: they stay in Dagster's own database, and nothing of them
goes to W&B.
"""

from collections.abc import Sequence

import dagster as dg

from babylon_rl.orchestration.charts import histogram_markdown
from babylon_rl.orchestration.reporting import Metadata, markdown_table
from babylon_rl.orchestration.scoring_steps import StoredWindow
from babylon_rl.scoring.agreement import kendall_tau
from babylon_rl.scoring.judge.history import in_common
from babylon_rl.scoring.window_scorer import JudgeRun, Judgment

SHOWN = 3
"""Best and worst episodes."""


def judge_metadata(done: StoredWindow) -> Metadata:
    """Returns the metadata of a judged window; empty for a local scorer's."""
    run, judgments = done.scored.run, done.scored.judgments
    if run is None:
        return {}
    shown: Metadata = {
        "judge": f"{run.judge_model}, rubric {run.rubric} ({run.rubric_sha256[:12]})",
        "judge/method": run.method or run.reason,
        "judge/requests": run.calls,
        "judge/from_cache": run.cached,
        "judge/tokens": run.input_tokens + run.output_tokens,
        "judge/usd": run.cost_usd,
        "judge/dropped": run.dropped,
        "judge/spearman_pnl": run.spearman,
        "judge/kendall_pnl": run.kendall,
        "judge/order_spread": run.spread,
        "judge/flip_rate": run.flip_rate,
        "judge/canary_score": run.canary_score,
        "judge/doubt": run.alarm,
        "duration/judge_s": run.seconds,
    }
    if judgments:
        scores = [judgment.score for judgment in judgments]
        shown["judge/scores"] = dg.MetadataValue.md(
            histogram_markdown(scores, "scores of the judge", mark=None)
        )
        shown["judge/reasons"] = _reasons(judgments)
        shown |= _comparison(done, run)
    return shown


def _comparison(done: StoredWindow, run: JudgeRun) -> Metadata:
    """How this judgment compares with an earlier one by another judge, rubric or method."""
    earlier = done.earlier
    if earlier is None or (earlier.judge_model, earlier.rubric_sha256, earlier.method) == (
        run.judge_model,
        run.rubric_sha256,
        run.method,
    ):
        return {}
    before, now = in_common(earlier.scores, done.scored.judgments)
    tau = kendall_tau(before, now) if len(now) > 1 else None
    was = f"{earlier.judge_model}, rubric {earlier.rubric_sha256[:12]}, {earlier.method}"
    return {"judge/before": was, "judge/kendall_before": tau}


def _reasons(judgments: Sequence[Judgment]) -> dg.MarkdownMetadataValue | None:
    ordered = sorted(judgments, key=lambda judgment: (judgment.rank, judgment.agent_id))
    chosen = ordered if len(ordered) <= 2 * SHOWN else [*ordered[:SHOWN], *ordered[-SHOWN:]]
    return markdown_table(
        ("rank", "agent", "score", "spread", "profit", "timing", "risk", "opportunity", "the judge's reason"),
        [
            (j.rank, j.agent_id, j.score, j.spread)
            + tuple(j.components.get(name) for name in ("profit", "timing", "risk", "opportunity"))
            + (_as_code(j.reasoning),)
            for j in chosen
        ],
    )


def _as_code(text: str) -> str:
    """Text of a judge as inline code: no link, image or markup in it comes to life in the browser."""
    plain = " ".join(text.replace("`", "'").split())
    return f"`{plain}`" if plain else "–"
