"""The training batch: exactly what one day trains, selected, scanned for leaks, and frozen under its hash.

A batch is built from the day's scored groups. Members of our policies whose calls carry tokens and log-
probabilities, or get them from the checkpoint that answered, are selected with the advantages they got in
their whole group; every call that is left out is counted with its reason. Once a day has been trained its
batch never changes: building it again returns the frozen one and says what is new.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import asyncpg

from babylon_rl import windows
from babylon_rl.outcomes.market import load_outcomes
from babylon_rl.records.store import Artifact, ArtifactStore
from babylon_rl.scoring.groups import SCORED, ScoredGroup, from_records
from babylon_rl.training.batch_records import (
    EMPTY,
    KIND,
    READY,
    TrainingBatch,
    call_record,
    describe,
    freeze_batch,
    load_batch,
    member_record,
)
from babylon_rl.training.diagnostics import SignalRules, diagnose
from babylon_rl.training.diagnostics import refusal as weak_signal
from babylon_rl.training.eligibility import Eligibility, why_not
from babylon_rl.training.evidence import gather
from babylon_rl.training.leaks import Leak, scan
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
    artifact, summary = await _build(rl, store, day, windows.windows_of_day(day), rules, selection)
    return await freeze_batch(rl, store, day, artifact, summary, asdict(rules))


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
    artifact, summary = await _build(rl, store, name, window_ids, rules, selection)
    return describe(summary, artifact.uri)


async def _build(
    rl: asyncpg.Connection,
    store: ArtifactStore,
    name: str,
    window_ids: Sequence[str],
    rules: BatchRules,
    wanted: Selection | None,
) -> tuple[Artifact, dict[str, Any]]:
    """Store what the windows give; returns the file and the summary at its head."""
    groups = [from_records(store.get(row["group_uri"])) for row in await rl.fetch(_GROUPS, list(window_ids))]
    evidence = await gather(rl, groups, rules.takes, wanted)
    groups = evidence.groups
    selection = _select(groups, rules, evidence.behind)
    found = diagnose(groups, selection.episodes) | evidence.figures
    leaks = [leak for group in groups for leak in await _scan_group(rl, group, selection)]
    reason = _refusal(groups, selection, leaks, rules) or weak_signal(found, rules.signal)
    summary = {
        "day": name,
        "status": EMPTY if reason else READY,
        "reason": reason,
        "groups": len({episode["window_id"] for episode in selection.episodes}),
        "episodes": len(selection.episodes),
        "calls": sum(len(episode["calls"]) for episode in selection.episodes),
        "dropped": dict(sorted((selection.dropped + evidence.dropped).items())),
        "confirmed": evidence.found,
        "policy_versions": dict(sorted(selection.versions.items())),
        "leaks": [asdict(leak) for leak in leaks],
        "diagnostics": found,
    }
    if evidence.without_logprobs:
        summary["without_logprobs"] = evidence.without_logprobs
    return store.put(KIND, name, [summary, *([] if reason else selection.episodes)]), summary


@dataclass
class _Selection:
    episodes: list[dict[str, Any]] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)
    versions: Counter[str] = field(default_factory=Counter)


def _select(groups: Iterable[ScoredGroup], rules: BatchRules, behind: Mapping[str, int]) -> _Selection:
    selection = _Selection()
    for group in groups:
        if group.status != SCORED:
            continue
        for member in group.members:
            calls = []
            decided = rules.credit == "decision" and bool(member.call_decisions)
            for call, advantage in zip(member.calls, member.advantages_of_calls(), strict=True):
                paid = advantage if decided else member.advantage
                if reason := why_not(call, paid, rules.takes, behind):
                    selection.dropped[reason] += 1
                else:
                    selection.versions[str(call.policy_version or call.model)] += 1
                    calls.append(call_record(call, paid if decided else None))
            if calls:
                selection.episodes.append(member_record(group.window_id, member, calls))
    return selection


async def _scan_group(rl: asyncpg.Connection, group: ScoredGroup, selection: _Selection) -> list[Leak]:
    outcomes = await load_outcomes(rl, group.window_id)
    return [
        leak
        for episode in selection.episodes
        if episode["window_id"] == group.window_id
        for leak in scan(
            group.window_id, episode["agent_id"], (call["messages"] for call in episode["calls"]), outcomes
        )
    ]


def _refusal(
    groups: Sequence[ScoredGroup], selection: _Selection, leaks: Sequence[Leak], rules: BatchRules
) -> str:
    """Why the day is not trained; empty when it is."""
    trained = len({episode["window_id"] for episode in selection.episodes})
    if leaks:
        first = leaks[0]
        return f"{len(leaks)} leaks, the first in {first.window_id} of agent {first.agent_id}: {first.kind}"
    if trained < rules.min_groups:
        return f"{trained} trainable groups of at least {rules.min_groups} ({len(groups)} scored)"
    if len(selection.episodes) < rules.min_episodes:
        return f"{len(selection.episodes)} trainable episodes of at least {rules.min_episodes}"
    return ""
