"""agentsUsing and totalInferences: from captured calls, in the admin API and in the game's own table."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg

from babylon_rl.database.connection import connect
from babylon_rl.deployment.call_usage import roll_up
from babylon_rl.deployment.deploy import deploy, project_serving
from babylon_rl.deployment.registry import ensure_base, register
from babylon_rl_tests.api.conftest import Admin
from babylon_rl_tests.deployment.experiments import Market

_GAME = 'SELECT "status", "agentsUsing", "totalInferences" FROM trained_models WHERE "version" = $1'


async def used(dsn: str) -> list[asyncpg.Record]:
    """v0.0.1 answers two agents today, one two days ago, then another one: what the game sees."""
    rl = await connect(dsn)
    try:
        await ensure_base(rl, base_model="tiny", storage_path="file:///models/base")
        model = await register(rl, parent_version="v0.0.0", storage_path="file:///models/1")
        await deploy(rl, rl, model.version, reason="first", verdict_required=False)
        market, now = Market(rl), datetime.now(UTC)
        for agent in ("agent-1", "agent-2", "agent-1"):
            await market.call(now, agent, model.version, "active")
        await market.call(now - timedelta(days=2), "agent-3", model.version, "active")
        seen = []
        for agent in ("agent-4", "agent-4"):
            await roll_up(rl)
            await project_serving(rl, rl)
            seen.append(await rl.fetchrow(_GAME, model.version))
            await market.call(now, agent, model.version, "active")
        await roll_up(rl)
        return seen
    finally:
        await rl.close()


def test_usage_is_counted_for_operators_and_for_the_game(admin: Admin, dsn: str) -> None:
    seen: list[Any] = asyncio.run(used(dsn))
    assert [tuple(row) for row in seen] == [("deployed", 2, 4), ("deployed", 3, 5)]
    models = {model["version"]: model for model in admin.get("/api/admin/training/models").json()["models"]}
    assert (models["v0.0.1"]["agentsUsing"], models["v0.0.1"]["totalInferences"]) == (3, 6)
    assert (models["v0.0.0"]["agentsUsing"], models["v0.0.0"]["totalInferences"]) == (0, 0)
