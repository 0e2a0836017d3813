"""RULER scorers on a database of their own, for benchmarks of the judge."""

import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from babylon_rl.database.connection import Databases, connect
from babylon_rl.database.embedded import destroy_server, ensure_server
from babylon_rl.database.migrations import migrate
from babylon_rl.scoring.scorers import open_scorer
from babylon_rl.scoring.window_scorer import WindowScorer
from babylon_rl.settings import Settings


@contextmanager
def embedded_database() -> Iterator[str]:
    """An embedded PostgreSQL in a temporary folder; yields the address of its empty database."""
    with tempfile.TemporaryDirectory(prefix="babylon-judge-") as folder:
        Path(folder).chmod(0o711)  # as root the server runs under another account
        home = Path(folder) / "home"
        try:
            yield ensure_server(home).dsn("babylon")
        finally:
            destroy_server(home)


async def prepare(dsn: str) -> None:
    """Makes the tables."""
    await migrate(dsn, embedded=True)


def judge_settings(url: str, **changes: Any) -> Settings:
    """Settings of a RULER scorer on a judge at `url`, apart from the environment's."""
    values = {
        "scorer": "ruler",
        "judge_base_url": url,
        "judge_model": "openai/judge",
        "judge_second_model": None,
        "judge_api_key": SecretStr("benchmark"),
        "judge_canary_rate": 0.0,
        "judge_timeout_seconds": 30.0,
        "judge_alarm_correlation": -1.0,
        "judge_daily_budget_usd": 1e9,
    }
    return Settings(_env_file=None).model_copy(update=values | changes)


@asynccontextmanager
async def opened(dsn: str, settings: Settings) -> AsyncIterator[WindowScorer]:
    """A scorer under the judge's database role."""

    @asynccontextmanager
    async def own() -> AsyncIterator[Databases]:
        connection = await connect(dsn, role="babylon_judge")
        try:
            yield Databases(connection, connection)
        finally:
            await connection.close()

    async with open_scorer(settings, own) as scorer:
        yield scorer
