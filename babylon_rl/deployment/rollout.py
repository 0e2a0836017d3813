"""Releasing a model gradually, and taking it back: what the CLI, the admin API, Dagster and the gateway call.

    await start_rollout(rl, game, "v0.0.3", strategy="gradual", percentage=10)
    status = await rollout_status(rl)              # who serves, the candidate's share, the newest check
    await promote(rl, game)                        # the candidate serves everybody
    await roll_back(rl, game, reason="it errs")    # the version before serves again at once

At most one candidate runs beside the active version. Each function is one transaction under the lock of
`rl.deployments`: of two that decide at once, the second finds the first one's decision and says so.
"""

import logging
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import asyncpg
import msgspec

from babylon_rl.deployment import registry, rollout_rows
from babylon_rl.deployment.deploy import (
    Deployment,
    current,
    deploy,
    project_change,
    require_deployable,
    rollback,
    switch,
)
from babylon_rl.deployment.errors import NoRolloutError, RolloutError, RolloutRunningError
from babylon_rl.deployment.rollout_rows import LOCK, RolloutRow, read_assignment
from babylon_rl.deployment.rollout_state import RolloutStatus, rollout_status
from babylon_rl.deployment.strategies import (
    Stage,
    check_agents,
    check_percentage,
    make_schedule,
    parse_strategy,
)
from babylon_rl.deployment.versions import BASE
from babylon_rl.windows import WINDOW_LENGTH

__all__ = ["RolloutStatus", "promote", "roll_back", "rollout_status", "set_percentage", "start_rollout"]

log = logging.getLogger(__name__)

BLOCK_WINDOWS = 3
"""Hours that an agent stays with one version in an experiment. Shorter blocks begin with more of what the
block before has left behind, longer ones wait longer for a first decision (`benchmarks/rollout.py`)."""

_OPEN_CANDIDATE = """
INSERT INTO rl.deployments (version, role, percentage, reason) VALUES ($1, 'candidate', $2, $3) RETURNING id
"""
_START = """
INSERT INTO rl.rollouts (deployment_id, version, incumbent, strategy, experiment, salt, block_windows, origin,
                         agents, schedule)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
"""
_ADD_STAGE = """
INSERT INTO rl.rollout_stages (rollout_id, from_time, percentage) VALUES ($1, $2, $3)
ON CONFLICT (rollout_id, from_time) DO UPDATE SET percentage = excluded.percentage
 WHERE rl.rollout_stages.from_time > now()
"""
_SHARE = "UPDATE rl.deployments SET percentage = $2 WHERE id = $1"


async def start_rollout(
    rl: asyncpg.Connection,
    game: asyncpg.Connection | None,
    version: str,
    *,
    strategy: str = "gradual",
    percentage: float | None = None,
    schedule: Sequence[Stage | tuple[float, int | None]] | None = None,
    agents: Sequence[str] = (),
    experiment: bool = True,
    block_windows: int = BLOCK_WINDOWS,
    reason: str = "by hand",
    verdict_required: bool = True,
    origin: datetime | None = None,
) -> RolloutStatus:
    """Release a version: to everybody at once, to a share of the agents that grows, or to named agents.

    Called again for the version whose gradual rollout runs, it changes the share (in an experiment from the
    next pair of blocks on). A share of 100 from the start is an immediate deployment.

    Args:
        game: Where the change is shown (`trained_models`); None for nowhere.
        version: Such as v0.0.3.
        strategy: immediate, gradual or test; also the old names replace, blue-green and canary.
        percentage: 0 to 100; 10 by default. For a growing share give `schedule` instead.
        schedule: Steps of (percent, hours until the next); the last one stays until a decision. A step of 100
            promotes when it is reached.
        agents: For strategy test.
        experiment: Whether a gradual rollout is a measured switchback; else agents stick to a version.
        block_windows: Hours of a switchback's block.
        verdict_required: False releases what the gate has not promoted; the reason should say why.
        origin: Start of the experiment's first window; by default the next full hour.

    Raises:
        InvalidVersionError, UnknownVersionError: No such version (`latest` is none).
        WrongStatusError: It is still training, or failed.
        WrongVerdictError: The gate has not promoted it.
        StrategyError: Unknown strategy, percentage outside 0 to 100, no agents, or a schedule that falls.
        RolloutRunningError: Another version's rollout runs.
        RolloutError: The version serves already.
    """
    chosen = parse_strategy(strategy)
    if chosen == "immediate":
        if percentage not in (None, 100, 100.0) or schedule is not None:
            raise RolloutError("strategy immediate gives everybody the model", "Use gradual for a share.")
        return await _at_once(rl, game, version, reason, verdict_required)
    named = check_agents(agents) if chosen == "test" else []
    if chosen == "gradual" and agents:
        raise RolloutError("agents are named for a gradual rollout", "Use strategy test for named agents.")
    steps = [] if chosen == "test" else make_schedule(percentage, schedule)
    if len(steps) == 1 and steps[0].percentage == 100:
        return await _at_once(rl, game, version, reason, verdict_required)
    if not 1 <= block_windows <= 168:
        raise RolloutError(f"block_windows: {block_windows}", "From 1 hour to a week.")
    async with rl.transaction():
        await rl.execute(LOCK)
        model = await registry.get(rl, version)
        active = await current(rl)
        serving = active.version if active else str(BASE)
        if model.version == serving:
            raise RolloutError(f"{model.version} serves everybody already", "`babylon models` lists others.")
        row = await rollout_rows.running(rl)
        if row is not None:
            if row.version != model.version or row.strategy != chosen:
                raise RolloutRunningError(
                    f"a {row.strategy} rollout of {row.version} is running",
                    "Promote it, or take it back with `babylon rollback`, before the next one.",
                )
            if chosen == "gradual":
                await _set_share(rl, row, steps)
            return msgspec.structs.replace(await rollout_status(rl), changed=chosen == "gradual")
        require_deployable(model, verdict_required)
        share = steps[0].percentage if steps else 0.0
        first = _first_window(origin)
        opened = await rl.fetchval(_OPEN_CANDIDATE, model.version, share, reason)
        measured = experiment and chosen == "gradual"
        shape = (chosen, measured, secrets.token_hex(8), block_windows, first)
        await rl.execute(_START, opened, model.version, serving, *shape, named, _plain(steps))
        row = await rollout_rows.running(rl)
        assert row is not None
        if steps:
            await rl.execute(_ADD_STAGE, row.id, first if measured else row.started_at, share)
        status = await rollout_status(rl)
    told = {"version": model.version, "strategy": chosen, "percentage": share, "reason": reason}
    log.info("RL model %s is rolled out beside %s (%s)", model.version, serving, chosen, extra={"data": told})
    return msgspec.structs.replace(status, changed=True)


async def promote(
    rl: asyncpg.Connection,
    game: asyncpg.Connection | None,
    *,
    reason: str = "promoted by hand",
    rollout_id: int | None = None,
    decided_by: str = "operator",
) -> Deployment:
    """The candidate of the running rollout becomes the active version; the incumbent is archived.

    Args:
        rollout_id: Only if it is this one that runs: what has looked at figures says which ones.
        decided_by: Kept in the history.

    Raises:
        NoRolloutError: None runs, or another one: of two promotions at once the second gets this.
        WrongStatusError: The candidate failed meanwhile.
    """
    async with rl.transaction():
        row = await _running_one(rl, rollout_id)
        deployment = await switch(
            rl, row.version, reason, verdict_required=False, cause="promotion", decided_by=decided_by
        )
    await project_change(rl, game, deployment)
    return deployment


async def roll_back(
    rl: asyncpg.Connection,
    game: asyncpg.Connection | None,
    to: str | None = None,
    *,
    reason: str = "rollback by hand",
    rollout_id: int | None = None,
    decided_by: str = "operator",
) -> Deployment:
    """The version before serves again, at once and for everybody.

    While a rollout runs its candidate is taken back and the incumbent stays. Else the version that served
    before the active one returns, or the named one; going back twice goes back two steps.

    Args:
        to: A version that served before; ends a running rollout as well.
        rollout_id: Only if it is this rollout that runs.
        decided_by: Kept in the history.

    Returns:
        What serves now. Where a candidate was taken back, `changed` is true and `replaced` its version.

    Raises:
        NothingToRollBackError: Nothing runs or served before, or the named one never served.
        NoRolloutError: `rollout_id` has ended.
        WrongStatusError: The version failed meanwhile.
    """
    async with rl.transaction():
        await rl.execute(LOCK)
        row = await rollout_rows.running(rl)
        if rollout_id is not None and (row is None or row.id != rollout_id):
            raise NoRolloutError(f"rollout {rollout_id} has ended", "Somebody else decided first.")
        target = None if to is None else (await registry.get(rl, to)).version
        if row is not None and target in (None, row.incumbent):
            await rollout_rows.close(rl, row, "rolled_back", reason, decided_by)
            stays = await current(rl) or await _base(rl, reason)
            log.info("RL model %s was taken back, %s stays (%s)", row.version, stays.version, reason)
            return msgspec.structs.replace(stays, changed=True, replaced=row.version)
    return await rollback(rl, game, to, reason=reason, decided_by=decided_by)


async def set_percentage(rl: asyncpg.Connection, percentage: float) -> RolloutStatus:
    """Changes the share of the running gradual rollout; what was planned after it no longer happens.

    Raises:
        StrategyError: Not from 0 to 100.
        NoRolloutError: No gradual rollout runs.
    """
    share = check_percentage(percentage)
    async with rl.transaction():
        row = await _running_one(rl, None)
        if row.strategy != "gradual":
            raise NoRolloutError("the rollout that runs names its agents", "It has no share.")
        await _set_share(rl, row, [Stage(share)])
        return msgspec.structs.replace(await rollout_status(rl), changed=True)


async def follow_schedule(rl: asyncpg.Connection, rollout_id: int, following: list[Stage]) -> None:
    """The share of the schedule's next step; `following` are that step and those after it.

    Raises:
        NoRolloutError: That rollout has ended.
    """
    async with rl.transaction():
        await _set_share(rl, await _running_one(rl, rollout_id), following)


async def _running_one(rl: asyncpg.Connection, rollout_id: int | None) -> RolloutRow:
    """The caller is in a transaction, which holds the lock from here on."""
    await rl.execute(LOCK)
    row = await rollout_rows.running(rl)
    if row is None or rollout_id not in (None, row.id):
        raise NoRolloutError(
            "no rollout is running" if rollout_id is None else f"rollout {rollout_id} has ended",
            "Somebody may have promoted it or taken it back; `babylon rollout` shows what serves.",
        )
    return row


async def _set_share(rl: asyncpg.Connection, row: RolloutRow, steps: list[Stage]) -> None:
    assignment = await read_assignment(rl, row)
    when: datetime = await rl.fetchval("SELECT now()")  # type: ignore[assignment]
    if row.experiment:
        when = datetime.fromtimestamp(assignment.next_pair_start(when.timestamp()), UTC)
    await rl.execute(_ADD_STAGE, row.id, when, steps[0].percentage)
    await rl.execute("UPDATE rl.rollouts SET schedule = $2 WHERE id = $1", row.id, _plain(steps))
    await rl.execute(_SHARE, row.deployment_id, steps[0].percentage)


async def _at_once(
    rl: asyncpg.Connection,
    game: asyncpg.Connection | None,
    version: str,
    reason: str,
    verdict_required: bool,
) -> RolloutStatus:
    deployment = await deploy(rl, game, version, reason=reason, verdict_required=verdict_required)
    return msgspec.structs.replace(await rollout_status(rl), changed=deployment.changed)


async def _base(rl: asyncpg.Connection, reason: str) -> Deployment:
    """The base model as what serves, before anything was deployed."""
    base = await registry.get(rl, str(BASE))
    identity = (base.version, base.model_id, base.base_model, base.storage_path)
    return Deployment(0, *identity, reason, datetime.now(UTC), None)


def _first_window(origin: datetime | None) -> datetime:
    if origin is None:
        now = datetime.now(UTC)
        return now.replace(minute=0, second=0, microsecond=0) + WINDOW_LENGTH
    if origin.tzinfo is None or origin.timestamp() % WINDOW_LENGTH.total_seconds() != 0:
        raise RolloutError(f"origin: {origin} is not the start of a window", "Give a full hour in UTC.")
    return origin


def _plain(steps: list[Stage]) -> list[dict[str, Any]]:
    return [msgspec.to_builtins(step) for step in steps]
