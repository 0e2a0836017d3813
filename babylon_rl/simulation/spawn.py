"""Test agents with random trajectories, as the seed documents' `spawn-test-agents` script makes them.

    spawned = await spawn(game, agents=5, duration=timedelta(minutes=5), seed=7, until=datetime.now(UTC))

For trying the data tools, not for learning: what the agents do follows from nothing. The ranges are those
of seed 004: 10 to 19 steps, provider `market_data`, 80 % of the actions succeed, final P&L from -200 to
600 $. In place of its waiting, the steps are dated over the duration, which ends at a given moment; where
it crosses an hour an agent has a trajectory in each. Same arguments, same rows: a repetition stores
nothing twice.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import count
from random import Random

import asyncpg

from babylon_rl.recorder import Ending, TrajectoryRecorder
from babylon_rl.records.steps import Action, EnvironmentState, LlmCall, ProviderAccess
from babylon_rl.simulation.genesis import SimulationError, require_marker
from babylon_rl.windows import WINDOW_LENGTH, window_id_at, window_range

LEAST_STEPS, MOST_STEPS = 10, 19
START_BALANCE = 10_000.0
LOWEST_PNL, HIGHEST_PNL = -200.0, 600.0
SUCCESS = 0.8

_USERS = """
INSERT INTO "User" ("id", "username", "displayName", "isAgent", "isTest", "updatedAt")
SELECT id, id, id, true, true, now() AT TIME ZONE 'UTC' FROM unnest($1::text[]) AS id
ON CONFLICT ("id") DO NOTHING
"""
_STRANGERS = 'SELECT "id" FROM "User" WHERE "id" = ANY($1::text[]) AND NOT "isTest" ORDER BY "id"'


class SpawnError(SimulationError):
    """Test agents cannot be made here."""


@dataclass(frozen=True)
class Spawned:
    """One trajectory of a test agent; `final_pnl` in USD."""

    agent_id: str
    trajectory_id: str
    window_id: str
    steps: int
    final_pnl: float


async def spawn(
    game: asyncpg.Connection, *, agents: int, duration: timedelta, seed: int, until: datetime
) -> list[Spawned]:
    """Stores the trajectories of test agents in one transaction and returns those that are new.

    Args:
        game: Connection to a database of ours, outside of a transaction.
        agents: How many; they are `test-agent-1`, …, marked `isTest`, and are made where they are missing.
        duration: How long they act.
        seed: Decides every number.
        until: When they end (aware UTC).

    Raises:
        ForeignDatabaseError: The database carries no marker of ours.
        SpawnError: A player who is no test user has such an id.
    """
    await require_marker(game)
    ids = [f"test-agent-{number}" for number in range(1, agents + 1)]
    async with game.transaction():
        await game.execute(_USERS, ids)
        if strangers := [row["id"] for row in await game.fetch(_STRANGERS, ids)]:
            raise SpawnError(
                f"{', '.join(strangers[:3])} exists and is no test user", "Spawn into another database."
            )
        numbers = count(1)
        prefix = f"spawn-{seed}-{int(until.timestamp())}"
        recorder = TrajectoryRecorder(game, new_id=lambda: f"{prefix}-{next(numbers)}")
        known = {
            row[0]
            for row in await game.fetch(
                'SELECT "trajectoryId" FROM "trajectories" WHERE "trajectoryId" LIKE $1', f"{prefix}-%"
            )
        }
        spawned, endings = [], []
        for agent_id in ids:
            for start, end in _by_window(until - duration, until):
                window_id = window_id_at(start)
                random = Random(f"{seed}/{agent_id}/{window_id}")
                name = f"{prefix}-{agent_id}-{window_id}"
                steps = await _record(recorder, random, agent_id, name, start, end)
                pnl = random.uniform(LOWEST_PNL, HIGHEST_PNL)
                endings.append(
                    Ending(trajectory_id=name, final_pnl=pnl, final_balance=START_BALANCE + pnl, at=end)
                )
                if name not in known:
                    spawned.append(Spawned(agent_id, name, window_id, steps, pnl))
        await recorder.end_many(endings)
    return spawned


async def _record(
    recorder: TrajectoryRecorder,
    random: Random,
    agent_id: str,
    trajectory_id: str,
    start: datetime,
    end: datetime,
) -> int:
    """Records the steps of one trajectory; returns how many."""
    await recorder.start_trajectory(agent_id, at=start, trajectory_id=trajectory_id)
    steps = random.randint(LEAST_STEPS, MOST_STEPS)
    for number in range(steps):
        choice = random.choice(("BUY", "SELL"))
        succeeds = random.random() < SUCCESS
        recorder.record_step(
            trajectory_id,
            environment_state=EnvironmentState(
                agent_balance=START_BALANCE + random.uniform(0, 1000),
                agent_pnl=random.uniform(-500, 1000),
                open_positions=random.randrange(5),
            ),
            provider_accesses=[
                ProviderAccess(
                    provider_name="market_data",
                    data={"price": random.uniform(100, 150)},
                    purpose="get_current_price",
                )
            ],
            llm_calls=[
                LlmCall(
                    model="gpt-4o-mini",
                    system_prompt="You are a trading agent",
                    user_prompt="Should I buy or sell?",
                    response=choice,
                    temperature=0.7,
                    max_tokens=100,
                    purpose="action",
                )
            ],
            action=Action(
                action_type=f"{choice}_SHARES",
                parameters={"ticker": "$BTC", "shares": 10},
                success=succeeds,
                result={"executed": succeeds},
                error=None if succeeds else "the order was refused",
            ),
            reward=random.uniform(-0.5, 0.5),
            at=start + (end - start) * number / steps,
        )
    return steps


def _by_window(start: datetime, end: datetime) -> Iterator[tuple[datetime, datetime]]:
    """The parts of a span of time that lie in one window each; a part ends before the hour does."""
    while start < end:
        border = window_range(window_id_at(start))[0] + WINDOW_LENGTH
        yield start, min(end, border - timedelta(milliseconds=1))
        start = border
