"""Looking at one row of the game: its window, its fingerprint, whether it can be read, and how good it is.

What cannot be read, and what is too odd to be believed, is a problem with a reason code: such a row goes into
quarantine and comes back by itself once it has been repaired.
"""

import hashlib
from datetime import timedelta
from typing import Any

import msgspec

from babylon_rl import windows
from babylon_rl.records.forgotten import FORGOTTEN, NOBODY, Forgotten
from babylon_rl.records.game_rows import LARGEST_ROW
from babylon_rl.records.instruments import named_instruments
from babylon_rl.records.quality import RowQuality, row_quality
from babylon_rl.records.steps import UnreadableRowError
from babylon_rl.records.trajectory import (
    TEST_USER,
    RecordedTrajectory,
    Row,
    RowFacts,
    decode_row,
    row_facts,
    without_rewards,
)

FARTHEST = timedelta(hours=24)
"""A row that starts farther than this from the window that it names belongs to some other run of the game."""

SKEW = timedelta(minutes=5)
"""How far the clocks of two recorders may disagree."""


class Problem(msgspec.Struct, frozen=True):
    """Why a row is in quarantine."""

    reason: str
    """A short code, the same for all rows with this defect."""
    detail: str
    """Where in the row it is, what was found, and what would repair it."""


class ExaminedRow(msgspec.Struct, kw_only=True):
    """Everything that `rl` keeps about a row, and its trajectory if it has one."""

    trajectory_id: str
    agent_id: str
    facts: RowFacts
    row: Row
    content: str | None = None
    """Hash of the steps without rewards; None without steps, which are no sign of a copy."""
    quality: RowQuality | None = None
    """None for a row that is left out or cannot be read."""
    instruments: list[str] = []
    problem: Problem | None = None
    trajectory: RecordedTrajectory | None = None


def examine(row: Row, forgotten: Forgotten = NOBODY) -> ExaminedRow:
    """Returns what a row of `game_rows.read_rows` holds; rows left out on purpose are not decoded.

    Args:
        row: The row.
        forgotten: Agents whose rows are left out although the game still has them.
    """
    facts = row_facts(row)
    if forgotten and row["agentId"] in forgotten:
        facts = msgspec.structs.replace(facts, excluded=FORGOTTEN)
    examined = ExaminedRow(trajectory_id=row["trajectoryId"], agent_id=row["agentId"], facts=facts, row=row)
    if facts.excluded not in (None, TEST_USER):
        return examined
    try:
        _refuse_suspicious(row, facts)
        trajectory = decode_row(row, facts)
    except UnreadableRowError as error:
        examined.problem = Problem(error.reason, _storable(error.detail))
        return examined
    examined.trajectory = trajectory
    examined.quality = row_quality(trajectory.steps)
    examined.instruments = named_instruments(trajectory.steps)
    if trajectory.steps:
        examined.content = hashlib.sha256(without_rewards(row["stepsJson"]).encode()).hexdigest()
    return examined


def _refuse_suspicious(row: Any, facts: RowFacts) -> None:
    start, end = row["startTime"], row["endTime"]
    if row["stepsJson"] is None:
        limit = LARGEST_ROW // 1_000_000
        raise UnreadableRowError("too_large", f"stepsJson has {row['bytes']} bytes, and {limit} MB are read")
    if end < start - SKEW:
        raise UnreadableRowError(
            "ends_before_start", f"endTime {end:%F %T} is before startTime {start:%F %T}"
        )
    first, last = windows.window_range(facts.window_id)
    if not first - FARTHEST <= start < last + FARTHEST:
        raise UnreadableRowError(
            "far_from_window",
            f"startTime {start:%F %T} is more than a day away from window {facts.window_id}",
        )


def _storable(text: str) -> str:
    """A text that PostgreSQL takes: without NUL and without half characters."""
    return text.replace("\x00", "").encode("utf-8", "replace").decode()[:1000]
