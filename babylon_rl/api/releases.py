"""Deploying and going back through the admin API."""

from typing import Any

import asyncpg

from babylon_rl.api.bodies import DeployBody, RollbackBody
from babylon_rl.api.errors import AdminError
from babylon_rl.api.formats import iso
from babylon_rl.database.connection import Databases
from babylon_rl.deployment.deploy import Deployment, current, deploy, rollback
from babylon_rl.deployment.registry import get
from babylon_rl.settings import Settings

STRATEGIES = {"replace": "immediate", "blue-green": "immediate", "canary": "gradual"}
"""Names of the old configuration, and what they mean here."""

AVAILABLE = ("immediate",)
"""Strategies that the deployment room has; the dashboard offers these."""

_AGENTS = "SELECT count(DISTINCT agent_id)::int FROM rl.window_rows WHERE excluded IS NULL"
_OPEN = """
SELECT version, role, percentage, reason, started_at FROM rl.deployments WHERE ended_at IS NULL ORDER BY role
"""


async def release(db: Databases, settings: Settings, body: DeployBody) -> dict[str, Any]:
    """Deploys a version as the strategy says.

    Raises:
        AdminError: 400 where the body contradicts itself.
        DeploymentError: the version is unknown, not ready, or not promoted.
    """
    strategy = STRATEGIES.get(body.strategy, body.strategy)
    await get(db.rl, body.modelVersion)
    if strategy == "test" and not body.testAgentIds:
        raise AdminError(400, "testAgentIds: strategy test needs the agents that try the model")
    if strategy not in AVAILABLE:
        raise AdminError(409, f"strategy: {body.strategy} is not available yet", "Send immediate.")
    deployment = await deploy(
        db.rl, _game(db, settings), body.modelVersion, reason=body.reason, verdict_required=not body.force
    )
    return await _answer(db.rl, deployment)


async def take_back(db: Databases, settings: Settings, body: RollbackBody) -> dict[str, Any]:
    """Serves an earlier version again, at once.

    Raises:
        DeploymentError: there is none to go back to.
    """
    deployment = await rollback(db.rl, _game(db, settings), body.targetVersion, reason=body.reason)
    return await _answer(db.rl, deployment)


async def read_rollout(rl: asyncpg.Connection) -> dict[str, Any]:
    """Who serves, and who tries to replace it."""
    rows = {row["role"]: row for row in await rl.fetch(_OPEN)}

    def one(role: str) -> dict[str, Any] | None:
        row = rows.get(role)
        if row is None:
            return None
        kept = ("version", "percentage", "reason")
        return {**{key: row[key] for key in kept}, "startedAt": iso(row["started_at"])}

    return {"active": one("active"), "candidate": one("candidate"), "strategies": list(AVAILABLE)}


async def _answer(rl: asyncpg.Connection, deployment: Deployment) -> dict[str, Any]:
    now = await current(rl)
    return {
        "agentsUpdated": await rl.fetchval(_AGENTS) if deployment.changed else 0,
        "deploymentId": str(now.id if now else deployment.id),
        "modelVersion": deployment.version,
        "replaced": deployment.replaced,
        "changed": deployment.changed,
    }


def _game(db: Databases, settings: Settings) -> asyncpg.Connection | None:
    return db.game if settings.project_to_game else None
