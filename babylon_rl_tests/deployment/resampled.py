"""A day that was played, whose prompts can be asked again; fixtures for the tests of `GROUPING=resample`.

from babylon_rl_tests.deployment.resampled import day, db, played  # noqa: F401
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import replace

import pytest

from babylon_rl.database.connection import Databases, connect
from babylon_rl.deployment import registry
from babylon_rl.deployment.resampling import ResampleRules
from babylon_rl.policy.chat import ChatAnswer, ChatRequest, Policy
from babylon_rl.records.reader import refresh_window_rows
from babylon_rl.training.batch import BatchRules
from babylon_rl.training.tiny_base import BASE_MODEL_NAME
from babylon_rl_tests.benchmark.players import Skilled
from babylon_rl_tests.simulation.conftest import simulate

__all__ = ["FEW", "RULES", "Counted", "Saying", "copied", "day", "db", "played"]

RULES = ResampleRules(prompts=24, answers=4)
FEW = BatchRules(min_groups=2, min_episodes=4)


@pytest.fixture(scope="module")
def played(server, template: str) -> Iterator[str]:
    """The name of a database with a day of trading whose windows have a verdict."""
    name = server.create(template)

    async def make() -> None:
        await simulate(server.dsn(name), Skilled("v0.0.0", 0.3), 1, agents=4)
        rl = await connect(server.dsn(name))
        await refresh_window_rows(rl, rl)
        await registry.ensure_base(rl, base_model=BASE_MODEL_NAME, storage_path="file:///models/base")
        await rl.execute(
            "INSERT INTO rl.window_state (window_id, group_status) SELECT DISTINCT window_id, 'scored' "
            "FROM rl.window_rows"
        )
        await rl.close()

    asyncio.run(make())
    yield name
    server.drop(name)


@pytest.fixture
async def db(anyio_backend: str, server, played: str) -> AsyncIterator[Databases]:
    """A connection to the day, whose changes are undone."""
    connection = await connect(server.dsn(played))
    undo = connection.transaction()
    await undo.start()
    yield Databases(game=connection, rl=connection)
    await undo.rollback()
    await connection.close()


@pytest.fixture
def copied(server, played: str) -> Iterator[str]:
    """The address of a copy of the day, for what has to be committed."""
    name = server.create(played)
    yield server.dsn(name)
    server.drop(name)


@pytest.fixture
def day() -> str:
    return "2026-10-01"


class Counted:
    """A policy that counts what it is asked, and breaks once it has answered enough."""

    def __init__(self, policy: Policy, enough: int | None = None) -> None:
        self.policy, self.asked, self.enough = policy, 0, enough

    @property
    def version(self) -> str:
        return self.policy.version

    async def complete(self, requests: Sequence[ChatRequest]) -> list[ChatAnswer]:
        if self.enough is not None and self.asked >= self.enough:
            raise ConnectionError("the server is gone")
        self.asked += len(requests)
        return await self.policy.complete(requests)


class Saying:
    """A policy whose words follow from the request; it reports tokens and log-probabilities."""

    version = "v0.0.0"

    def __init__(self, words: Callable[[ChatRequest], str], **changes: object) -> None:
        self.words, self.changes = words, changes
        self.asked: list[ChatRequest] = []

    async def complete(self, requests: Sequence[ChatRequest]) -> list[ChatAnswer]:
        self.asked += requests
        return [
            replace(
                ChatAnswer(self.words(one), "stop", [1], [2], [-0.1], self.version, "m", "r", "t"),
                **self.changes,
            )
            for one in requests
        ]
