"""Who used which model, counted from the captured calls."""

from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from babylon_rl.database.connection import connect
from babylon_rl.deployment.call_usage import model_usage, roll_up
from babylon_rl.deployment.deploy import deploy
from babylon_rl_tests.deployment.conftest import MakeModel
from babylon_rl_tests.deployment.experiments import Market

pytestmark = pytest.mark.anyio


async def test_usage_is_counted_from_captured_calls_once(
    connection: asyncpg.Connection, dsn: str, rl: asyncpg.Connection, make: MakeModel
) -> None:
    active = (await make()).version
    await deploy(rl, None, active, reason="first")
    market = Market(connection)
    now, before = datetime.now(UTC), datetime.now(UTC) - timedelta(hours=30)
    for at, agent in ((now, "agent-1"), (now, "agent-2"), (now, "agent-1"), (before, "agent-3"), (now, None)):
        await market.call(at, agent, active, "active")
    gateway = await connect(dsn, role="babylon_gateway")
    for _ in range(2):
        await roll_up(gateway)
    usage = (await model_usage(gateway))[active]
    await gateway.close()
    assert (usage.agents_using, usage.inferences) == (2, 5)
    agents = await rl.fetch(
        "SELECT agent_id, calls FROM rl.deployment_agents WHERE agent_id <> '' ORDER BY 1"
    )
    assert [tuple(row) for row in agents] == [("agent-1", 2), ("agent-2", 1)]
