"""A day's batch of same-prompt groups: the parent answers the day's recorded prompts anew.

Only windows whose orders have matured are asked about, so an answer is priced against what really happened
afterwards. The parent is the checkpoint that the day's training starts from: the groups are on-policy. What
was asked, answered and earned is in the batch, and a repetition with the same prompts, parent and settings
finds that batch instead of asking again.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from typing import Any

import numpy as np

from babylon_rl.benchmark.replay import DECISION_BOUND, RecordedDecision
from babylon_rl.database.connection import Databases
from babylon_rl.deployment.paid_answers import PaidPolicy
from babylon_rl.deployment.recorded_prompts import recorded_decisions, settle_answers
from babylon_rl.outcomes.market import load_outcomes
from babylon_rl.outcomes.pricing import read_clock
from babylon_rl.policy.chat import ChatAnswer, Policy
from babylon_rl.policy.control_tokens import neutral_messages
from babylon_rl.records.store import ArtifactStore
from babylon_rl.training.batch import EMPTY, KIND, READY, BatchRules, TrainingBatch, freeze_batch
from babylon_rl.training.batch_records import RESAMPLE
from babylon_rl.training.conversion import TrainableEpisode
from babylon_rl.training.leaks import Leak, scan
from babylon_rl.training.resample import TOO_LONG, RecordedPrompt, Resampled, resample
from babylon_rl.windows import window_range, windows_of_day

HORIZONS = {"1h": timedelta(hours=1), "24h": timedelta(hours=24)}

_READY = """
SELECT window_id FROM rl.window_state WHERE window_id = ANY($1::text[]) AND group_status IS NOT NULL
 ORDER BY window_id
"""


@dataclass(frozen=True)
class ResampleRules:
    """How a day's prompts are asked."""

    prompts: int = 128
    answers: int = 8
    horizon: str = "1h"
    invalid_penalty: float = 0.25
    """Taken off an answer that is no order, or one that the account could not pay."""
    seed: int = 0


@dataclass(frozen=True)
class DayPrompts:
    """What of a day can be asked."""

    decisions: Sequence[RecordedDecision] = field(repr=False)
    windows: int
    immature: int
    """Windows whose orders are not valued yet."""
    leaks: Sequence[Leak] = ()
    left_out: Mapping[str, int] = field(default_factory=dict)
    """Prompts of matured windows that cannot be asked again, by reason."""

    @property
    def prompts(self) -> list[RecordedPrompt]:
        """As they are asked: other people's text in them holds no control token."""
        return [
            RecordedPrompt(
                one.id, one.window_id, one.agent_id, neutral_messages(one.messages), 1.0, one.max_tokens
            )
            for one in self.decisions
        ]


async def day_prompts(
    db: Databases, day: str, rules: ResampleRules, *, now: datetime | None = None
) -> DayPrompts:
    """A sample of the day's prompts, the same number of each window, no prompt of a window twice."""
    ready = [row["window_id"] for row in await db.rl.fetch(_READY, windows_of_day(day))]
    clock = await read_clock(db.game, now)
    horizon = HORIZONS[rules.horizon]
    mature = [name for name in ready if clock.has_passed(window_range(name)[1] + horizon)]
    per_window = -(-rules.prompts // max(1, len(mature)))
    chosen: list[RecordedDecision] = []
    leaks: list[Leak] = []
    left_out = Counter[str]()
    for window_id in mature:
        found = await recorded_decisions(db, window_id, left_out)
        distinct = {json.dumps(one.messages): one for one in found}
        sample = sorted(distinct.values(), key=lambda one: _rank(rules.seed, one.id))[:per_window]
        outcomes = await load_outcomes(db.rl, window_id)
        leaks += [leak for one in sample for leak in scan(window_id, one.agent_id, [one.messages], outcomes)]
        chosen += sample
    chosen = sorted(chosen, key=lambda one: _rank(rules.seed, one.id))[: rules.prompts]
    chosen = sorted(chosen, key=lambda one: (one.window_id, one.id))
    windows = len({one.window_id for one in chosen})
    return DayPrompts(chosen, windows, len(ready) - len(mature), leaks, dict(left_out))


def key_of(parent: str, found: DayPrompts, rules: ResampleRules, needed: BatchRules) -> str:
    """Two batches with one key asked the same policy the same prompts in the same way.

    A leak that was found since makes another key: the batch of before is not trained any more.
    """
    prompts = [(one.id, one.messages) for one in found.decisions]
    leaks = [asdict(leak) for leak in found.leaks]
    asked = [parent, asdict(rules), asdict(needed), prompts, leaks]
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


async def build_resampled(
    db: Databases,
    store: ArtifactStore,
    day: str,
    policy: Policy,
    found: DayPrompts,
    rules: ResampleRules,
    needed: BatchRules,
    *,
    now: datetime | None = None,
) -> TrainingBatch:
    """Asks the policy, prices its answers, and freezes the day's batch.

    Raises:
        PolicyError: The policy does not answer.
    """
    by_id = {one.id: one for one in found.decisions}
    outcomes: dict[str, Counter[str]] = {one.id: Counter() for one in found.decisions}

    async def rewards(pairs: Sequence[tuple[RecordedPrompt, ChatAnswer]]) -> list[float | None]:
        decisions = [by_id[prompt.id] for prompt, _ in pairs]
        answers = [answer for _, answer in pairs]
        settled = await settle_answers(db.game, decisions, answers, horizon=rules.horizon, now=now)
        for one, answered in zip(decisions, settled, strict=True):
            outcomes[one.id][answered.outcome] += 1
        return [
            _reward(one.equity, answered.outcome, answered.value, rules)
            for one, answered in zip(decisions, settled, strict=True)
        ]

    asked = bool(found.decisions) and not found.leaks
    given = (
        await resample(policy, found.prompts, rules.answers, rewards, seed=rules.seed)
        if asked
        else Resampled([], {}, {})
    )
    bill = await policy.bill() if isinstance(policy, PaidPolicy) else {}
    dropped = Counter(given.dropped) + Counter(found.left_out)
    reason = _refusal(found, given, needed)
    summary = {
        "day": day,
        "status": EMPTY if reason else READY,
        "reason": reason,
        "groups": len({episode.window_id for episode in given.episodes}),
        "episodes": len(given.episodes),
        "calls": len(given.episodes),
        "dropped": dict(sorted(dropped.items())),
        "policy_versions": given.versions,
        "leaks": [asdict(leak) for leak in found.leaks],
        "diagnostics": _diagnostics(found, given) | bill,
        "grouping": RESAMPLE,
        "prompts": [_prompt_record(one, given, outcomes[one.id]) for one in found.decisions] if asked else [],
    }
    records = [] if reason else [_record(episode, given) for episode in given.episodes]
    artifact = store.put(KIND, day, [summary, *records])
    config = {
        **asdict(needed),
        "resample_key": key_of(policy.version, found, rules, needed),
        "resample": asdict(rules),
    }
    return await freeze_batch(db.rl, store, day, artifact, summary, config)


def _reward(equity: float, outcome: str, value: float, rules: ResampleRules) -> float | None:
    """The return on the account of the moment, as decision replay counts it; None for what has no price."""
    if outcome == "unpriced":
        return None
    if outcome in ("invalid", "refused"):
        return -rules.invalid_penalty
    return float(np.clip(value / max(equity, 1.0), -DECISION_BOUND, DECISION_BOUND))


def _refusal(found: DayPrompts, given: Resampled, needed: BatchRules) -> str:
    if found.leaks:
        one = found.leaks[0]
        return f"{len(found.leaks)} leaks, the first in {one.window_id} of agent {one.agent_id}: {one.kind}"
    if not found.decisions:
        waiting = f" ({found.immature} windows have not matured yet)" if found.immature else ""
        return f"no matured window of the day holds a prompt that can be asked again{waiting}"
    groups = len({episode.window_id for episode in given.episodes})
    if groups < needed.min_groups:
        lost = ", ".join(f"{count} {name}" for name, count in given.dropped.items())
        why = f"; answers left out: {lost}" if lost else ""
        return f"{groups} prompts with a spread of rewards, of at least {needed.min_groups}{why}"
    if len(given.episodes) < needed.min_episodes:
        return f"{len(given.episodes)} trainable answers of at least {needed.min_episodes}"
    return ""


def _diagnostics(found: DayPrompts, given: Resampled) -> dict[str, float]:
    spreads = [float(np.std(rewards)) for rewards in given.rewards.values() if len(rewards) > 1]
    means = [float(np.mean(rewards)) for rewards in given.rewards.values() if rewards]
    return {
        "prompts": float(len(found.decisions)),
        "windows": float(found.windows),
        "immature_windows": float(found.immature),
        "answers_priced": float(sum(map(len, given.rewards.values()))),
        "reward_mean": float(np.mean(means)) if means else 0.0,
        "reward_std_within": float(np.mean(spreads)) if spreads else 0.0,
    }


def _record(episode: TrainableEpisode, given: Resampled) -> dict[str, Any]:
    (call,) = episode.calls
    prompt = episode.window_id.partition("/")[2]
    agent_id, _, number = episode.agent_id.rpartition("#")
    return {
        "window_id": episode.window_id,
        "agent_id": agent_id,
        "reward": given.rewards[prompt][int(number)],
        "advantage": episode.advantage,
        "trajectory_ids": [prompt.rpartition("/")[0]],
        "calls": [
            {
                "messages": list(call.messages),
                "content": call.content,
                "token_ids": list(call.token_ids),
                "logprobs": list(call.logprobs),
                "finish_reason": call.finish_reason,
                "policy_version": next(iter(given.versions)) if len(given.versions) == 1 else None,
            }
        ],
    }


def _prompt_record(one: RecordedDecision, given: Resampled, outcomes: Counter[str]) -> dict[str, Any]:
    """What became of a prompt; `outcomes` counts its answers as `replay.Answered` names them."""
    rewards = given.rewards.get(one.id, [])
    return {
        "window_id": one.window_id,
        "prompt": one.id,
        "agent_id": one.agent_id,
        "answers": sum(outcomes.values()),
        "mean": float(np.mean(rewards)) if rewards else None,
        "best": max(rewards, default=None),
        "worst": min(rewards, default=None),
        "spread": float(np.std(rewards)) if rewards else None,
        "outcomes": dict(sorted(outcomes.items())) or {TOO_LONG: 1},
    }


def _rank(seed: int, name: str) -> str:
    return hashlib.sha256(f"{seed}/{name}".encode()).hexdigest()
