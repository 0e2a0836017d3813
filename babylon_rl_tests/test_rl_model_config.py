"""Which model a program should ask for: the switches, the rules per upstream, the order of the gateway."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import asyncpg
import pytest

from babylon_rl.database.connection import connect
from babylon_rl.deployment import registry
from babylon_rl.deployment.deploy import deploy
from babylon_rl.deployment.errors import UnknownVersionError
from babylon_rl.deployment.rollout import promote, roll_back, start_rollout
from babylon_rl.rl_model_config import (
    RLModel,
    get_latest_rl_model,
    get_model_for_inference,
    get_rl_model_config,
    is_rl_model_available,
    should_use_rl_model,
)
from babylon_rl.settings import Settings

AGENTS = [f"agent-{number}" for number in range(200)]
KEY = "k" * 40


def given(**changes: Any) -> Settings:
    return Settings(_env_file=None, **changes)


@pytest.mark.parametrize(
    ("environment", "switch", "enabled"),
    [
        ("development", None, True),
        ("production", None, False),
        ("production", True, True),
        ("development", False, False),
    ],
)
def test_on_outside_production_and_off_in_production(
    settings: Settings, environment: str, switch: bool | None, enabled: bool
) -> None:
    chosen = given(babylon_env=environment, use_rl_model=switch)
    assert get_rl_model_config(chosen).enabled is enabled
    assert should_use_rl_model("agent-1", chosen) is enabled


@pytest.mark.parametrize(
    ("changes", "available", "reason"),
    [
        ({}, True, "the embedded engine answers"),
        ({"wandb_api_key": KEY}, False, "WANDB_ENTITY not set"),
        ({"wandb_api_key": KEY, "wandb_entity": "team"}, True, "W&B Inference answers"),
        ({"wandb_api_key": KEY, "training_backend": "embedded"}, True, "the embedded engine answers"),
        ({"gateway_upstream_kind": "wandb"}, False, "WANDB_API_KEY and WANDB_ENTITY not set"),
        ({"gateway_upstream_kind": "vllm"}, False, "GATEWAY_UPSTREAM_URL is not set"),
        ({"gateway_upstream_url": "http://127.0.0.1:9/v1"}, True, "a server answers"),
    ],
)
def test_what_is_available_depends_on_what_serves(
    settings: Settings, changes: dict[str, Any], available: bool, reason: str
) -> None:
    config = get_rl_model_config(given(**changes))
    assert (config.available, config.reason) == (available, reason)
    assert is_rl_model_available(given(**changes)) is available
    assert should_use_rl_model(None, given(**changes)) is available


def test_a_share_of_the_agents_is_the_same_every_time_and_grows(settings: Settings) -> None:
    chosen = {
        share: {agent for agent in AGENTS if should_use_rl_model(agent, given(rl_rollout_percentage=share))}
        for share in (0, 10, 50, 100)
    }
    assert chosen[0] == set() and chosen[100] == set(AGENTS)
    assert chosen[10] < chosen[50] and 60 < len(chosen[50]) < 140


@pytest.fixture
async def rl(anyio_backend: str, dsn: str):
    connection = await connect(dsn)
    await registry.ensure_base(connection, base_model="tiny", storage_path="file:///models/base")
    for number in (1, 2):
        await registry.register(connection, parent_version="v0.0.0", storage_path=f"file:///models/{number}")
    yield connection
    await connection.close()


def version_of(model: RLModel | None) -> tuple[str, str] | None:
    return None if model is None else (model.version, model.variant)


@pytest.mark.anyio
async def test_the_order_is_the_gateways(rl: asyncpg.Connection, settings: Settings) -> None:
    assert await get_latest_rl_model() is None, "what is only ready does not answer"
    assert await get_model_for_inference("agent-1") is None
    await deploy(rl, None, "v0.0.1", reason="first", verdict_required=False)
    latest = await get_latest_rl_model()
    assert latest == RLModel("v0.0.1", "file:///models/1", "babylon-agent-v0.0.1", "tiny", "active")
    assert version_of(await get_model_for_inference("agent-1")) == ("v0.0.1", "active")
    await start_rollout(rl, None, "v0.0.2", strategy="test", agents=["agent-7"], verdict_required=False)
    assert version_of(await get_model_for_inference("agent-7")) == ("v0.0.2", "candidate")
    assert version_of(await get_model_for_inference("agent-1")) == ("v0.0.1", "active")
    assert version_of(await get_model_for_inference()) == ("v0.0.1", "active")
    pinned = given(database_url=settings.database_url, rl_model_version="v0.0.2")
    assert version_of(await get_model_for_inference("agent-1", pinned)) == ("v0.0.2", "pinned")
    await promote(rl, None)
    assert version_of(await get_model_for_inference("agent-1", pinned)) == ("v0.0.2", "pinned"), (
        "deployed now"
    )
    await roll_back(rl, None)
    assert version_of(await get_model_for_inference("agent-7")) == ("v0.0.1", "active")
    share = given(database_url=settings.database_url, rl_rollout_percentage=50)
    for agent in AGENTS[:6]:
        found = await get_model_for_inference(agent, share)
        assert (found is not None) is should_use_rl_model(agent, share)
    assert await get_model_for_inference(None, share) is None, "nobody in particular"
    off = given(database_url=settings.database_url, use_rl_model=False)
    assert await get_model_for_inference("agent-1", off) is None


@pytest.mark.anyio
async def test_the_games_override_and_a_pin_that_is_unknown(
    rl: asyncpg.Connection, settings: Settings
) -> None:
    await deploy(rl, None, "v0.0.1", reason="first", verdict_required=False)
    unknown = {"database_url": settings.database_url, "rl_model_version": "v9.9.9"}
    assert await get_model_for_inference("agent-1", given(**unknown)) is None
    with pytest.raises(UnknownVersionError, match=r"v9\.9\.9"):
        await get_model_for_inference("agent-1", given(**unknown, rl_fallback_to_base=False))
    await rl.execute(
        'INSERT INTO "SystemSettings" ("id", "wandbModel", "wandbEnabled", "updatedAt")'
        " VALUES ('system', 'v0.0.2', true, now() AT TIME ZONE 'UTC')"
    )
    assert version_of(await get_model_for_inference("agent-1")) == ("v0.0.2", "override")
    nobody = given(database_url=settings.database_url, rl_rollout_percentage=0)
    assert version_of(await get_model_for_inference("agent-1", nobody)) == ("v0.0.2", "override")
    await rl.execute("""UPDATE "SystemSettings" SET "wandbModel" = 'team/other-model'""")
    assert await get_model_for_inference("agent-1") == RLModel(
        "external", None, "team/other-model", None, "override"
    )


@pytest.mark.anyio
async def test_the_example_of_the_docs_runs(rl: asyncpg.Connection, dsn: str, tmp_path: Path) -> None:
    await deploy(rl, None, "v0.0.1", reason="first", verdict_required=False)
    root = Path(__file__).parents[1]
    blocks = re.findall(r"```python\n(.*?)```", (root / "docs/serving.md").read_text(), re.DOTALL)
    (example,) = [block for block in blocks if "get_rl_model_config" in block]
    environment = {"PATH": os.environ["PATH"], "DATABASE_URL": dsn, "BABYLON_HOME": str(tmp_path)}
    ran = await anyio.run_process(
        [sys.executable, "-c", example], cwd=root, env=environment, check=False, stderr=subprocess.STDOUT
    )
    shown = ran.stdout.decode()
    assert "RLModelConfig(enabled=True" in shown and "('v0.0.1', 'file:///models/1', 'active')" in shown, (
        shown
    )
