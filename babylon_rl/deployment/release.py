"""Release: the newest candidate of the live lineage goes into service if the gate promoted it.

History never changes what the agents get: a candidate that no longer heads the lineage is left alone.
"""

from dataclasses import dataclass

from babylon_rl.database.connection import Databases
from babylon_rl.deployment import canary, registry
from babylon_rl.deployment.deploy import deploy, was_rolled_back
from babylon_rl.deployment.lineage import newest_not_rejected
from babylon_rl.settings import Settings


@dataclass(frozen=True)
class Release:
    """What a release did, and why."""

    version: str | None
    """The version that serves now; None when nothing was ever deployed."""
    changed: bool
    reason: str


async def release(db: Databases, settings: Settings) -> Release:
    """Deploy the head of the live lineage if it is promoted; otherwise say why not."""
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
    deployment = await deploy(
        db.rl, db.game if settings.project_to_game else None, head.version, reason=reason
    )
    return Release(deployment.version, deployment.changed, reason)
