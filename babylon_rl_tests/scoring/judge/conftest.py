"""A judge server, and RULER scorers that speak to it, with books in a real database."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import asyncpg
import pytest

from babylon_rl.database.connection import Databases, connect
from babylon_rl.scoring.judge import client
from babylon_rl.scoring.scorers import open_scorer
from babylon_rl.scoring.window_scorer import WindowScorer
from babylon_rl.settings import Settings
from babylon_rl_tests.judge_server import KEY, JudgeServer, judge_server
from babylon_rl_tests.shared_database import dsn, file_dsn

__all__ = ["dsn", "file_dsn"]

Open = Callable[..., Awaitable[WindowScorer]]


@pytest.fixture(scope="session")
def running_judge() -> Iterator[JudgeServer]:
    with judge_server() as running:
        yield running


@pytest.fixture
def judge(running_judge: JudgeServer) -> JudgeServer:
    """A judge that was asked nothing yet."""
    running_judge.reset()
    return running_judge


@pytest.fixture
def judge_settings(settings: Settings, judge: JudgeServer) -> Settings:
    """Settings of a RULER scorer on the test's judge: no canaries unless a test wants them."""
    from pydantic import SecretStr

    return settings.model_copy(
        update={
            "scorer": "ruler",
            "judge_base_url": judge.url,
            "judge_model": "openai/test-judge",
            "judge_api_key": SecretStr(KEY),
            "judge_timeout_seconds": 5.0,
            "judge_canary_rate": 0.0,
        }
    )


@pytest.fixture
async def rl(anyio_backend: str, dsn: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await connect(dsn)
    yield connection
    await connection.close()


@pytest.fixture
async def ruler(judge_settings: Settings, dsn: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Open]:
    """Opens a scorer with changed settings, under the judge's role: `await ruler(judge_orders=2)`."""
    monkeypatch.setattr(client, "FIRST_WAIT", 0.01)

    @asynccontextmanager
    async def own() -> AsyncIterator[Databases]:
        connection = await connect(dsn, role="babylon_judge")
        try:
            yield Databases(connection, connection)
        finally:
            await connection.close()

    async with AsyncExitStack() as stack:

        async def open_one(**changes: Any) -> WindowScorer:
            changed = judge_settings.model_copy(update=changes)
            return await stack.enter_async_context(open_scorer(changed, own))

        yield open_one
