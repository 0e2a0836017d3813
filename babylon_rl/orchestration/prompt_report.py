"""What same-prompt groups look like in the UI: a row per prompt, the rewards within them, what they cost."""

import dagster as dg

from babylon_rl.orchestration.charts import intervals_markdown
from babylon_rl.orchestration.reporting import Metadata, markdown_table
from babylon_rl.training.batch import TrainingBatch
from babylon_rl.training.batch_records import RESAMPLE

DRAWN = 20
_HEADERS = ("window", "agent", "answers", "mean reward", "best", "worst", "spread", "what the answers were")


def of_prompts(batch: TrainingBatch) -> Metadata:
    """Metadata of a batch of new answers, widest spread first; nothing for another grouping."""
    if batch.grouping != RESAMPLE or not batch.prompts:
        return {}
    prompts = sorted(batch.prompts, key=lambda one: (-(one["spread"] or 0.0), one["prompt"]))
    counts: dict[str, int] = {}
    for one in prompts:
        for outcome, count in one["outcomes"].items():
            counts[outcome] = counts.get(outcome, 0) + count
    drawn = [
        (f"{one['window_id']} {one['agent_id']}", one["mean"], one["worst"], one["best"])
        for one in prompts
        if one["mean"] is not None
    ][:DRAWN]
    title = f"Reward of each prompt's answers: mean, worst to best ({len(drawn)} widest of {len(prompts)})"
    return {
        "prompts/count": len(prompts),
        "cost/usd": batch.diagnostics.get("paid_usd", 0.0),
        "prompts": markdown_table(_HEADERS, [_row(one) for one in prompts]),
        "answers": markdown_table(("what the answer was", "answers"), sorted(counts.items())),
        "rewards within prompts": dg.MetadataValue.md(intervals_markdown(drawn, title)),
    }


def _row(one: dict) -> tuple:
    outcomes = ", ".join(f"{count} {name}" for name, count in one["outcomes"].items())
    figures = [one[name] for name in ("mean", "best", "worst", "spread")]
    return (one["window_id"], one["agent_id"], one["answers"], *figures, outcomes)
