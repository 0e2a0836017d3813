"""Release: the newest candidate of the live lineage goes into service if the gate promoted it.

History never changes what the agents get: a candidate that no longer heads the lineage is left alone.
"""

from dataclasses import dataclass

import asyncpg

from babylon_rl.database.connection import Databases
from babylon_rl.deployment import canary, registry
from babylon_rl.deployment.deploy import deploy, was_rolled_back
from babylon_rl.deployment.lineage import newest_not_rejected
from babylon_rl.deployment.rollout import rollout_status, start_rollout
from babylon_rl.deployment.strategies import parse_schedule, parse_strategy
from babylon_rl.settings import Settings


@dataclass(frozen=True)
class Release:
    """What a release did, and why."""

    version: str | None
    """The version that serves now; None when nothing was ever deployed."""
    changed: bool
    reason: str


async def release(db: Databases, settings: Settings) -> Release:
    """Deploy the head of the live lineage if it is promoted, as the settings say; otherwise say why not.

    Raises:
        StrategyError: DEPLOYMENT_SCHEDULE is none.
    """
    active = await registry.active(db.rl)
    serving = active.version if active else None
    head = await newest_not_rejected(db.rl)
    if head is None:
        return Release(serving, False, "there is no candidate: no day has been trained")
    if active is not None and head.version == active.version:
        return Release(serving, False, f"{head.version} serves already")
    if head.verdict != "promoted":
        verdict = head.verdict or "not judged yet"
        return Release(serving, False, f"the newest candidate {head.version} is {verdict}")
    if await was_rolled_back(db.rl, head.version):
        return Release(serving, False, f"{head.version} was rolled back; only an operator deploys it again")
    if await canary.refused(db.rl, head.version):
        return Release(serving, False, f"{head.version} failed its canary; only an operator deploys it again")
    reason = str(
        (head.metrics.get("benchmark") or {}).get("verdict", {}).get("reason", "promoted by the gate")
    )
    game = db.game if settings.project_to_game else None
    if parse_strategy(settings.deployment_strategy) == "gradual" and serving is not None:
        return await _gradually(db.rl, game, head.version, settings, reason)
    deployment = await deploy(db.rl, game, head.version, reason=reason)
    return Release(deployment.version, deployment.changed, reason)


async def _gradually(
    rl: asyncpg.Connection, game: asyncpg.Connection | None, version: str, settings: Settings, reason: str
) -> Release:
    """Starts a rollout; one that runs goes on, whoever its candidate is."""
    status = await rollout_status(rl)
    if status.candidate is not None:
        return Release(status.active, False, f"a rollout of {status.candidate} is running")
    started = await start_rollout(
        rl,
        game,
        version,
        strategy="gradual",
        schedule=parse_schedule(settings.deployment_schedule),
        block_windows=settings.rollout_block_windows,
        reason=reason,
    )
    if started.candidate is None:
        return Release(started.active, started.changed, reason)
    share = f"{started.schedule[0].percentage:g} % from {started.origin:%Y-%m-%d %H:%M} UTC on"
    return Release(started.active, True, f"{version} is rolled out beside it, {share}: {reason}")
