"""Which days can be simulated: the ones whose orders have matured by the clock of the real world."""

from datetime import UTC, date, datetime, timedelta

import asyncpg

from babylon_rl.simulation.genesis import SimulationError

SETTLING = timedelta(hours=2)
"""After midnight the last orders of a day take an hour to mature, and its windows a few minutes to close."""

_STORED_START = "SELECT start_day FROM rl.simulation WHERE seed = $1"


class UnsettledDayError(SimulationError):
    """A day that is not over yet."""


def newest_settled_day(now: datetime) -> date:
    """The newest day that is over and whose orders have matured."""
    return (now - SETTLING).astimezone(UTC).date() - timedelta(days=1)


def require_settled(day: date, now: datetime) -> None:
    """Refuse a day that the pipeline could not score yet.

    Raises:
        UnsettledDayError: names the day and the newest possible one.
    """
    newest = newest_settled_day(now)
    if day > newest:
        raise UnsettledDayError(
            f"{day} is not over yet: the newest day that can be simulated is {newest}",
            "Ask for fewer days, or start a new world earlier (`--start`, in an empty BABYLON_HOME).",
        )


async def start_of_world(rl: asyncpg.Connection, seed: int, days: int, now: datetime) -> date:
    """First day of the stored world; else such that the last of ``days`` days is the newest settled one."""
    stored = await rl.fetchval(_STORED_START, seed)
    return stored or newest_settled_day(now) - timedelta(days=days - 1)
