"""Deploying and going back through the admin API."""

from typing import Any

import asyncpg
import msgspec

from babylon_rl.api.bodies import DeployBody, PromoteBody, RollbackBody
from babylon_rl.api.errors import AdminError
from babylon_rl.api.formats import iso, number
from babylon_rl.database.connection import Databases
from babylon_rl.deployment.deploy import Deployment, current
from babylon_rl.deployment.registry import get
from babylon_rl.deployment.rollout import RolloutStatus, promote, roll_back, rollout_status, start_rollout
from babylon_rl.deployment.strategies import STRATEGIES, parse_schedule, parse_strategy
from babylon_rl.settings import Settings

_AGENTS = "SELECT count(DISTINCT agent_id)::int FROM rl.window_rows WHERE excluded IS NULL"
_BEFORE = """
SELECT version FROM rl.deployments WHERE ended_at IS NOT NULL ORDER BY ended_at DESC, id DESC LIMIT 1
"""
_OPEN = """
SELECT version, role, reason, started_at FROM rl.deployments WHERE ended_at IS NULL ORDER BY role
"""


async def release(db: Databases, settings: Settings, body: DeployBody) -> dict[str, Any]:
    """Releases a version as the strategy says; again for the same version changes its share.

    Raises:
        AdminError: 400 where the body contradicts itself.
        StrategyError: the schedule or an agent's id is none.
        DeploymentError: the version is unknown, not ready, not promoted, or another one's rollout runs.
    """
    strategy = parse_strategy(body.strategy)
    await get(db.rl, body.modelVersion)
    if strategy == "test" and not body.testAgentIds:
        raise AdminError(400, "testAgentIds: strategy test needs the agents that try the model")
    if strategy != "test" and body.testAgentIds:
        raise AdminError(400, f"testAgentIds: strategy {body.strategy} names no agents", "Use strategy test.")
    if strategy != "gradual" and body.schedule:
        raise AdminError(400, f"schedule: strategy {body.strategy} has none", "Use strategy gradual.")
    schedule = parse_schedule(body.schedule) if body.schedule else None
    status = await start_rollout(
        db.rl,
        _game(db, settings),
        body.modelVersion,
        strategy=strategy,
        percentage=body.rolloutPercentage if strategy == "gradual" and schedule is None else None,
        schedule=schedule,
        agents=body.testAgentIds if strategy == "test" else (),
        block_windows=settings.rollout_block_windows,
        reason=body.reason,
        verdict_required=not body.force,
    )
    return {
        "agentsUpdated": await _agents_updated(db.rl, status),
        "deploymentId": str(await _open_deployment(db.rl, status)),
        "modelVersion": status.candidate or status.active,
        "replaced": await _before(db.rl) if status.changed and not status.candidate else None,
        "changed": status.changed,
        "strategy": strategy if status.candidate else "immediate",
        "rolloutPercentage": status.percentage if status.candidate else 100.0,
    }


async def finish(db: Databases, settings: Settings, body: PromoteBody) -> dict[str, Any]:
    """Gives the candidate to everybody.

    Raises:
        NoRolloutError: no rollout is running.
    """
    deployment = await promote(db.rl, _game(db, settings), reason=body.reason)
    return await _answer(db.rl, deployment)


async def take_back(db: Databases, settings: Settings, body: RollbackBody) -> dict[str, Any]:
    """Takes a running rollout's candidate back, or serves an earlier version again, at once.

    Raises:
        DeploymentError: there is none to go back to.
    """
    deployment = await roll_back(db.rl, _game(db, settings), body.targetVersion, reason=body.reason)
    return await _answer(db.rl, deployment)


async def read_rollout(rl: asyncpg.Connection, settings: Settings, override: str | None) -> dict[str, Any]:
    """Who serves, who tries to replace it, and what the experiment says.

    Args:
        override: What `SystemSettings.wandbModel` names, where that decides.
    """
    rows = {row["role"]: row for row in await rl.fetch(_OPEN)}
    status = await rollout_status(rl)

    def one(role: str, percentage: float | None) -> dict[str, Any] | None:
        row = rows.get(role)
        if row is None:
            return None
        kept = {key: row[key] for key in ("version", "reason")}
        return {**kept, "percentage": percentage, "startedAt": iso(row["started_at"])}

    candidate = one("candidate", status.percentage)
    if candidate is not None:
        candidate |= {
            "strategy": status.strategy,
            "schedule": msgspec.to_builtins(status.schedule),
            "agents": status.agents,
            "measuredFrom": iso(status.origin) if status.experiment else None,
            "blockHours": status.block_windows if status.experiment else None,
        }
    return {
        "active": one("active", 100.0),
        "candidate": candidate,
        "experiment": _experiment(status),
        "strategies": list(STRATEGIES),
        "override": override,
        "enabled": settings.rl_model_enabled,
        "pinned": None if settings.rl_model_version == "latest" else settings.rl_model_version,
        "trainedShare": settings.rl_rollout_percentage,
    }


def _experiment(status: RolloutStatus) -> dict[str, Any] | None:
    """The newest look at the experiment; None while there is none."""
    if status.check is None:
        return None
    return {
        "decision": status.check.decision,
        "reason": status.check.reason,
        "checkedAt": iso(status.check.checked_at),
        "windows": status.check.report.get("windows"),
        "pairs": status.check.report.get("pairs"),
        "leftOut": status.check.report.get("leftOut") or {},
        "metrics": [
            {
                "label": metric["label"],
                "candidate": number(metric["candidate"]),
                "incumbent": number(metric["incumbent"]),
                **{key: number(metric["band"][key]) for key in ("mean", "low", "high", "detectable")},
                "n": metric["band"]["n"],
            }
            for metric in (status.check.report.get("metrics") or {}).values()
        ],
    }


async def _answer(rl: asyncpg.Connection, deployment: Deployment) -> dict[str, Any]:
    now = await current(rl)
    return {
        "agentsUpdated": await rl.fetchval(_AGENTS) if deployment.changed else 0,
        "deploymentId": str(now.id if now else deployment.id),
        "modelVersion": deployment.version,
        "replaced": deployment.replaced,
        "changed": deployment.changed,
    }


async def _agents_updated(rl: asyncpg.Connection, status: RolloutStatus) -> int:
    """How many of the recorded agents a change moved; of a share, about so many."""
    if not status.changed:
        return 0
    if status.strategy == "test":
        return len(status.agents)
    known: int = await rl.fetchval(_AGENTS)  # type: ignore[assignment]
    return round(known * status.schedule[0].percentage / 100) if status.candidate else known


async def _open_deployment(rl: asyncpg.Connection, status: RolloutStatus) -> int | None:
    if status.candidate is None:
        return status.deployment_id
    return await rl.fetchval("SELECT id FROM rl.deployments WHERE role = 'candidate' AND ended_at IS NULL")


async def _before(rl: asyncpg.Connection) -> str | None:
    """The version that served before the active one."""
    return await rl.fetchval(_BEFORE)


def _game(db: Databases, settings: Settings) -> asyncpg.Connection | None:
    return db.game if settings.project_to_game else None
