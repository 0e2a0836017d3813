"""A day that the base model played and the hourly steps scored, for both groupings of a training day.

The game's tables hold recognisable texts wherever something is hidden from agents: `HIDDEN` and a name.
"""

import asyncio
import json
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import NoReturn

import asyncpg
import pytest

from babylon_rl.database.connection import Databases, connect
from babylon_rl.deployment.candidates import DayTraining, train_day
from babylon_rl.deployment.resampled_day import resampled_batch
from babylon_rl.orchestration.scoring_steps import score_windows
from babylon_rl.orchestration.window_steps import derive_window, freeze_window
from babylon_rl.policy.engine import EmbeddedEngine
from babylon_rl.records.reader import refresh_window_rows
from babylon_rl.records.store import ArtifactStore
from babylon_rl.settings import Settings, get_settings
from babylon_rl.training.batch import BatchRules, TrainingBatch, build_batch
from babylon_rl_tests.simulation.conftest import simulate

__all__ = ["DAY", "GROUPINGS", "HIDDEN", "RULES", "TrainingDay", "dsn", "scored_day", "training_day"]

DAY = "2026-10-01"
GROUPINGS = ("window", "resample")
HIDDEN = "ZQHIDDEN"
RULES = BatchRules(min_groups=1, min_episodes=2)

_COLUMNS = (
    f"""UPDATE "WorldEvent" SET "pointsToward" = '{HIDDEN} pointsToward'""",
    f"""UPDATE "market_outcomes" SET "sentiment" = '{HIDDEN}', "outcome" = '{HIDDEN}',
               "newsEvents" = '[{{"title": "{HIDDEN} news"}}]'""",
)
_STEPS = 'SELECT "id", "stepsJson" FROM "trajectories"'
_ROW = """
UPDATE "trajectories" SET "stepsJson" = $2, "metadataJson" = $3, "aiJudgeReasoning" = $4 WHERE "id" = $1
"""


@pytest.fixture(scope="module")
def scored_day(
    server, template: str, base_engine: EmbeddedEngine, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Path]]:
    """The name of the day's database, and the folder of its artifacts."""
    name, home = server.create(template), tmp_path_factory.mktemp("scored")

    async def make() -> None:
        await simulate(server.dsn(name), base_engine, 1, agents=4)
        connection = await connect(server.dsn(name))
        db, store = Databases(game=connection, rl=connection), ArtifactStore(home / "artifacts")
        settings = Settings(_env_file=None, babylon_home=home)
        await _hide(connection)
        await refresh_window_rows(connection, connection)
        rows = await connection.fetch("SELECT DISTINCT window_id FROM rl.window_rows ORDER BY 1")
        windows = [row["window_id"] for row in rows]
        for window_id in windows:
            await freeze_window(db, store, window_id, settings)
            await derive_window(db, window_id, settings)
        async for _ in score_windows(db, store, windows, settings, _nobody):
            pass
        for statement in _COLUMNS:
            await connection.execute(statement)
        await connection.close()

    asyncio.run(make())
    yield name, home / "artifacts"
    server.drop(name)


@pytest.fixture
def dsn(server, scored_day: tuple[str, Path]) -> Iterator[str]:
    """A copy of the day's database."""
    name = server.create(scored_day[0])
    yield server.dsn(name)
    server.drop(name)


class TrainingDay:
    """The day under settings of its own, built and trained as the daily assets do it."""

    def __init__(self, settings: Settings, grouping: str) -> None:
        self.settings, self.grouping = settings, grouping
        self.store = ArtifactStore(settings.home / "artifacts")

    async def build(self, db: Databases, rules: BatchRules = RULES) -> TrainingBatch:
        if self.grouping == "window":
            return await build_batch(db.rl, self.store, DAY, rules)
        return await resampled_batch(db, self.store, self.settings, DAY, rules, print)

    async def train(self, db: Databases) -> DayTraining:
        return await train_day(db, self.store, self.settings, DAY)


@pytest.fixture(params=GROUPINGS)
async def training_day(
    request: pytest.FixtureRequest,
    anyio_backend: str,
    settings: Settings,
    home_with_base: Path,
    scored_day: tuple[str, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[TrainingDay]:
    """The day under each of the groupings."""
    shutil.copytree(scored_day[1], settings.home / "artifacts")
    for name, value in {"RESAMPLE_PROMPTS": "24", "RESAMPLE_ANSWERS": "4", "GROUPING": request.param}.items():
        monkeypatch.setenv(name, value)
    get_settings.cache_clear()
    yield TrainingDay(get_settings(), request.param)
    get_settings.cache_clear()


async def _hide(game: asyncpg.Connection) -> None:
    """What the game knows and hindsight says, in every row of the day."""
    knowledge = {"trueProbabilities": {"q": f"{HIDDEN} probability"}, "actualOutcomes": f"{HIDDEN} outcome"}
    correctness = {"predictionCorrect": f"{HIDDEN} prediction", "sentimentAtTrade": f"{HIDDEN} sentiment"}
    for row in await game.fetch(_STEPS):
        steps = json.loads(row["stepsJson"])
        for step in steps:
            step["action"]["correctness"] = correctness
        metadata = json.dumps({"gameKnowledge": knowledge})
        await game.execute(_ROW, row["id"], json.dumps(steps), metadata, f"{HIDDEN} GROUND TRUTH")


def _nobody() -> NoReturn:
    raise AssertionError("no judge is asked")
