"""The rows of rollouts: `rl.rollouts`, their stages, and the checks made of them."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

import asyncpg
import msgspec

from babylon_rl.deployment.assignment import Assignment
from babylon_rl.deployment.strategies import Stage

State = Literal["running", "promoted", "rolled_back", "ended"]
Decision = Literal["promote", "hold", "roll_back"]

LOCK = "SELECT pg_advisory_xact_lock(hashtext('babylon_rl'), hashtext('rl.deployments'))"
"""Everything that changes who serves holds it until its transaction ends."""

_COLUMNS = """id, deployment_id, version, incumbent, strategy, experiment, salt, block_windows, origin,
       agents, schedule, state, reason, decided_by, started_at, ended_at"""
_RUNNING = f"SELECT {_COLUMNS} FROM rl.rollouts WHERE state = 'running'"
_STAGES = "SELECT from_time, percentage FROM rl.rollout_stages WHERE rollout_id = $1 ORDER BY from_time"
_CHECKS = """
SELECT id, decision, reason, report, checked_by, checked_at FROM rl.rollout_checks
 WHERE rollout_id = $1 ORDER BY id DESC LIMIT $2
"""
_CLOSE = """
UPDATE rl.rollouts SET state = $2, reason = $3, decided_by = $4, ended_at = now() WHERE id = $1
"""
_END_CANDIDATE = "UPDATE rl.deployments SET ended_at = now() WHERE id = $1 AND ended_at IS NULL"
_NOTE = """
INSERT INTO rl.rollout_checks (rollout_id, deployment_id, decision, reason, report, checked_by)
VALUES ($1, $2, $3, $4, $5, $6)
"""


class RolloutRow(msgspec.Struct, frozen=True):
    """A row of `rl.rollouts`; times are aware UTC."""

    id: int
    deployment_id: int
    version: str
    incumbent: str
    strategy: Literal["gradual", "test"]
    experiment: bool
    salt: str
    block_windows: int
    origin: datetime
    agents: list[str]
    schedule: list[Stage]
    state: State
    reason: str | None
    decided_by: str | None
    started_at: datetime
    ended_at: datetime | None


class Check(msgspec.Struct, frozen=True):
    """A look at a rollout: what was found and decided."""

    id: int
    decision: Decision
    reason: str
    report: dict[str, Any]
    checked_by: str
    checked_at: datetime


async def running(rl: asyncpg.Connection) -> RolloutRow | None:
    """The rollout that runs, None where none does."""
    return _row(await rl.fetchrow(_RUNNING))


async def past_rollouts(rl: asyncpg.Connection, limit: int = 20) -> list[RolloutRow]:
    """Rollouts, newest first, the running one among them."""
    rows = await rl.fetch(f"SELECT {_COLUMNS} FROM rl.rollouts ORDER BY id DESC LIMIT $1", limit)
    return [row for row in map(_row, rows) if row is not None]


async def close(rl: asyncpg.Connection, row: RolloutRow, state: State, reason: str, decided_by: str) -> None:
    """Ends a running rollout and its candidate's deployment; the caller holds `LOCK`."""
    await rl.execute(_CLOSE, row.id, state, reason, decided_by)
    await rl.execute(_END_CANDIDATE, row.deployment_id)


async def read_assignment(rl: asyncpg.Connection, row: RolloutRow) -> Assignment:
    """How a rollout divides the agents, with every stage that it has had."""
    stages = await rl.fetch(_STAGES, row.id)
    return Assignment(
        rollout_id=row.id,
        version=row.version,
        incumbent=row.incumbent,
        salt=row.salt,
        experiment=row.experiment,
        block_windows=row.block_windows,
        origin=row.origin.timestamp(),
        stages=tuple((stage["from_time"].timestamp(), stage["percentage"]) for stage in stages),
        agents=frozenset(row.agents),
    )


async def note_check(
    rl: asyncpg.Connection,
    *,
    rollout_id: int | None,
    deployment_id: int | None,
    decision: Decision,
    reason: str,
    report: Mapping[str, Any],
    checked_by: str,
) -> None:
    """Keeps a look in the history."""
    await rl.execute(_NOTE, rollout_id, deployment_id, decision, reason, dict(report), checked_by)


async def latest_checks(rl: asyncpg.Connection, rollout_id: int, limit: int = 1) -> list[Check]:
    """The newest looks at a rollout, newest first."""
    return [Check(**dict(row)) for row in await rl.fetch(_CHECKS, rollout_id, limit)]


def _row(row: asyncpg.Record | None) -> RolloutRow | None:
    if row is None:
        return None
    return RolloutRow(**{**row, "schedule": [Stage(**step) for step in row["schedule"]]})
