"""Whether a trained model should answer, and which: for programs that call a model themselves.

    from babylon_rl.rl_model_config import get_model_for_inference, should_use_rl_model

    if should_use_rl_model("agent-7"):
        model = await get_model_for_inference("agent-7")     # None: use the base model
        if model is not None:
            print(model.version, model.model_path)

It answers what the gateway does with the same settings and the same database (`serving/wanted.py`,
`serving/routing.py`); agents that ask the gateway need none of it.
"""

import json
import logging
import time
from dataclasses import dataclass

import asyncpg

from babylon_rl.database.connection import open_databases
from babylon_rl.deployment import registry
from babylon_rl.deployment.assignment import draw
from babylon_rl.deployment.deploy import current
from babylon_rl.deployment.errors import DeploymentError
from babylon_rl.deployment.registry import ModelRecord
from babylon_rl.serving.routing import TRAINED_SALT
from babylon_rl.serving.wanted import candidate_to_serve, model_to_serve, read_override
from babylon_rl.settings import Settings, get_settings

log = logging.getLogger(__name__)

ROLE = "babylon_gateway"


@dataclass(frozen=True)
class RLModelConfig:
    """What the settings say about trained models (seed 000)."""

    enabled: bool
    """`USE_RL_MODEL`; unset it is on outside production and off in production."""
    available: bool
    """Whether what serves trained models is configured."""
    reason: str
    """Why they are available, or what is missing."""
    version: str | None
    """`RL_MODEL_VERSION`, where it pins one."""
    fallback_to_base: bool
    rollout_percentage: float
    base_model: str | None
    """`BASE_MODEL`; None for the backend's own."""


@dataclass(frozen=True)
class RLModel:
    """A trained model that can answer."""

    version: str
    model_path: str | None
    """Where its weights are; None for a model that only a server knows."""
    model_id: str
    """Its name at a server."""
    base_model: str | None
    variant: str
    """active, candidate or override, as the gateway records it; pinned for `RL_MODEL_VERSION`."""


def get_rl_model_config(settings: Settings | None = None) -> RLModelConfig:
    """What the settings say; nothing is asked of a database or a server."""
    settings = settings or get_settings()
    available, reason = _availability(settings)
    return RLModelConfig(
        enabled=settings.rl_model_enabled,
        available=available,
        reason=reason,
        version=None if settings.rl_model_version == "latest" else settings.rl_model_version,
        fallback_to_base=settings.rl_fallback_to_base,
        rollout_percentage=settings.rl_rollout_percentage,
        base_model=settings.base_model,
    )


def _availability(settings: Settings) -> tuple[bool, str]:
    """Whether what would serve a trained model is configured, and why or why not; a rule per upstream."""
    kind, server = settings.gateway_upstream_kind, settings.gateway_upstream_url
    if kind in ("openai", "vllm") or (kind == "auto" and server is not None):
        return server is not None, "a server answers" if server else "GATEWAY_UPSTREAM_URL is not set"
    trains_there = settings.wandb_api_key is not None and settings.training_backend in ("auto", "serverless")
    if kind == "wandb" or (kind == "auto" and trains_there):
        values = {"WANDB_API_KEY": settings.wandb_api_key, "WANDB_ENTITY": settings.wandb_entity}
        missing = [name for name, value in values.items() if value is None]
        return not missing, f"{' and '.join(missing)} not set" if missing else "W&B Inference answers"
    return True, "the embedded engine answers"


def log_rl_configuration(settings: Settings) -> None:
    """Logs whether trained models may answer (seed 000: look for "RL Model Configuration")."""
    config = get_rl_model_config(settings)
    data = {
        "enabled": config.enabled,
        "available": config.available,
        "reason": config.reason,
        "version": config.version or "latest",
        "fallbackToBase": config.fallback_to_base,
        "rolloutPercentage": config.rollout_percentage,
        "baseModel": config.base_model,
        "production": settings.is_production,
    }
    shown = ", ".join(f"{name}: {json.dumps(value)}" for name, value in data.items())
    log.info("RL Model Configuration: { %s }", shown, extra={"data": data})


def is_rl_model_available(settings: Settings | None = None) -> bool:
    """Whether what serves trained models is configured, whatever `USE_RL_MODEL` says."""
    return get_rl_model_config(settings).available


def should_use_rl_model(agent_id: str | None = None, settings: Settings | None = None) -> bool:
    """Whether a trained model should answer this agent; without one, whether any agent gets one.

    `RL_ROLLOUT_PERCENTAGE` picks agents by a hash: the same ones every time, and raising it moves nobody out.
    """
    config = get_rl_model_config(settings)
    if agent_id is None:
        return _usable(config) and config.rollout_percentage > 0
    return _usable(config) and _has_share(config, agent_id)


def _usable(config: RLModelConfig) -> bool:
    return config.enabled and config.available


def _has_share(config: RLModelConfig, agent_id: str | None) -> bool:
    """Nobody in particular gets what is proven: a trained model only where everybody does."""
    share = config.rollout_percentage
    return share >= 100 if agent_id is None else draw(agent_id, TRAINED_SALT) < share


async def get_latest_rl_model(
    rl: asyncpg.Connection | None = None, settings: Settings | None = None
) -> RLModel | None:
    """The deployed model, whatever the switches say; None before the first deployment.

    Never the newest row that is merely ready: what the gate did not promote does not answer.
    """
    if rl is None:
        async with open_databases(settings or get_settings(), role=ROLE) as databases:
            return await get_latest_rl_model(databases.rl)
    deployment = await current(rl)
    return None if deployment is None else _shown(await registry.get(rl, deployment.version), "active")


async def get_model_for_inference(
    agent_id: str | None = None, settings: Settings | None = None
) -> RLModel | None:
    """The model that should answer this agent now, as the gateway decides it; None for the base model.

    Order: the switch, the pin, the game's `SystemSettings.wandbModel` (which no share of agents limits),
    `RL_ROLLOUT_PERCENTAGE`, a running rollout, the deployed version.

    Raises:
        DeploymentError: The pinned version is not registered, and RL_FALLBACK_TO_BASE is false.
    """
    settings = settings or get_settings()
    config = get_rl_model_config(settings)
    if not _usable(config):
        return None
    async with open_databases(settings, role=ROLE) as databases:
        try:
            wanted = await model_to_serve(databases.rl, settings, await read_override(databases.game))
        except DeploymentError as missing:
            if not settings.rl_fallback_to_base:
                raise
            log.warning("RL model: the base model answers: %s", missing)
            return None
        if wanted.external and wanted.override is not None:
            return RLModel("external", None, wanted.override, None, "override")
        if wanted.override is None and not _has_share(config, agent_id):
            return None
        candidate = await candidate_to_serve(databases.rl, settings, wanted)
    if candidate is not None and candidate.assignment.arm(agent_id, time.time()) == "candidate":
        return _shown(candidate.model, "candidate")
    if wanted.model.is_base:
        return None
    variant = "pinned" if wanted.pinned else "override" if wanted.override is not None else "active"
    return _shown(wanted.model, variant)


def _shown(model: ModelRecord, variant: str) -> RLModel | None:
    if model.is_base:
        return None
    return RLModel(model.version, model.storage_path, model.model_id, model.base_model, variant)
