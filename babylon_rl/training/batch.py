"""The training batch: exactly what one day trains, selected, scanned for leaks, and frozen under its hash.

A batch is built from the day's scored groups. Members of our policies whose calls carry tokens and log-
probabilities are selected with the advantages they got in their whole group; every call that is left out is
counted with its reason. Once a day has been trained its batch never changes: building it again returns the
frozen one and says what is new.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import asyncpg

from babylon_rl import windows
from babylon_rl.outcomes.market import load_outcomes
from babylon_rl.records.steps import LlmCall
from babylon_rl.records.store import Artifact, ArtifactStore
from babylon_rl.scoring.groups import SCORED, Member, ScoredGroup, from_records
from babylon_rl.training.conversion import TrainableCall, TrainableEpisode
from babylon_rl.training.diagnostics import SignalRules, diagnose
from babylon_rl.training.diagnostics import refusal as weak_signal
from babylon_rl.training.eligibility import Eligibility, why_not
from babylon_rl.training.evidence import gather
from babylon_rl.training.leaks import Leak, scan
from babylon_rl.training.selection import Selection

KIND = "training_batch"
READY, EMPTY = "ready", "empty"
TRAINED_AS = "trained_as"
"""Key of a batch's summary once `babylon forget` has deleted an agent from it: the hash it had before."""

_GROUPS = """
SELECT window_id, group_uri FROM rl.window_state
 WHERE window_id = ANY($1::text[]) AND group_status = 'scored' AND group_uri IS NOT NULL ORDER BY window_id
"""
_FROZEN = """
SELECT batch.* FROM rl.trained_days AS trained JOIN rl.training_batches AS batch USING (batch_sha256)
 WHERE trained.day = $1 AND trained.version IS NOT NULL
"""
_STORE = """
INSERT INTO rl.training_batches (batch_sha256, day, uri, status, groups, episodes, calls, reason, config)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT (batch_sha256) DO UPDATE SET created_at = now()
"""
_SUPERSEDE = """
UPDATE rl.training_batches SET superseded_by = $2
 WHERE batch_sha256 = $1 AND superseded_by IS DISTINCT FROM $2
"""


@dataclass(frozen=True)
class BatchRules:
    """What a day must offer to be trained."""

    min_groups: int = 10
    min_episodes: int = 100
    signal: SignalRules = SignalRules()
    takes: Eligibility = Eligibility()


@dataclass(frozen=True)
class TrainingBatch:
    """A stored batch and what is in it."""

    day: str
    sha256: str
    uri: str
    status: str
    """``ready``, or ``empty`` with a reason."""
    reason: str
    groups: int
    episodes: int
    calls: int
    dropped: dict[str, int] = field(default_factory=dict)
    """Calls that are not trained, by reason."""
    policy_versions: dict[str, int] = field(default_factory=dict)
    """Trained calls by the version that answered them."""
    confirmed: dict[str, int] = field(default_factory=dict)
    """All calls of the windows by who confirms them; see `training.joining`."""
    leaks: list[Leak] = field(default_factory=list)
    diagnostics: dict[str, float] = field(default_factory=dict)
    """What the day's rewards are worth; see `training.diagnostics`."""
    grouping: str = "window"
    """``window``, or ``resample``: several answers of the parent to each recorded prompt."""
    superseded_by: str | None = None
    """Hash of what the day's windows would give now, where it differs from the frozen batch."""


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
    return _batch(summary, artifact.uri)


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
    selection = _select(groups, rules.takes, evidence.behind)
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
    return store.put(KIND, name, [summary, *([] if reason else selection.episodes)]), summary


def load_batch(store: ArtifactStore, uri: str) -> tuple[TrainingBatch, list[TrainableEpisode]]:
    """Read a stored batch back, verified against its hash."""
    summary, *records = store.get(uri)
    return _batch(summary, uri), [_episode(record) for record in records]


@dataclass
class _Selection:
    episodes: list[dict[str, Any]] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)
    versions: Counter[str] = field(default_factory=Counter)


def _select(groups: Iterable[ScoredGroup], takes: Eligibility, behind: Mapping[str, int]) -> _Selection:
    selection = _Selection()
    for group in groups:
        if group.status != SCORED:
            continue
        for member in group.members:
            calls = []
            for call in member.calls:
                if reason := why_not(call, member.advantage, takes, behind):
                    selection.dropped[reason] += 1
                else:
                    selection.versions[str(call.policy_version or call.model)] += 1
                    calls.append(_call_record(call))
            if calls:
                selection.episodes.append(_member_record(group.window_id, member, calls))
    return selection


def _call_record(call: LlmCall) -> dict[str, Any]:
    messages = [{"role": message["role"], "content": message["content"]} for message in call.chat_messages()]
    return {
        "messages": messages,
        "content": call.response,
        "token_ids": call.token_ids if call.has_tokens else [],
        "logprobs": call.logprobs if call.has_tokens else [],
        "finish_reason": call.finish_reason or "stop",
        "policy_version": call.policy_version,
    }


def _member_record(window_id: str, member: Member, calls: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {
        "window_id": window_id,
        "agent_id": member.agent_id,
        "reward": member.reward,
        "advantage": member.advantage,
        "trajectory_ids": member.trajectory_ids,
        "calls": list(calls),
    }


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


async def freeze_batch(
    rl: asyncpg.Connection,
    store: ArtifactStore,
    day: str,
    artifact: Artifact,
    summary: dict[str, Any],
    config: dict[str, Any],
) -> TrainingBatch:
    """Record a stored batch; a day that has been trained keeps the one it was trained on.

    Args:
        summary: The first record of the artifact.
        config: What it was made with.
    """
    counts = (summary["groups"], summary["episodes"], summary["calls"])
    date = windows.parse_day(day)
    async with rl.transaction():
        await rl.execute(
            _STORE,
            artifact.sha256,
            date,
            artifact.uri,
            summary["status"],
            *counts,
            summary["reason"],
            config,
        )
        frozen = await rl.fetchrow(_FROZEN, date)
        if frozen is None:
            return _batch(summary, artifact.uri)
        newer = None if frozen["batch_sha256"] == artifact.sha256 else artifact.sha256
        await rl.execute(_SUPERSEDE, frozen["batch_sha256"], newer)
    trained, _ = load_batch(store, frozen["uri"])
    return TrainingBatch(**{**vars(trained), "superseded_by": newer})


def _batch(summary: dict[str, Any], uri: str) -> TrainingBatch:
    # A batch that an agent was deleted from keeps the name under which it was trained.
    known = {key: value for key, value in summary.items() if key != TRAINED_AS}
    known["leaks"] = [Leak(**leak) for leak in summary["leaks"]]
    sha256 = summary.get(TRAINED_AS) or uri.rsplit("/", 1)[-1].split(".", 1)[0]
    return TrainingBatch(**known, sha256=sha256, uri=uri)


def _episode(record: dict[str, Any]) -> TrainableEpisode:
    calls = [
        TrainableCall(
            messages=call["messages"],
            content=call["content"],
            token_ids=call["token_ids"],
            logprobs=call["logprobs"],
            finish_reason=call["finish_reason"],
        )
        for call in record["calls"]
    ]
    return TrainableEpisode(record["window_id"], record["agent_id"], record["advantage"], calls)
