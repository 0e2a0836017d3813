"""Release: only a promoted head of the live lineage goes into service, and it says why not."""

from collections.abc import AsyncIterator

import asyncpg
import pytest

from babylon_rl.database.connection import Databases, connect
from babylon_rl.deployment import registry
from babylon_rl.deployment.deploy import deploy, history, rollback
from babylon_rl.deployment.errors import StrategyError
from babylon_rl.deployment.release import Release, release
from babylon_rl.deployment.rollout import promote
from babylon_rl.settings import Settings
from babylon_rl_tests.deployment.conftest import MakeModel

pytestmark = pytest.mark.anyio


@pytest.fixture
async def db(rl: asyncpg.Connection, dsn: str) -> AsyncIterator[Databases]:
    game = await connect(dsn)
    yield Databases(game=game, rl=rl)
    await game.close()


async def test_nothing_trained_nothing_released(db: Databases, settings: Settings) -> None:
    assert await release(db, settings) == Release(
        None, False, "there is no candidate: no day has been trained"
    )


async def test_a_promoted_candidate_is_deployed_once(
    db: Databases, settings: Settings, make: MakeModel
) -> None:
    model = await make("promoted")
    first = await release(db, settings)
    assert (first.version, first.changed) == (model.version, True) and first.reason
    shown = await db.game.fetchrow('SELECT "status", "modelId" FROM "trained_models"')
    assert shown is not None and tuple(shown) == ("deployed", model.model_id)
    again = await release(db, settings)
    assert again == Release(model.version, False, f"{model.version} serves already")
    assert len(await history(db.rl)) == 1


@pytest.mark.parametrize(
    ("verdict", "reason"),
    [
        ("inconclusive", "the newest candidate v0.0.2 is inconclusive"),
        (None, "the newest candidate v0.0.2 is not judged yet"),
        ("rejected", "v0.0.1 serves already"),
    ],
)
async def test_other_candidates_leave_the_incumbent(
    db: Databases, settings: Settings, make: MakeModel, verdict: str | None, reason: str
) -> None:
    serving = await make("promoted")
    await release(db, settings)
    model = await make(verdict, parent=serving.version)
    assert await release(db, settings) == Release(serving.version, False, reason)
    assert (await registry.get(db.rl, model.version)).status == "ready"


async def test_with_only_a_rejected_candidate_there_is_none(
    db: Databases, settings: Settings, make: MakeModel
) -> None:
    await make("rejected")
    assert (await release(db, settings)).reason == "there is no candidate: no day has been trained"


async def test_an_older_promoted_candidate_is_history(
    db: Databases, settings: Settings, make: MakeModel
) -> None:
    older = await make("promoted")
    await make("inconclusive", parent=older.version)
    result = await release(db, settings)
    assert (result.version, result.changed) == (None, False)
    assert (await registry.get(db.rl, older.version)).status == "ready"


async def test_a_release_does_not_undo_a_rollback(db: Databases, settings: Settings, make: MakeModel) -> None:
    first = await make("promoted")
    await release(db, settings)
    second = await make("promoted", parent=first.version)
    assert (await release(db, settings)).version == second.version
    await rollback(db.rl, None, reason="agents complain")
    result = await release(db, settings)
    assert (result.version, result.changed) == (first.version, False) and "rolled back" in result.reason
    third = await make("promoted", parent=first.version)
    assert (await release(db, settings)).version == third.version, "a newer one may follow"


async def test_an_operator_may_deploy_against_the_verdict(
    db: Databases, settings: Settings, make: MakeModel
) -> None:
    model = await make("inconclusive")
    await deploy(db.rl, None, model.version, reason="by hand", verdict_required=False)
    assert await release(db, settings) == Release(model.version, False, f"{model.version} serves already")


async def test_the_game_is_left_alone_where_projection_is_off(
    db: Databases, settings: Settings, make: MakeModel
) -> None:
    await make("promoted")
    quiet = Settings(_env_file=None, database_url=settings.database_url, project_to_game=False)
    assert (await release(db, quiet)).changed
    assert await db.game.fetchval('SELECT count(*) FROM "trained_models"') == 0


async def test_a_gradual_release_leaves_the_incumbent_and_starts_one_rollout(
    db: Databases, settings: Settings, make: MakeModel
) -> None:
    gradual = settings.model_copy(update={"deployment_strategy": "gradual"})
    serving = await make("promoted")
    first = await release(db, gradual)
    assert (first.version, first.changed) == (serving.version, True), "nothing serves that it could be beside"
    better = await make("promoted", parent=serving.version)
    begun = await release(db, gradual)
    assert (begun.version, begun.changed) == (serving.version, True)
    assert f"{better.version} is rolled out beside it, 10 %" in begun.reason
    again = await release(db, gradual)
    assert again == Release(serving.version, False, f"a rollout of {better.version} is running")
    await promote(db.rl, None)
    assert await release(db, gradual) == Release(better.version, False, f"{better.version} serves already")


async def test_a_schedule_that_is_none_is_refused(db: Databases, settings: Settings, make: MakeModel) -> None:
    gradual = settings.model_copy(update={"deployment_strategy": "gradual", "deployment_schedule": "50:1,10"})
    await make("promoted")
    await release(db, gradual)
    await make("promoted", parent="v0.0.1")
    with pytest.raises(StrategyError, match="does not rise above 50 %"):
        await release(db, gradual)
