"""A Dagster instance as an installation has it: dagster.yaml of the repository, PostgreSQL storage."""

import asyncio
from collections.abc import Callable, Iterator

import dagster as dg
import pytest

from babylon_rl.database.connection import connect
from babylon_rl.orchestration.instance import LIBRARY_ENVIRONMENT, open_instance
from babylon_rl.settings import Settings, get_settings
from babylon_rl_tests.orchestration.recorded import record_window


@pytest.fixture
def dagster_settings(monkeypatch: pytest.MonkeyPatch, settings: Settings, empty_dsn: str) -> Settings:
    """Settings whose Dagster storage is a database of its own; variables exported meanwhile are restored."""
    for name in ("DAGSTER_HOME", *LIBRARY_ENVIRONMENT):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("DAGSTER_PG", empty_dsn)
    monkeypatch.setenv("WANDB_MODE", "none")
    get_settings.cache_clear()
    return get_settings()


@pytest.fixture
def pg_instance(dagster_settings: Settings) -> Iterator[dg.DagsterInstance]:
    """An open instance on PostgreSQL."""
    with open_instance(dagster_settings) as instance:
        yield instance


@pytest.fixture
def record(dsn: str) -> Callable[..., None]:
    """Records windows: `record(agents, *window_ids)`."""

    def write(agents: list[str], *window_ids: str) -> None:
        async def rows() -> None:
            game = await connect(dsn)
            for window_id in window_ids:
                await record_window(game, window_id, agents)
            await game.close()

        asyncio.run(rows())

    return write
