"""Days as units: repeated, interrupted, out of order, in a database that is not ours."""

import asyncio
from dataclasses import replace
from datetime import date, timedelta

import asyncpg
import pytest

from babylon_rl.database.connection import connect
from babylon_rl.policy.chat import ChatRequest
from babylon_rl.records.steps import decode_steps
from babylon_rl.simulation.world import (
    DayOrderError,
    ForeignDatabaseError,
    InvalidWorldError,
    World,
    WorldMismatchError,
    ensure_world,
    simulate_day,
)
from babylon_rl_tests.simulation.conftest import START_DAY, Puppet, everything, holding, one

pytestmark = pytest.mark.anyio

NEXT_DAY = START_DAY + timedelta(days=1)


def trading() -> Puppet:
    return Puppet(lambda request: "AURUM surge BUY 3")


async def begin(
    game: asyncpg.Connection, seed: int = 7, agents: int = 3, start_day: date = START_DAY
) -> World:
    return await ensure_world(game, game, seed=seed, agents=agents, start_day=start_day)


async def test_a_day_that_is_there_is_left_alone(connection: asyncpg.Connection) -> None:
    world = await begin(connection)
    first = await simulate_day(connection, connection, trading(), world, START_DAY)
    before, other = await everything(connection), trading()
    again = await simulate_day(connection, connection, other, world, START_DAY)
    assert (first.created, again.created, other.asked) == (True, False, [])
    assert (first.decisions, first.orders + first.refused) == (3 * 96, 3 * 96)
    assert await everything(connection) == before
    assert world.next_day == NEXT_DAY == (await begin(connection)).next_day
    assert await connection.fetchval("SELECT days FROM rl.simulation") == 1


async def test_a_day_that_fails_leaves_nothing(connection: asyncpg.Connection) -> None:
    def fail_in_the_evening(request: ChatRequest) -> str:
        if len(policy.asked) > 250:
            raise RuntimeError("the server is gone")
        return "AURUM surge BUY 3"

    policy, world = Puppet(fail_in_the_evening), await begin(connection)
    before = await everything(connection)
    with pytest.raises(RuntimeError, match="gone"):
        await simulate_day(connection, connection, policy, world, START_DAY)
    assert await everything(connection) == before
    assert world.next_day == START_DAY
    assert (await simulate_day(connection, connection, trading(), world, START_DAY)).created


async def test_a_killed_day_leaves_nothing(dsn: str, connection: asyncpg.Connection) -> None:
    """The server ends the session late in the day, with trajectories already sent."""
    game = await connect(dsn)
    world, pid = await begin(game), game.get_server_pid()
    before = await everything(connection)

    class Killer(Puppet):
        async def complete(self, requests):
            if len(self.asked) > 250:
                await connection.execute("SELECT pg_terminate_backend($1)", pid)
            return await super().complete(requests)

    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
        await simulate_day(game, game, Killer(lambda request: "HOLD"), world, START_DAY)
    game.terminate()
    assert await everything(connection) == before
    assert (await begin(connection)).next_day == START_DAY


async def test_days_follow_each_other(connection: asyncpg.Connection) -> None:
    world = await begin(connection)
    with pytest.raises(DayOrderError, match="Simulate 2026-10-01 first"):
        await simulate_day(connection, connection, holding(), world, NEXT_DAY)
    with pytest.raises(DayOrderError, match="earlier day"):
        await simulate_day(connection, connection, holding(), world, START_DAY - timedelta(days=1))


async def test_nothing_is_written_without_our_marker(connection: asyncpg.Connection) -> None:
    world = await begin(connection)
    before = await everything(connection)
    undo = connection.transaction()
    await undo.start()
    await connection.execute("DELETE FROM rl.installation")
    with pytest.raises(ForeignDatabaseError, match="no marker"):
        await begin(connection)
    with pytest.raises(ForeignDatabaseError, match="no marker"):
        await simulate_day(connection, connection, holding(), world, START_DAY)
    await connection.execute("DROP TABLE rl.installation")
    with pytest.raises(ForeignDatabaseError, match="DATABASE_URL"):
        await begin(connection)
    await undo.rollback()
    assert await everything(connection) == before


@pytest.mark.parametrize("other", [{"seed": 8}, {"agents": 4}, {"start_day": NEXT_DAY}])
async def test_a_database_holds_one_world(connection: asyncpg.Connection, other: dict) -> None:
    await begin(connection)
    with pytest.raises(WorldMismatchError, match=next(iter(other))):
        await begin(connection, **other)


async def test_other_rules_are_another_world(connection: asyncpg.Connection) -> None:
    await begin(connection)
    with pytest.raises(WorldMismatchError, match="other market rules"):
        await ensure_world(
            connection, connection, seed=7, agents=3, start_day=START_DAY, pricing="as_specified"
        )


@pytest.mark.parametrize(
    "wrong", [{"seed": -1}, {"agents": 0}, {"agents": 1001}, {"start_day": date(2023, 12, 31)}]
)
async def test_parameters_that_make_no_world(connection: asyncpg.Connection, wrong: dict) -> None:
    with pytest.raises(InvalidWorldError):
        await begin(connection, **wrong)


async def test_what_is_no_order_is_recorded_as_invalid(connection: asyncpg.Connection) -> None:
    world = await begin(connection, agents=1)
    answers = ["BUY everything\0now", "HOLD", "AURUM surge BUY 9", "AURUM surge BUY 1"]
    policy = Puppet(lambda request: answers[(len(policy.asked) - 1) % 4])
    summary = await simulate_day(connection, connection, policy, world, START_DAY)
    assert (summary.invalid, summary.holds, summary.orders) == (48, 24, 24)
    rows = await connection.fetch('SELECT * FROM "trajectories" ORDER BY "startTime" LIMIT 2')
    actions = [step.action for row in rows for step in decode_steps(row["stepsJson"])]
    assert [action.action_type for action in actions] == ["INVALID", "HOLD", "INVALID", "OPEN_PERP_POSITION"]
    assert [action.success for action in actions] == [False, True, False, True]
    assert actions[2].error == "size must be 1 to 3, got '9'"
    assert actions[1].result == {"held": True}
    assert set(actions[3].parameters) == {"ticker", "side", "size", "leverage"}
    position = await one(
        connection, 'SELECT * FROM "PerpPosition" WHERE "id" = $1', actions[3].result["positionId"]
    )
    assert position["entryPrice"] == actions[3].result["entryPrice"]
    assert [row["finalStatus"] for row in rows] == ["completed_with_errors", "completed_with_errors"]


async def test_two_processes_play_a_day_once(dsn: str, connection: asyncpg.Connection) -> None:
    world = await begin(connection)
    others = [await connect(dsn) for _ in range(2)]
    summaries = await asyncio.gather(
        *(simulate_day(game, game, holding(), replace(world), START_DAY) for game in others)
    )
    for game in others:
        await game.close()
    assert sorted(summary.created for summary in summaries) == [False, True]
    assert await connection.fetchval('SELECT count(*) FROM "trajectories"') == 3 * 48


async def test_progress_is_reported(connection: asyncpg.Connection) -> None:
    world = await begin(connection)
    told: list[tuple[int, int]] = []
    await simulate_day(
        *(connection, connection, holding(), world, START_DAY),
        on_progress=lambda done, total: told.append((done, total)),
    )
    assert told == [(hour, 24) for hour in range(1, 25)]
