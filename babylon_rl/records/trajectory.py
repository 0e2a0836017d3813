"""One recorded trajectory: a row of the game's `trajectories`, typed, with the columns its recorder owns.

The game and our own projection write to the same row later: rewards, judge and training columns, `updatedAt`,
and the `reward` of every step inside `stepsJson`. None of that is part of a trajectory's fingerprint or
snapshot, or our own writes would look like news.
"""

import hashlib
import math
import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Protocol

import msgspec

from babylon_rl import windows
from babylon_rl.records.steps import Step, decode_steps

MARKET_DECISION_AGENT = "market-decision-engine"
"""The agent id under which the game's NPC wrapper records."""

AGENT, NPC, TEST_USER = "agent", "npc", "test_user"
"""What kind of player recorded a row."""

_STEP_REWARD = re.compile(r'"reward"\s*:\s*(?:[-+0-9.eE]+|null|NaN|-?Infinity|"[^"\\]*")')


class Row(Protocol):
    """A row as `records.game_rows` returns it: columns by name."""

    def __getitem__(self, key: str, /) -> Any: ...


class RecordedTrajectory(msgspec.Struct, kw_only=True):
    """What one agent did between `start_time` and `end_time`; amounts in USD, times in UTC."""

    id: str
    trajectory_id: str
    agent_id: str
    window_id: str
    """The one window the row belongs to, which need not be what its `windowId` says."""
    scenario_id: str | None
    start_time: datetime
    end_time: datetime
    final_pnl: float | None
    """Realised over the agent's whole life; never summed over rows."""
    final_balance: float | None
    final_status: str
    is_training_data: bool
    is_evaluation: bool
    window_hours: int
    steps: list[Step]
    fingerprint: str


_decoder = msgspec.json.Decoder(RecordedTrajectory)


class RowFacts(msgspec.Struct, frozen=True):
    """What decides about a row, and whether it is news."""

    window_id: str
    excluded: str | None
    """Why the row is left out: evaluation, not_training_data, window_hours, npc, test_user; else None."""
    fingerprint: str


def row_facts(row: Row) -> RowFacts:
    """Returns window, exclusion and fingerprint of a row."""
    window_id = windows.row_window(row["windowId"], row["scenarioId"], row["startTime"])
    return RowFacts(window_id, _exclusion(row), fingerprint(row))


def fingerprint(row: Row) -> str:
    """Returns the SHA-256 of everything in a row that its recorder owns.

    It is taken from the raw text of the steps, so that it exists for unreadable rows and does not change with
    our readers. The steps of a row that is too large to be read are stood for by their size and version.
    """
    owned = [
        row["agentId"],
        row["windowId"],
        row["scenarioId"],
        row["windowHours"],
        row["startTime"],
        row["endTime"],
        finite(row["finalPnL"]),
        finite(row["finalBalance"]),
        row["finalStatus"],
        row["isTrainingData"],
        row["isEvaluation"],
    ]
    steps = row["stepsJson"]
    digest = hashlib.sha256(msgspec.json.encode(owned))
    digest.update((f"{row['bytes']}/{row['version']}" if steps is None else without_rewards(steps)).encode())
    return digest.hexdigest()


def without_rewards(steps: str) -> str:
    """Returns `stepsJson` without the rewards of its steps, which the game overwrites."""
    return _STEP_REWARD.sub('"reward"', steps)


def decode_row(row: Row, facts: RowFacts) -> RecordedTrajectory:
    """Returns the typed trajectory of a row.

    Raises:
        UnreadableRowError: Its steps have no reading.
    """
    return RecordedTrajectory(
        id=row["id"],
        trajectory_id=row["trajectoryId"],
        agent_id=row["agentId"],
        window_id=facts.window_id,
        scenario_id=row["scenarioId"],
        start_time=row["startTime"],
        end_time=row["endTime"],
        final_pnl=finite(row["finalPnL"]),
        final_balance=finite(row["finalBalance"]),
        final_status=row["finalStatus"],
        is_training_data=row["isTrainingData"],
        is_evaluation=row["isEvaluation"],
        window_hours=row["windowHours"],
        steps=decode_steps(row["stepsJson"]),
        fingerprint=facts.fingerprint,
    )


def to_record(trajectory: RecordedTrajectory) -> dict[str, Any]:
    """Returns a plain dict for the artifact store, without the steps' rewards (the game overwrites them)."""
    record = msgspec.to_builtins(trajectory)
    for step in record["steps"]:
        step["reward"] = None
    return record


def to_records(trajectories: Iterable[RecordedTrajectory]) -> list[dict[str, Any]]:
    """Returns `to_record` of each trajectory."""
    return [to_record(trajectory) for trajectory in trajectories]


def decode_record(line: bytes) -> RecordedTrajectory:
    """Reads one line of a snapshot file."""
    return _decoder.decode(line)


def from_records(records: Iterable[Mapping[str, Any]]) -> list[RecordedTrajectory]:
    """The inverse of `to_records`."""
    return [msgspec.convert(record, RecordedTrajectory) for record in records]


def finite(number: float | None) -> float | None:
    """Returns the number, or None for one that is none (NaN and infinities included)."""
    return number if number is not None and math.isfinite(number) else None


def _exclusion(row: Row) -> str | None:
    if row["isEvaluation"]:
        return "evaluation"
    if not row["isTrainingData"]:
        return "not_training_data"
    if row["windowHours"] != 1:
        return "window_hours"
    if row["player"] == NPC or row["agentId"] == MARKET_DECISION_AGENT:
        return NPC
    # Last, because it is the one reason that a reader can ask to be waived.
    return TEST_USER if row["player"] == TEST_USER else None
