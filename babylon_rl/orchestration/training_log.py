"""What a training over windows says: the lines of an iteration and the closing summary, as in the seeds."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from babylon_rl.orchestration.window_training import Trained
from babylon_rl.scoring.groups import ScoredGroup
from babylon_rl.settings import Settings

RULE = "=" * 60


@dataclass
class Summary:
    """What a loop did."""

    trained: list[Trained] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    stopped: bool = False


def describe(groups: Sequence[ScoredGroup], scorer: str) -> Iterator[str]:
    """Says of each window how its agents did, in the words of the seeds."""
    name = "RULER scores" if scorer.startswith("ruler") else f"{scorer} rewards"
    for group in groups:
        yield f"Processing {group.window_id}"
        yield f"  Found {group.agents} simultaneous agents"
        if not group.members:
            continue
        rewards = [member.reward for member in group.members]
        mean = sum(rewards) / len(rewards)
        yield f"  {name}: min={min(rewards):.2f}, max={max(rewards):.2f}, avg={mean:.2f}"
        best = max(group.members, key=lambda member: member.reward)
        pnl = f", P&L: ${best.attributed_pnl:,.2f}" if best.attributed_pnl is not None else ""
        yield f"  Best: {best.agent_id} (score: {best.reward:.2f}{pnl})"


def outcome(trained: Trained, number: int) -> str:
    """The line at the end of an iteration."""
    if trained.status == "no data":
        return f"Iteration {number}: nothing to train ({trained.reason}); still {trained.version}"
    how = "complete" if trained.status == "trained" else "was complete before"
    checkpoint = f"step {trained.step} ({trained.version})"
    return f"Iteration {number} {how}! Checkpoint: {checkpoint}, run {trained.run.run_id}"


def closing(settings: Settings, summary: Summary) -> Iterator[str]:
    """The summary of a loop, with the way to the trained model."""
    yield "TRAINING STOPPED" if summary.stopped else "TRAINING COMPLETE"
    yield RULE
    yield f"Checkpoints trained: {len(summary.trained)}"
    if summary.failed:
        yield f"Iterations failed: {len(summary.failed)}"
    if not summary.trained:
        return
    last = summary.trained[-1]
    remote = last.checkpoint.startswith("wandb-artifact:")
    yield f"Final step: {last.step}"
    yield "Inference endpoint:"
    here = f"{settings.gateway_address}/v1 (`babylon serve`)"
    yield f"  {settings.training_api_url if remote else here}"
    yield f"  Model: {last.checkpoint if remote else f'babylon-agent-{last.version}'}"
