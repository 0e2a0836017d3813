"""What should answer: by USE_RL_MODEL, a pin, the game's override, the deployment, and the rollout beside it.

USE_RL_MODEL=false          the base model
RL_MODEL_VERSION=v0.0.2     that version for everybody; neither override nor rollout
SystemSettings.wandbModel   what the game's operators chose, while wandbEnabled; no rollout
rl.deployments              the active version, and a running rollout's candidate
"""

import logging
from dataclasses import dataclass

import asyncpg

from babylon_rl.deployment import registry, rollout_rows
from babylon_rl.deployment.assignment import Assignment
from babylon_rl.deployment.deploy import current
from babylon_rl.deployment.registry import ModelRecord
from babylon_rl.deployment.versions import BASE
from babylon_rl.settings import Settings

log = logging.getLogger(__name__)

_OVERRIDE = """
SELECT "wandbModel" FROM "SystemSettings" WHERE "id" = 'system' AND "wandbEnabled" AND "wandbModel" <> ''
"""
_NAMED = """
SELECT version FROM rl.models
 WHERE (version = $1 OR model_id = $1 OR storage_path = $1) AND status IN ('ready', 'deployed', 'archived')
"""


@dataclass(frozen=True)
class Wanted:
    """What should answer."""

    model: ModelRecord
    """With `external`, what answers where that cannot be opened."""
    deployment_id: int | None
    """Of the deployment that asks for it; None for a pinned version and for the base model."""
    override: str | None = None
    """What `SystemSettings.wandbModel` says, where that decided."""
    external: bool = False
    """Whether the override names a model that is not in the registry."""
    pinned: bool = False


@dataclass(frozen=True)
class Candidate:
    """The candidate of a running rollout."""

    model: ModelRecord
    deployment_id: int
    assignment: Assignment


async def read_override(game: asyncpg.Connection) -> str | None:
    """What the game's operators chose in `SystemSettings`, None where they did not.

    A table that is missing or closed to the gateway's role means that nothing was chosen.
    """
    try:
        async with game.transaction():
            return await game.fetchval(_OVERRIDE)
    except (asyncpg.UndefinedTableError, asyncpg.UndefinedColumnError, asyncpg.InsufficientPrivilegeError):
        return None


async def model_to_serve(rl: asyncpg.Connection, settings: Settings, override: str | None = None) -> Wanted:
    """The model that should answer now.

    Args:
        override: As `read_override` found it: a version, a model id, a storage path, or another model's name.

    Raises:
        UnknownVersionError: the pinned version, or even the base model, is not registered.
    """
    if settings.rl_model_enabled:
        if settings.rl_model_version != "latest":
            return Wanted(await registry.get(rl, settings.rl_model_version), None, pinned=True)
        deployment = await current(rl)
        if override is not None:
            version = await rl.fetchval(_NAMED, override)
            known = version or (deployment.version if deployment else str(BASE))
            return Wanted(await registry.get(rl, known), None, override, external=version is None)
        if deployment is not None:
            return Wanted(await registry.get(rl, deployment.version), deployment.id)
    return Wanted(await registry.get(rl, str(BASE)), None)


async def candidate_to_serve(rl: asyncpg.Connection, settings: Settings, wanted: Wanted) -> Candidate | None:
    """The candidate that should answer beside the active version; None without a rollout, or under a pin."""
    if not settings.rl_model_enabled or wanted.pinned or wanted.override is not None:
        return None
    row = await rollout_rows.running(rl)
    if row is None:
        return None
    assignment = await rollout_rows.read_assignment(rl, row)
    return Candidate(await registry.get(rl, row.version), row.deployment_id, assignment)
