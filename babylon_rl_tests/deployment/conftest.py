"""A connection as the trainer's role, and a registry to start from."""

from collections.abc import AsyncIterator, Awaitable, Callable

import asyncpg
import pytest

from babylon_rl.database.connection import connect
from babylon_rl.deployment.registry import ModelRecord, ensure_base, register
from babylon_rl.deployment.verdicts import record_benchmark

MakeModel = Callable[..., Awaitable[ModelRecord]]


@pytest.fixture
async def rl(anyio_backend: str, dsn: str) -> AsyncIterator[asyncpg.Connection]:
    opened = await connect(dsn, role="babylon_trainer")
    await ensure_base(opened, base_model="tiny", storage_path="file:///models/base")
    yield opened
    await opened.close()


@pytest.fixture
def make(rl: asyncpg.Connection) -> MakeModel:
    """Registers a model, judged where a verdict is given."""

    async def make_model(
        verdict: str | None = "promoted", parent: str = "v0.0.0", **fields: object
    ) -> ModelRecord:
        values = {"storage_path": "file:///models/x"} | fields
        model = await register(rl, parent_version=parent, **values)  # type: ignore[arg-type]
        if verdict is not None:
            await record_benchmark(
                rl,
                version=model.version,
                incumbent=parent,
                purpose="gate",
                seed_key=f"seeds of {model.version}",
                windows=128,
                metrics={"benchmark_score": 0.03, "accuracy": 0.6, "avg_reward": 0.1},
                verdict=verdict,  # type: ignore[arg-type]
                reason="because",
            )
        return model

    return make_model
