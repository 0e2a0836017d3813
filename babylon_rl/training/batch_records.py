"""A training batch at rest: its file in the artifact store and its row in `rl.training_batches`.

The file's first record is the summary, each further one an episode. Once a day has been trained its batch
never changes: what its windows would give now is only noted on it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any

import asyncpg

from babylon_rl import windows
from babylon_rl.records.steps import LlmCall
from babylon_rl.records.store import Artifact, ArtifactStore
from babylon_rl.scoring.groups import Member
from babylon_rl.training.conversion import TrainableCall, TrainableEpisode
from babylon_rl.training.leaks import Leak
from babylon_rl.training.payments import Payment, store_payments

KIND = "training_batch"
READY, EMPTY = "ready", "empty"
RESAMPLE = "resample"
"""The grouping whose members are new answers to a recorded prompt."""
TRAINED_AS = "trained_as"
"""Key of a batch's summary once `babylon forget` has deleted an agent from it: the hash it had before."""

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
    without_logprobs: dict[str, int] = field(default_factory=dict)
    """Calls that came without log-probabilities by what became of them; see `training.rescoring`."""
    leaks: list[Leak] = field(default_factory=list)
    diagnostics: dict[str, float] = field(default_factory=dict)
    """What the day's rewards are worth; see `training.diagnostics`."""
    residuals: dict[str, Any] = field(default_factory=dict)
    """What of the batch pays resolutions of earlier windows; see `training.residuals`."""
    grouping: str = "window"
    """``window``, or ``resample``: several answers of the parent to each recorded prompt."""
    prompts: list[dict[str, Any]] = field(default_factory=list)
    """``resample``: what was answered to each prompt and what it came to; see `deployment.resampling`."""
    superseded_by: str | None = None
    """Hash of what the day's windows would give now, where it differs from the frozen batch."""


def load_batch(store: ArtifactStore, uri: str) -> tuple[TrainingBatch, list[TrainableEpisode]]:
    """Read a stored batch back, verified against its hash."""
    summary, *records = store.get(uri)
    return describe(summary, uri), [_episode(record) for record in records]


async def freeze_batch(
    rl: asyncpg.Connection,
    store: ArtifactStore,
    day: str,
    artifact: Artifact,
    summary: dict[str, Any],
    config: dict[str, Any],
    payments: Sequence[Payment] = (),
) -> TrainingBatch:
    """Record a stored batch; a day that has been trained keeps the one it was trained on.

    Args:
        summary: The first record of the artifact.
        config: What it was made with.
        payments: What it pays; final once it has been trained.
    """
    counts = (summary["groups"], summary["episodes"], summary["calls"])
    parsed = windows.parse_day(day)
    async with rl.transaction():
        await rl.execute(
            _STORE,
            artifact.sha256,
            parsed,
            artifact.uri,
            summary["status"],
            *counts,
            summary["reason"],
            config,
        )
        await store_payments(rl, artifact.sha256, payments)
        frozen = await frozen_batch(rl, parsed)
        if frozen is None:
            return describe(summary, artifact.uri)
        newer = None if frozen["batch_sha256"] == artifact.sha256 else artifact.sha256
        await rl.execute(_SUPERSEDE, frozen["batch_sha256"], newer)
    trained, _ = load_batch(store, frozen["uri"])
    return TrainingBatch(**{**vars(trained), "superseded_by": newer})


async def frozen_batch(rl: asyncpg.Connection, day: date) -> asyncpg.Record | None:
    """The row of the batch that a day was trained on; None where it was not."""
    return await rl.fetchrow(_FROZEN, day)


def describe(summary: dict[str, Any], uri: str) -> TrainingBatch:
    """The batch that a stored summary tells of."""
    # A batch that an agent was deleted from keeps the name under which it was trained.
    known = {key: value for key, value in summary.items() if key != TRAINED_AS}
    known["leaks"] = [Leak(**leak) for leak in summary["leaks"]]
    sha256 = summary.get(TRAINED_AS) or uri.rsplit("/", 1)[-1].split(".", 1)[0]
    return TrainingBatch(**known, sha256=sha256, uri=uri)


def call_record(call: LlmCall, advantage: float | None = None) -> dict[str, Any]:
    """What is stored of a call: nothing that is not trained.

    Args:
        advantage: Of the decision that it was made for, if that has one.
    """
    messages = [{"role": message["role"], "content": message["content"]} for message in call.chat_messages()]
    return {
        "messages": messages,
        "content": call.response,
        "token_ids": call.token_ids if call.has_tokens else [],
        "logprobs": call.logprobs if call.has_tokens else [],
        "finish_reason": call.finish_reason or "stop",
        "policy_version": call.policy_version,
        **({} if advantage is None else {"advantage": advantage}),
    }


def member_record(window_id: str, member: Member, calls: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """An episode as it is stored."""
    return {
        "window_id": window_id,
        "agent_id": member.agent_id,
        "reward": member.reward,
        "advantage": member.advantage,
        "trajectory_ids": member.trajectory_ids,
        "calls": list(calls),
    }


def _episode(record: dict[str, Any]) -> TrainableEpisode:
    calls = [
        TrainableCall(
            messages=call["messages"],
            content=call["content"],
            token_ids=call["token_ids"],
            logprobs=call["logprobs"],
            finish_reason=call["finish_reason"],
            advantage=call.get("advantage"),
        )
        for call in record["calls"]
    ]
    return TrainableEpisode(record["window_id"], record["agent_id"], record["advantage"], calls)
