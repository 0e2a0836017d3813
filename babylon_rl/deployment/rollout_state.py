"""Who serves and who tries to replace it, at a glance."""

from datetime import UTC, datetime

import asyncpg
import msgspec

from babylon_rl.deployment import rollout_rows
from babylon_rl.deployment.deploy import current
from babylon_rl.deployment.rollout_rows import Check, latest_checks, read_assignment
from babylon_rl.deployment.strategies import Stage
from babylon_rl.deployment.versions import BASE


class RolloutStatus(msgspec.Struct, frozen=True):
    """Who serves now, and who tries to replace it; times are aware UTC."""

    active: str
    """The version that serves whoever has no other; v0.0.0, the base model, before the first deployment."""
    deployment_id: int | None
    """Of the active version; None before the first deployment."""
    candidate: str | None = None
    rollout_id: int | None = None
    strategy: str | None = None
    experiment: bool = False
    percentage: float | None = None
    """The candidate's share now, in percent; 0 before an experiment's first window."""
    schedule: list[Stage] = []
    agents: list[str] = []
    """Named agents of strategy test."""
    block_windows: int | None = None
    origin: datetime | None = None
    started_at: datetime | None = None
    reason: str | None = None
    check: Check | None = None
    """The newest look at the experiment: decision, reason, and in `report` its figures."""
    changed: bool = False
    """Whether the call that returned it changed something."""


async def rollout_status(rl: asyncpg.Connection, *, at: datetime | None = None) -> RolloutStatus:
    """Who serves, who is the candidate and with what share, and what its newest check says.

    Args:
        at: The moment that `percentage` is of; now by default.
    """
    active = await current(rl)
    known = (active.version if active else str(BASE), active.id if active else None)
    row = await rollout_rows.running(rl)
    if row is None:
        return RolloutStatus(*known)
    assignment = await read_assignment(rl, row)
    checks = await latest_checks(rl, row.id)
    moment = (at or datetime.now(UTC)).timestamp()
    return RolloutStatus(
        *known,
        candidate=row.version,
        rollout_id=row.id,
        strategy=row.strategy,
        experiment=row.experiment,
        percentage=assignment.percentage_at(moment),
        schedule=row.schedule,
        agents=row.agents,
        block_windows=row.block_windows,
        origin=row.origin,
        started_at=row.started_at,
        reason=row.reason,
        check=checks[0] if checks else None,
    )
