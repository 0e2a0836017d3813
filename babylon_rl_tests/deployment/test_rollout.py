"""Rollouts in the registry: strategies, shares, promotion, rollback, and what is refused."""

import asyncio
from datetime import UTC, datetime

import asyncpg
import pytest

from babylon_rl.database.connection import connect
from babylon_rl.deployment import rollout_rows
from babylon_rl.deployment.deploy import current, deploy, history
from babylon_rl.deployment.errors import (
    DeploymentError,
    InvalidVersionError,
    NoRolloutError,
    NothingToRollBackError,
    RolloutError,
    RolloutRunningError,
    StrategyError,
    UnknownVersionError,
    WrongVerdictError,
)
from babylon_rl.deployment.registry import get
from babylon_rl.deployment.rollout import promote, roll_back, rollout_status, set_percentage, start_rollout
from babylon_rl.deployment.strategies import Stage, parse_schedule, parse_strategy
from babylon_rl_tests.deployment.conftest import MakeModel

pytestmark = pytest.mark.anyio

HOUR = datetime(2026, 10, 1, 12, tzinfo=UTC)


@pytest.fixture
async def two(rl: asyncpg.Connection, make: MakeModel) -> tuple[str, str]:
    """An active model, and a better one."""
    first = (await make()).version
    await deploy(rl, None, first, reason="first")
    return first, (await make(parent=first)).version


async def test_a_share_of_the_agents_then_everybody(rl: asyncpg.Connection, two: tuple[str, str]) -> None:
    first, second = two
    status = await start_rollout(rl, None, second, percentage=10, origin=HOUR)
    assert (status.active, status.candidate, status.percentage) == (first, second, 10.0)
    assert status.changed and status.experiment
    assert (await get(rl, second)).status == "ready"
    deployment = await promote(rl, None)
    assert (deployment.version, deployment.replaced, deployment.cause) == (second, first, "promotion")
    after = await rollout_status(rl)
    assert (after.active, after.candidate) == (second, None)
    (past,) = await rollout_rows.past_rollouts(rl)
    assert past.state == "promoted" and past.ended_at is not None
    open_rows = await rl.fetch("SELECT role, version FROM rl.deployments WHERE ended_at IS NULL")
    assert [tuple(row) for row in open_rows] == [("active", second)]


@pytest.mark.parametrize(("name", "strategy"), [("replace", "immediate"), ("Blue-Green", "immediate")])
async def test_old_names_of_strategies(
    rl: asyncpg.Connection, two: tuple[str, str], name: str, strategy: str
) -> None:
    assert parse_strategy(name) == strategy
    assert (await start_rollout(rl, None, two[1], strategy=name)).active == two[1]


async def test_canary_is_gradual_with_the_seeds_share(rl: asyncpg.Connection, two: tuple[str, str]) -> None:
    status = await start_rollout(rl, None, two[1], strategy="canary", origin=HOUR)
    assert (status.strategy, status.percentage) == ("gradual", 10.0)


async def test_a_candidate_is_taken_back_and_the_incumbent_stays(
    rl: asyncpg.Connection, two: tuple[str, str]
) -> None:
    first, second = two
    before = await current(rl)
    await start_rollout(rl, None, second, percentage=50, origin=HOUR)
    result = await roll_back(rl, None, reason="it errs", decided_by="gateway")
    assert (result.version, result.replaced, result.changed) == (first, second, True)
    after = await current(rl)
    assert before is not None and after is not None and after.id == before.id, "it never stopped serving"
    (past,) = await rollout_rows.past_rollouts(rl)
    assert (past.state, past.reason, past.decided_by) == ("rolled_back", "it errs", "gateway")
    with pytest.raises(NothingToRollBackError):
        await roll_back(rl, None)


async def test_before_any_deployment_the_base_is_the_incumbent(
    rl: asyncpg.Connection, make: MakeModel
) -> None:
    version = (await make()).version
    assert (await start_rollout(rl, None, version, percentage=5)).active == "v0.0.0"
    assert (await roll_back(rl, None)).version == "v0.0.0"


async def test_rolling_back_a_promoted_model_returns_to_the_one_before(
    rl: asyncpg.Connection, two: tuple[str, str]
) -> None:
    await start_rollout(rl, None, two[1])
    await promote(rl, None)
    deployment = await roll_back(rl, None, reason="worse after all")
    assert (deployment.version, deployment.cause) == (two[0], "rollback")
    assert [one.version for one in await history(rl)] == [two[0], two[1], two[0]]


async def test_named_agents_try_a_model(rl: asyncpg.Connection, two: tuple[str, str]) -> None:
    status = await start_rollout(rl, None, two[1], strategy="test", agents=["agent-1", "agent-2", "agent-1"])
    assert status.agents == ["agent-1", "agent-2"] and not status.experiment
    row = await rollout_rows.running(rl)
    assert row is not None
    assignment = await rollout_rows.read_assignment(rl, row)
    now = datetime.now(UTC).timestamp()
    assert [assignment.arm(agent, now) for agent in ("agent-1", "agent-3", None)] == [
        "candidate",
        "active",
        "active",
    ]
    with pytest.raises(NoRolloutError, match="names its agents"):
        await set_percentage(rl, 20)


async def test_raising_the_share_holds_from_the_next_pair_of_blocks(
    rl: asyncpg.Connection, two: tuple[str, str]
) -> None:
    await start_rollout(rl, None, two[1], percentage=10, origin=HOUR, block_windows=1)
    await start_rollout(rl, None, two[1], percentage=50)
    row = await rollout_rows.running(rl)
    assert row is not None
    assignment = await rollout_rows.read_assignment(rl, row)
    (_, first), (later, second) = assignment.stages
    assert (first, second) == (10.0, 50.0)
    assert later > datetime.now(UTC).timestamp() and (later - HOUR.timestamp()) % 7200 == 0
    assert assignment.percentage_at(later - 1) == 10.0 and assignment.percentage_at(later) == 50.0
    assert (await rl.fetchval("SELECT percentage FROM rl.deployments WHERE role = 'candidate'")) == 50.0


async def test_a_share_outside_experiments_changes_at_once(
    rl: asyncpg.Connection, two: tuple[str, str]
) -> None:
    await start_rollout(rl, None, two[1], percentage=10, experiment=False)
    assert (await set_percentage(rl, 30)).percentage == 30.0


async def test_everybody_from_the_start_is_a_deployment(rl: asyncpg.Connection, two: tuple[str, str]) -> None:
    assert (await start_rollout(rl, None, two[1], percentage=100)).active == two[1]
    assert await rollout_rows.past_rollouts(rl) == []


async def test_nobody_is_a_share_too(rl: asyncpg.Connection, two: tuple[str, str]) -> None:
    assert (await start_rollout(rl, None, two[1], percentage=0, experiment=False)).percentage == 0.0


async def test_deploying_another_model_ends_the_rollout(
    rl: asyncpg.Connection, two: tuple[str, str], make: MakeModel
) -> None:
    await start_rollout(rl, None, two[1])
    third = (await make()).version
    await deploy(rl, None, third, reason="urgent")
    (past,) = await rollout_rows.past_rollouts(rl)
    assert past.state == "ended" and "urgent" in (past.reason or "")
    assert (await rollout_status(rl)).candidate is None


@pytest.mark.parametrize(
    ("asked", "error", "words"),
    [
        ({"percentage": 101}, StrategyError, "101"),
        ({"percentage": -1}, StrategyError, "-1"),
        ({"percentage": float("nan")}, StrategyError, "nan"),
        ({"strategy": "shadow"}, StrategyError, "shadow"),
        ({"strategy": "test"}, StrategyError, "needs the agents"),
        ({"strategy": "test", "agents": ["a\nb"]}, StrategyError, "no agent id"),
        ({"strategy": "gradual", "agents": ["a"]}, RolloutError, "Use strategy test"),
        ({"strategy": "immediate", "percentage": 10}, RolloutError, "Use gradual"),
        ({"schedule": [(50, 24), (10, None)]}, StrategyError, "does not rise"),
        ({"schedule": []}, StrategyError, "empty"),
        ({"block_windows": 0}, RolloutError, "block_windows"),
        ({"origin": datetime(2026, 10, 1, 12, 30, tzinfo=UTC)}, RolloutError, "full hour"),
    ],
)
async def test_what_makes_no_rollout(
    rl: asyncpg.Connection, two: tuple[str, str], asked: dict, error: type[DeploymentError], words: str
) -> None:
    with pytest.raises(error, match=words):
        await start_rollout(rl, None, two[1], **asked)
    assert (await rollout_status(rl)).candidate is None


async def test_versions_that_cannot_be_released(
    rl: asyncpg.Connection, two: tuple[str, str], make: MakeModel
) -> None:
    with pytest.raises(InvalidVersionError, match="'latest' is not a version"):
        await start_rollout(rl, None, "latest")
    with pytest.raises(UnknownVersionError, match=r"v0\.0\.9"):
        await start_rollout(rl, None, "v0.0.9")
    with pytest.raises(RolloutError, match="serves everybody already"):
        await start_rollout(rl, None, two[0])
    rejected = (await make("rejected")).version
    with pytest.raises(WrongVerdictError):
        await start_rollout(rl, None, rejected)
    assert (await start_rollout(rl, None, rejected, verdict_required=False)).candidate == rejected


async def test_one_rollout_at_a_time(rl: asyncpg.Connection, two: tuple[str, str], make: MakeModel) -> None:
    third = (await make()).version
    await start_rollout(rl, None, two[1])
    with pytest.raises(RolloutRunningError, match=two[1]):
        await start_rollout(rl, None, third)


async def test_of_two_promotions_at_once_one_wins(
    rl: asyncpg.Connection, dsn: str, two: tuple[str, str]
) -> None:
    await start_rollout(rl, None, two[1])
    connections = [await connect(dsn, role="babylon_trainer") for _ in range(4)]
    try:
        results = await asyncio.gather(
            *(promote(connection, None) for connection in connections), return_exceptions=True
        )
    finally:
        for connection in connections:
            await connection.close()
    assert sum(not isinstance(result, BaseException) for result in results) == 1
    assert all(isinstance(result, NoRolloutError) for result in results if isinstance(result, BaseException))
    assert await rl.fetchval("SELECT count(*) FROM rl.deployments WHERE cause = 'promotion'") == 1


async def test_promotion_and_rollback_at_once_end_in_one_of_them(
    rl: asyncpg.Connection, dsn: str, two: tuple[str, str]
) -> None:
    status = await start_rollout(rl, None, two[1])
    other = await connect(dsn, role="babylon_gateway")
    try:
        results = await asyncio.gather(
            promote(rl, None, rollout_id=status.rollout_id),
            roll_back(other, None, rollout_id=status.rollout_id),
            return_exceptions=True,
        )
    finally:
        await other.close()
    assert sum(isinstance(result, NoRolloutError) for result in results) == 1
    (past,) = await rollout_rows.past_rollouts(rl)
    assert (await rollout_status(rl)).active == (two[1] if past.state == "promoted" else two[0])


def test_schedules_as_text() -> None:
    assert parse_schedule("10:24, 50%:48h,100") == [Stage(10.0, 24), Stage(50.0, 48), Stage(100.0)]
    for text in ("", "10:24,", "10:x", "ten", "10,50", "101", "٣"):
        with pytest.raises(StrategyError):
            parse_schedule(text)
