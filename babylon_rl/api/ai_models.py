"""`/api/admin/ai-models`: which model the game's agents are told to use, kept in its `SystemSettings`."""

from typing import Any

import asyncpg
from msgspec import UNSET

from babylon_rl.api.bodies import AiModelsBody
from babylon_rl.deployment import registry
from babylon_rl.settings import Settings

_READ = 'SELECT "wandbModel", "wandbEnabled" FROM "SystemSettings" WHERE "id" = \'system\''
_WRITE = """
INSERT INTO "SystemSettings" AS current ("id", "wandbModel", "wandbEnabled", "updatedAt")
VALUES ('system', $1, coalesce($2, false), now() AT TIME ZONE 'UTC')
ON CONFLICT ("id") DO UPDATE SET "wandbModel" = CASE WHEN $3 THEN $1 ELSE current."wandbModel" END,
    "wandbEnabled" = coalesce($2, current."wandbEnabled"), "updatedAt" = excluded."updatedAt"
"""


async def read_ai_models(
    game: asyncpg.Connection, rl: asyncpg.Connection, settings: Settings
) -> dict[str, Any]:
    """The `data` of the answer."""
    row = await game.fetchrow(_READ)
    current = {
        "wandbModel": row["wandbModel"] if row else None,
        "wandbEnabled": bool(row and row["wandbEnabled"]),
    }
    models = [model for model in await registry.list_models(rl) if model.status in registry.USABLE]
    names = [model.model_id for model in models if not model.is_base]
    active = await registry.active(rl)
    overridden = current["wandbEnabled"] and current["wandbModel"]
    return {
        "currentSettings": current,
        "providers": {
            "wandb": {"configured": settings.wandb_api_key is not None, "enabled": current["wandbEnabled"]},
            "gateway": {
                "configured": True,
                "enabled": settings.rl_model_enabled,
                "model": active.model_id if active else "babylon-agent-v0.0.0",
            },
        },
        "activeProvider": "wandb" if overridden else "gateway",
        "wandbModels": sorted({*names, *filter(None, [current["wandbModel"]])}, reverse=True)[:100],
        "recommendedModels": [active.model_id] if active else [],
    }


async def write_ai_models(game: asyncpg.Connection, body: AiModelsBody) -> None:
    """Changes what the body names and nothing else."""
    named = body.wandbModel is not UNSET
    model = None if body.wandbModel is UNSET else body.wandbModel
    enabled = None if body.wandbEnabled is UNSET else body.wandbEnabled
    await game.execute(_WRITE, model, enabled, named)
