"""The training batch: exactly what one day trains, selected, scanned for leaks, and frozen under its hash.

A batch is built from the day's scored groups. Members of our policies whose calls carry tokens and log-
probabilities, or get them from the checkpoint that answered, are selected with the advantages they got in
their whole group; every call that is left out is counted with its reason. Once a day has been trained its
batch never changes: building it again returns the frozen one and says what is new.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Any, Literal

import asyncpg

from babylon_rl import windows
from babylon_rl.outcomes.market import load_outcomes
from babylon_rl.records.store import Artifact, ArtifactStore
from babylon_rl.scoring.groups import from_records
from babylon_rl.training.batch_records import (
    EMPTY,
    KIND,
    READY,
    TrainingBatch,
    describe,
    freeze_batch,
    load_batch,
)
from babylon_rl.training.chosen_calls import Chosen, choose, leaks_of
from babylon_rl.training.diagnostics import SignalRules, diagnose
from babylon_rl.training.diagnostics import refusal as weak_signal
from babylon_rl.training.eligibility import Eligibility
from babylon_rl.training.evidence import gather
from babylon_rl.training.leaks import Leak
from babylon_rl.training.payments import Payment, first_payments
from babylon_rl.training.residuals import Residuals, one_at_a_time, residuals_for
from babylon_rl.training.selection import Selection

__all__ = [
    "EMPTY",
    "KIND",
    "READY",
    "BatchRules",
    "TrainingBatch",
    "build_batch",
    "build_side_batch",
    "freeze_batch",
    "load_batch",
]

_GROUPS = """
SELECT window_id, group_uri FROM rl.window_state
 WHERE window_id = ANY($1::text[]) AND group_status = 'scored' AND group_uri IS NOT NULL ORDER BY window_id
"""


@dataclass(frozen=True)
class BatchRules:
    """What a day must offer to be trained."""

    min_groups: int = 10
    min_episodes: int = 100
    signal: SignalRules = SignalRules()
    takes: Eligibility = Eligibility()
    credit: Literal["decision", "episode"] = "decision"
    """``decision`` trains a call with the advantage of the decision it was made for, where the scorer rewards
    decisions; ``episode`` trains all calls of an agent's hour with the hour's."""
    residuals: bool = False
    """Whether it also pays what resolutions have added to windows of earlier days."""


async def build_batch(
    rl: asyncpg.Connection,
    store: ArtifactStore,
    day: str,
    rules: BatchRules | None = None,
    selection: Selection | None = None,
) -> TrainingBatch:
    """Build and store a day's batch, or return the frozen one of a day that has been trained.

    Args:
        selection: which episodes are wanted; all by default.

    Raises:
        UnknownDayError: ``day`` is no day.
        ArtifactError: a scored group's file is missing or altered.
    """
    rules = rules or BatchRules()
    async with one_at_a_time(rl) if rules.residuals else nullcontext():
        built = await _build(rl, store, day, windows.windows_of_day(day), rules, selection, daily=True)
        config = asdict(rules)
        return await freeze_batch(rl, store, day, built.artifact, built.summary, config, built.payments)


async def build_side_batch(
    rl: asyncpg.Connection,
    store: ArtifactStore,
    name: str,
    window_ids: Sequence[str],
    rules: BatchRules,
    selection: Selection | None = None,
) -> TrainingBatch:
    """Build and store the batch of a side branch: chosen windows, and no day's batch, whatever their day.

    Args:
        name: what people call it; stands where a day's batch has its day.

    Raises:
        ArtifactError: a scored group's file is missing or altered.
    """
    built = await _build(rl, store, name, window_ids, rules, selection)
    return describe(built.summary, built.artifact.uri)


@dataclass(frozen=True)
class _Built:
    artifact: Artifact
    summary: dict[str, Any]
    """The first record of the artifact."""
    payments: list[Payment]


async def _build(
    rl: asyncpg.Connection,
    store: ArtifactStore,
    name: str,
    window_ids: Sequence[str],
    rules: BatchRules,
    wanted: Selection | None,
    *,
    daily: bool = False,
) -> _Built:
    """Store what the windows give and, for a day, what resolutions have added to earlier ones."""
    scored = [from_records(store.get(row["group_uri"])) for row in await rl.fetch(_GROUPS, list(window_ids))]
    evidence = await gather(rl, scored, rules.takes, wanted)
    by_decision = rules.credit == "decision"
    own = choose(evidence.groups, rules.takes, evidence.behind, by_decision=by_decision)
    found = diagnose(evidence.groups, own.episodes) | evidence.figures
    leaks = [
        leak
        for group in evidence.groups
        for leak in leaks_of(group.window_id, await load_outcomes(rl, group.window_id), own.episodes)
    ]
    reason = _refusal(len(evidence.groups), own, leaks, rules) or weak_signal(found, rules.signal)
    residuals = Residuals()
    if daily and not reason:
        room = None if wanted is None or wanted.cap is None else wanted.cap - len(own.episodes)
        takes = (rules.takes, evidence.behind)
        residuals = await residuals_for(rl, store, name, *takes, wanted=rules.residuals, room=room)
        reason = _leaking(residuals.leaks)
    chosen = own + residuals.chosen
    summary = {
        "day": name,
        "status": EMPTY if reason else READY,
        "reason": reason,
        "groups": len(chosen.groups),
        "episodes": len(chosen.episodes),
        "calls": chosen.calls,
        "dropped": dict(sorted((chosen.dropped + evidence.dropped).items())),
        "confirmed": evidence.found,
        "policy_versions": dict(sorted(chosen.versions.items())),
        "leaks": [asdict(leak) for leak in [*leaks, *residuals.leaks]],
        "diagnostics": found,
    }
    if evidence.without_logprobs:
        summary["without_logprobs"] = evidence.without_logprobs
    if residuals.figures:
        summary["residuals"] = residuals.figures
    artifact = store.put(KIND, name, [summary, *([] if reason else chosen.episodes)])
    payments = [] if reason else [*first_payments(scored, own.groups), *residuals.payments]
    return _Built(artifact, summary, payments)


def _refusal(groups: int, chosen: Chosen, leaks: Sequence[Leak], rules: BatchRules) -> str:
    """Why the day is not trained; empty when it is."""
    if leaks:
        return _leaking(leaks)
    if len(chosen.groups) < rules.min_groups:
        return f"{len(chosen.groups)} trainable groups of at least {rules.min_groups} ({groups} scored)"
    if len(chosen.episodes) < rules.min_episodes:
        return f"{len(chosen.episodes)} trainable episodes of at least {rules.min_episodes}"
    return ""


def _leaking(leaks: Sequence[Leak]) -> str:
    if not leaks:
        return ""
    first = leaks[0]
    return f"{len(leaks)} leaks, the first in {first.window_id} of agent {first.agent_id}: {first.kind}"
