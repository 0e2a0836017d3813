"""The watch over a release: measures, judges, promotes, takes back, and moves a schedule on.

The gateway runs it every few seconds in a process beside it, Dagster's `deployment_watch` sensor once a
minute; whichever holds the lease decides, so it works with Dagster down, and with several gateways. Every
decision is fenced by the lease, and finds the rollout that it was made for, or does nothing.
"""

import logging
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from datetime import datetime, timedelta
from typing import Any

import asyncpg
import msgspec

from babylon_rl.deployment import bursts, leases, rollout, rollout_rows
from babylon_rl.deployment.assignment import Assignment
from babylon_rl.deployment.call_usage import roll_up
from babylon_rl.deployment.deploy import current
from babylon_rl.deployment.errors import NoRolloutError, NothingToRollBackError
from babylon_rl.deployment.experiment import judge, to_report
from babylon_rl.deployment.leases import Lease, LeaseLostError
from babylon_rl.deployment.measuring import LAG, Value, measure, read_panel
from babylon_rl.deployment.rollout_rows import Decision, RolloutRow, note_check
from babylon_rl.windows import window_range

log = logging.getLogger(__name__)

LEASE = "deployment_watch"
TTL = timedelta(seconds=45)

Pricing = Callable[[], AbstractAsyncContextManager[Value | None]]
"""Opens what values a window's orders; None from it waits for the pipeline to do so."""

_LAST = "SELECT max(window_id) FROM rl.rollout_windows WHERE rollout_id = $1"
_ANSWERED = """
SELECT EXISTS (SELECT FROM rl.call_usage
                WHERE rollout_id = $1 AND variant = 'candidate' AND version = $2 AND calls > errors)
"""
_STAGE = "SELECT max(from_time) FROM rl.rollout_stages WHERE rollout_id = $1"


class WatchRules(msgspec.Struct, frozen=True):
    """How the watch decides."""

    alpha: float = 0.05
    promote: bool = True
    """Whether a significant gain promotes by itself."""
    trust_unverified: bool = False
    """Whether callers without keys of their own count in experiments."""


class Watched(msgspec.Struct, frozen=True):
    """What one look did."""

    leader: bool
    decision: Decision | None = None
    reason: str = ""
    measured: int = 0
    """Windows that are new."""


async def watch(
    rl: asyncpg.Connection,
    game: asyncpg.Connection | None,
    rules: WatchRules,
    *,
    owner: str,
    pricing: Pricing | None = None,
) -> Watched:
    """One look, if this process leads.

    Args:
        game: Where changes are shown (`trained_models`); None leaves that to the pipeline.
        owner: Names this process.
        pricing: Values orders where the pipeline has not done so.
    """
    lease = await leases.take(rl, LEASE, owner, TTL)
    if lease is None:
        return Watched(False, reason="another process leads")
    try:
        await roll_up(rl)
        row = await rollout_rows.running(rl)
        if row is None:
            return await _watch_active(rl, game, lease)
        if (burst := await bursts.candidate_burst(rl, row)) is not None:
            return await _act(rl, game, lease, row, "roll_back", burst.reason, msgspec.to_builtins(burst))
        assignment = await rollout_rows.read_assignment(rl, row)
        looked = Watched(True, "hold", "no experiment: an operator decides")
        if row.experiment:
            looked = await _look(rl, game, lease, row, assignment, rules, pricing)
        if looked.decision == "hold":
            return await _advance(rl, game, lease, row, looked)
        return looked
    except LeaseLostError as lost:
        return Watched(False, reason=lost.problem)
    except NoRolloutError as ended:
        return Watched(True, "hold", ended.problem)


async def step_down(rl: asyncpg.Connection, owner: str) -> None:
    """Lets another process lead at once instead of when the lease runs out; for one that ends or pauses."""
    lease = await leases.take(rl, LEASE, owner, TTL)
    if lease is not None:
        await leases.release(rl, lease)


async def _watch_active(rl: asyncpg.Connection, game: asyncpg.Connection | None, lease: Lease) -> Watched:
    active = await current(rl)
    burst = None if active is None else await bursts.active_burst(rl, active)
    if active is None or burst is None:
        return Watched(True, reason="no rollout is running")
    try:
        async with rl.transaction():
            await leases.require(rl, lease)
            await rl.execute(rollout_rows.LOCK)
            now = await current(rl)
            if now is None or now.id != active.id:
                return Watched(True, reason="somebody else has changed what serves")
            await note_check(
                rl,
                rollout_id=None,
                deployment_id=active.id,
                decision="roll_back",
                reason=burst.reason,
                report=msgspec.to_builtins(burst),
                checked_by=lease.owner,
            )
            await rollout.roll_back(rl, game, reason=burst.reason, decided_by=lease.owner)
    except NothingToRollBackError:
        return Watched(True, "hold", f"{burst.reason}; nothing was deployed before it")
    return Watched(True, "roll_back", burst.reason)


async def _look(
    rl: asyncpg.Connection,
    game: asyncpg.Connection | None,
    lease: Lease,
    row: RolloutRow,
    assignment: Assignment,
    rules: WatchRules,
    pricing: Pricing | None,
) -> Watched:
    now: datetime = await rl.fetchval("SELECT now()")  # type: ignore[assignment]
    measured = 0
    if await _is_due(rl, row, now):
        if pricing is None:
            measured = await measure(rl, assignment, now, trust_unverified=rules.trust_unverified)
        else:
            async with pricing() as value:
                measured = await measure(
                    rl, assignment, now, trust_unverified=rules.trust_unverified, value=value
                )
    if not measured:
        return Watched(True, "hold", "no window has settled since the last look")
    verdict = judge(await read_panel(rl, assignment), alpha=rules.alpha, promote=rules.promote)
    report = to_report(verdict)
    if verdict.decision == "hold":
        await note_check(rl, **_note(row, "hold", verdict.reason, report, lease.owner))
        return Watched(True, "hold", verdict.reason, measured)
    done = await _act(rl, game, lease, row, verdict.decision, verdict.reason, report)
    return msgspec.structs.replace(done, measured=measured)


async def _is_due(rl: asyncpg.Connection, row: RolloutRow, now: datetime) -> bool:
    """Whether another window can have settled."""
    last: str | None = await rl.fetchval(_LAST, row.id)
    return now >= (row.origin if last is None else window_range(last)[1]) + LAG


async def _act(
    rl: asyncpg.Connection,
    game: asyncpg.Connection | None,
    lease: Lease,
    row: RolloutRow,
    decision: Decision,
    reason: str,
    report: dict[str, Any],
) -> Watched:
    async with rl.transaction():
        await leases.require(rl, lease)
        await note_check(rl, **_note(row, decision, reason, report, lease.owner))
        if decision == "promote":
            await rollout.promote(rl, game, reason=reason, rollout_id=row.id, decided_by=lease.owner)
        else:
            await rollout.roll_back(rl, game, reason=reason, rollout_id=row.id, decided_by=lease.owner)
    log.warning("rollout %d of %s: %s: %s", row.id, row.version, decision, reason)
    return Watched(True, decision, reason)


async def _advance(
    rl: asyncpg.Connection, game: asyncpg.Connection | None, lease: Lease, row: RolloutRow, looked: Watched
) -> Watched:
    """Takes the schedule's next step when the present one has lasted as long as it should."""
    if len(row.schedule) < 2 or row.schedule[0].windows is None:
        return looked
    since: datetime | None = await rl.fetchval(_STAGE, row.id)
    now: datetime = await rl.fetchval("SELECT now()")  # type: ignore[assignment]
    if since is None or now < since + timedelta(hours=row.schedule[0].windows):
        return looked
    following = row.schedule[1:]
    share = following[0].percentage
    reason = f"the schedule reached {share:g} %"
    if share == 100:
        # A candidate that no gateway could load, or that no agent met, has nothing against it either.
        if not await rl.fetchval(_ANSWERED, row.id, row.version):
            return msgspec.structs.replace(
                looked, reason=f"{reason}, but {row.version} has answered no agent yet; {looked.reason}"
            )
        return await _act(rl, game, lease, row, "promote", f"{reason} and nothing spoke against it", {})
    async with rl.transaction():
        await leases.require(rl, lease)
        await rollout.follow_schedule(rl, row.id, following)
    log.info("rollout %d of %s: %s", row.id, row.version, reason)
    return msgspec.structs.replace(looked, reason=f"{reason}; {looked.reason}")


def _note(
    row: RolloutRow, decision: Decision, reason: str, report: dict[str, Any], by: str
) -> dict[str, Any]:
    return {
        "rollout_id": row.id,
        "deployment_id": row.deployment_id,
        "decision": decision,
        "reason": reason,
        "report": report,
        "checked_by": by,
    }
