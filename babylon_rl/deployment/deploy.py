"""Which model serves: one active deployment, its history, switched in one transaction under a lock."""

import logging
from datetime import datetime
from typing import Literal

import asyncpg
import msgspec

from babylon_rl.deployment.call_usage import model_usage
from babylon_rl.deployment.errors import (
    NothingToRollBackError,
    ProjectionConflictError,
    WrongStatusError,
    WrongVerdictError,
)
from babylon_rl.deployment.projection import project_model, project_usage, shown_statuses
from babylon_rl.deployment.registry import USABLE, ModelRecord, get, list_models
from babylon_rl.deployment.rollout_rows import LOCK, close, running

log = logging.getLogger(__name__)

Cause = Literal["deploy", "promotion", "rollback"]

_SELECT = """
SELECT deployment.id, deployment.version, model.model_id, model.base_model, model.storage_path,
       deployment.reason, deployment.started_at, deployment.ended_at, deployment.cause
  FROM rl.deployments AS deployment JOIN rl.models AS model USING (version)
 WHERE deployment.role = 'active'
"""
_CURRENT = f"{_SELECT} AND deployment.ended_at IS NULL"
_HISTORY = f"{_SELECT} ORDER BY deployment.id DESC LIMIT $1"
_ALL_VERSIONS = "SELECT version FROM rl.deployments WHERE role = 'active' ORDER BY id"
_END_ACTIVE = "UPDATE rl.deployments SET ended_at = now() WHERE role = 'active' AND ended_at IS NULL"
_END_CANDIDATE = "UPDATE rl.deployments SET ended_at = now() WHERE role = 'candidate' AND ended_at IS NULL"
_ARCHIVE = "UPDATE rl.models SET status = 'archived', archived_at = now() WHERE version = $1"
_START = """
INSERT INTO rl.deployments (version, role, percentage, reason, cause) VALUES ($1, 'active', 100, $2, $3)
"""
_MARK = "UPDATE rl.models SET status = 'deployed', deployed_at = now(), archived_at = NULL WHERE version = $1"


class Deployment(msgspec.Struct, frozen=True):
    """An active deployment, present or past; times are aware UTC.

    `changed` is whether the call that returned it switched models, `replaced` the version it switched from.
    """

    id: int
    version: str
    model_id: str
    base_model: str
    storage_path: str | None
    reason: str | None
    started_at: datetime
    ended_at: datetime | None
    cause: Cause = "deploy"
    changed: bool = False
    replaced: str | None = None


async def current(rl: asyncpg.Connection) -> Deployment | None:
    """What serves now, None before the first deployment."""
    row = await rl.fetchrow(_CURRENT)
    return Deployment(**dict(row)) if row is not None else None


async def history(rl: asyncpg.Connection, limit: int = 100) -> list[Deployment]:
    """Active deployments, newest first."""
    return [Deployment(**dict(row)) for row in await rl.fetch(_HISTORY, limit)]


async def deploy(
    rl: asyncpg.Connection,
    game: asyncpg.Connection | None,
    version: str,
    *,
    reason: str,
    verdict_required: bool = True,
) -> Deployment:
    """Make a model the active one; the one before it is archived. Deploying the active model changes nothing.

    The base model needs no verdict: it is the last resort.

    Args:
        game: Where the change is projected to after it is decided; None for nowhere. A failure there is
            logged and repaired by the next `project_model`; it does not undo the deployment.
        verdict_required: False deploys what the gate has not promoted; the reason should say why.

    Raises:
        UnknownVersionError: No such model.
        WrongStatusError: It is still training, or failed.
        WrongVerdictError: The gate has not promoted it.
    """
    async with rl.transaction():
        await rl.execute(LOCK)
        deployment = await switch(rl, version, reason, verdict_required=verdict_required)
    await project_change(rl, game, deployment)
    return deployment


async def rollback(
    rl: asyncpg.Connection,
    game: asyncpg.Connection | None,
    to: str | None = None,
    *,
    reason: str = "rollback",
    decided_by: str = "operator",
) -> Deployment:
    """Go back to the model that served before the active one, or to a named one that served before.

    Going back twice goes back two steps: a model that was rolled back is not returned to.

    Raises:
        NothingToRollBackError: Nothing is deployed, nothing was before it, or the named one never served.
        WrongStatusError: That model failed meanwhile.
    """
    async with rl.transaction():
        await rl.execute(LOCK)
        path = _path_to_current([row["version"] for row in await rl.fetch(_ALL_VERSIONS)])
        if not path:
            raise NothingToRollBackError(
                "no model was ever deployed", "Deploy one with `babylon deploy VERSION`."
            )
        if to is not None:
            target = (await get(rl, to)).version
            served = await rl.fetchval(
                "SELECT EXISTS (SELECT FROM rl.deployments WHERE role = 'active' AND version = $1)", target
            )
            if not served:
                raise NothingToRollBackError(
                    f"{target} was never deployed", "Deploy it with `babylon deploy`, or name one that was."
                )
        elif len(path) < 2:
            raise NothingToRollBackError(
                f"{path[-1]} is the first model that was deployed",
                "Deploy another with `babylon deploy VERSION`.",
            )
        else:
            target = path[-2]
        deployment = await switch(
            rl, target, reason, verdict_required=False, cause="rollback", decided_by=decided_by
        )
    await project_change(rl, game, deployment)
    return deployment


async def was_rolled_back(rl: asyncpg.Connection, version: str) -> bool:
    """Whether the version served and was taken back since, so that only a person should deploy it again."""
    versions = [row["version"] for row in await rl.fetch(_ALL_VERSIONS)]
    return version in versions and version not in _path_to_current(versions)


async def switch(
    rl: asyncpg.Connection,
    version: str,
    reason: str,
    *,
    verdict_required: bool,
    cause: Cause = "deploy",
    decided_by: str = "operator",
) -> Deployment:
    """Makes a version the active one and ends a running rollout; the caller holds the lock in a transaction.

    A rollout of this version ends as promoted, one of another ends because its incumbent is gone.
    """
    before = await current(rl)
    model = await get(rl, version)
    if before is not None and before.version == model.version:
        return before
    require_deployable(model, verdict_required)
    if (rollout := await running(rl)) is not None:
        promoted = rollout.version == model.version
        told = reason if promoted else f"{model.version} was deployed meanwhile: {reason}"
        await close(rl, rollout, "promoted" if promoted else "ended", told, decided_by)
    await rl.execute(_END_ACTIVE)
    await rl.execute(_END_CANDIDATE)
    if before is not None:
        await rl.execute(_ARCHIVE, before.version)
    await rl.execute(_START, model.version, reason, cause)
    await rl.execute(_MARK, model.version)
    after = await current(rl)
    assert after is not None
    return msgspec.structs.replace(after, changed=True, replaced=before.version if before else None)


def _path_to_current(versions: list[str]) -> list[str]:
    """The deployments that led to the present one, without what was rolled back: A, B, A leaves A."""
    path: list[str] = []
    for version in versions:
        if version in path:
            del path[path.index(version) + 1 :]
        else:
            path.append(version)
    return path


def require_deployable(model: ModelRecord, verdict_required: bool) -> None:
    """Refuses what may not serve.

    Raises:
        WrongStatusError: It is still training, or failed.
        WrongVerdictError: The gate has not promoted it.
    """
    if model.status not in USABLE:
        raise WrongStatusError(
            f"{model.version} is {model.status} and cannot be deployed",
            "Wait until its training is done." if model.status == "training" else "Deploy another version.",
        )
    if verdict_required and not model.is_base and model.verdict != "promoted":
        raise WrongVerdictError(
            f"the gate has not promoted {model.version}: {model.verdict or 'it was not judged yet'}",
            "Benchmark it, or deploy it against the verdict with `--force`.",
        )


async def project_change(
    rl: asyncpg.Connection, game: asyncpg.Connection | None, deployment: Deployment
) -> None:
    """Logs a change of who serves and shows it to the game; a failure there is logged, not raised."""
    if deployment.changed:
        told = {"version": deployment.version, "replaced": deployment.replaced, "reason": deployment.reason}
        log.info("RL model %s serves now (%s)", deployment.version, deployment.reason, extra={"data": told})
    if game is None or not deployment.changed:
        return
    for version in filter(None, (deployment.replaced, deployment.version)):
        try:
            async with game.transaction():
                await project_model(game, await get(rl, version))
        except (asyncpg.PostgresError, ProjectionConflictError, OSError) as problem:
            log.warning("%s is not shown in the game's trained_models yet: %s", version, problem)


async def project_serving(rl: asyncpg.Connection, game: asyncpg.Connection) -> None:
    """Shows the game what a gateway decided by itself, and how much each model is used; repeatable.

    A failure is logged, not raised: the next call makes up for it.
    """
    try:
        async with game.transaction():
            shown = await shown_statuses(game)
            for model in await list_models(rl):
                if shown.get(model.version, model.status) != model.status:
                    await project_model(game, model)
            await project_usage(game, await model_usage(rl))
    except (asyncpg.PostgresError, ProjectionConflictError, OSError) as problem:
        log.warning("what serves is not shown in the game's trained_models yet: %s", problem)
