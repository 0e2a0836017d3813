"""A simulated game that goes on day by day, played by the policy of the moment.

    world = await ensure_world(game, rl, seed=7, agents=8, start_day=date(2026, 10, 1))
    summary = await simulate_day(game, rl, policy, world, world.next_day)

Everything follows from the world's seed and the policy's weights: prices and headlines (`simulation.market`),
the background (`simulation.crowd`), what the agents answer (each request carries its own seed), and every id
and time in the rows. A day is one transaction.
"""

from collections.abc import Callable
from datetime import date, timedelta

import asyncpg

from babylon_rl.policy.chat import Policy
from babylon_rl.simulation.day import HOURS_PER_DAY, Day, DaySummary
from babylon_rl.simulation.genesis import (
    ForeignDatabaseError,
    InvalidWorldError,
    SimulationError,
    World,
    WorldMismatchError,
    days_done,
    ensure_world,
    lock,
    require_marker,
)

__all__ = [
    "DayOrderError",
    "DaySummary",
    "ForeignDatabaseError",
    "InvalidWorldError",
    "SimulationError",
    "World",
    "WorldMismatchError",
    "ensure_world",
    "simulate_day",
]

_NOTE = "UPDATE rl.simulation SET days = $2 WHERE seed = $1"


class DayOrderError(SimulationError):
    """A day that does not follow the simulated ones."""


async def simulate_day(
    game: asyncpg.Connection,
    rl: asyncpg.Connection,
    policy: Policy,
    world: World,
    day: date,
    *,
    on_progress: Callable[[int, int], None] | None = None,
) -> DaySummary:
    """Simulates one day and commits it, or does nothing if it is there.

    The rows reach one hour beyond the day: the prices that the last orders mature on, and how the last
    positions are closed. Two processes may ask for the same day; one of them waits and finds it.

    Args:
        game: Connection to the game's database, outside of a transaction; it is in one until the day's end.
        rl: Connection to the database with schema `rl`; may be the same one.
        policy: Plays every agent.
        world: From `ensure_world`; its `next_day` moves on.
        day: The world's next day, or an earlier one.
        on_progress: Called with the hours done and their total.

    Raises:
        ForeignDatabaseError: The game's database carries no marker of ours.
        DayOrderError: The day is before the world's start, or days before it are missing.
    """
    await require_marker(game)
    async with game.transaction():
        await lock(game)
        done = await days_done(game, world)
        number = (day - world.start_day).days
        world.next_day = world.start_day + timedelta(days=done)
        if not 0 <= number <= done:
            raise DayOrderError(
                f"{day} cannot be simulated: the world starts on {world.start_day} and its next day is"
                f" {world.next_day}",
                f"Simulate {world.next_day} first." if number > done else "Start a world at an earlier day.",
            )
        if number < done:
            return DaySummary(day, created=False)
        run = await Day.begin(game, policy, world, number)
        for hour in range(HOURS_PER_DAY):
            await run.play_hour(number * HOURS_PER_DAY + hour)
            if on_progress is not None:
                on_progress(hour + 1, HOURS_PER_DAY)
        summary = await run.finish(game)
        # Where rl is another database this is committed first, which is harmless: it only repeats.
        await rl.execute(_NOTE, world.seed, number + 1)
    world.next_day = day + timedelta(days=1)
    return summary
