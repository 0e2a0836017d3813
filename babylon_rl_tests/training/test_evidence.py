"""What earlier windows add to a batch: the agents' effects, also as if an agent had never played."""

from datetime import timedelta

import asyncpg
import msgspec
import numpy as np
import pytest

from babylon_rl.scoring.baselines import Earlier
from babylon_rl.scoring.groups import Member, ScoredGroup, group_of
from babylon_rl.scoring.local import Score
from babylon_rl.training.eligibility import Eligibility
from babylon_rl.training.evidence import earlier_windows, gather
from babylon_rl.training.selection import Selection
from babylon_rl.windows import window_id_at, window_range
from babylon_rl_tests.scoring.made import episode
from babylon_rl_tests.shared_database import dsn, file_dsn

__all__ = ["dsn", "file_dsn"]

pytestmark = pytest.mark.anyio

AGENTS = ("agent-a", "agent-b", "agent-c", "agent-d")
GONE = "agent-b"
TRAINED = "2026-10-02T00:00"


@pytest.fixture
async def groups(connection: asyncpg.Connection) -> list[ScoredGroup]:
    """Twelve scored windows in the database and one after them; the agents differ, one of them wildly."""
    rng = np.random.default_rng(5)
    start, _ = window_range(TRAINED)
    made = []
    for hours in (*range(-13, -1), 0):
        window_id = window_id_at(start + timedelta(hours=hours))
        rewards = np.array([0.1, 5.0, -0.1, 0.3]) + 0.02 * rng.normal(size=4)
        episodes = [episode(agent, 1.0, window_id=window_id) for agent in AGENTS]
        scores = [Score(agent, float(reward), {}) for agent, reward in zip(AGENTS, rewards, strict=True)]
        made.append(group_of(episodes, scores, "pnl", "1"))
    for group in made[:-1]:
        await connection.execute(
            "INSERT INTO rl.window_state (window_id, group_status, group_sha256) VALUES ($1, 'scored', 'g')",
            group.window_id,
        )
        for member in group.members:
            await connection.execute(
                """INSERT INTO rl.scores (window_id, agent_id, scorer, group_sha256, reward, advantage)
                   VALUES ($1, $2, 'pnl', 'g', $3, $4)""",
                *(group.window_id, member.agent_id, member.reward, member.advantage),
            )
    return made


def advantages(group: ScoredGroup) -> dict[str, float]:
    return {member.agent_id: member.advantage for member in group.members}


async def test_earlier_windows_are_what_was_scored(
    connection: asyncpg.Connection, groups: list[ScoredGroup]
) -> None:
    stored = [
        Earlier(group.window_id, member.agent_id, member.advantage)
        for group in groups[:-1]
        for member in group.members
    ]
    assert await earlier_windows(connection, groups[-1:]) == stored


@pytest.mark.parametrize("forgotten", [True, False])
async def test_an_agent_that_is_left_out_is_in_nobodys_effect(
    connection: asyncpg.Connection, groups: list[ScoredGroup], forgotten: bool
) -> None:
    if forgotten:  # as `babylon forget` leaves it: the others' advantages still have its rewards in them
        await connection.execute("DELETE FROM rl.scores WHERE agent_id = $1", GONE)
    selection = Selection(without_agents=(GONE,))
    left = await gather(connection, groups[-1:], Eligibility(), selection)

    await connection.execute("DELETE FROM rl.scores WHERE agent_id = $1", GONE)
    await connection.execute("UPDATE rl.scores SET advantage = 7")
    never = [_without(group) for group in groups[-1:]]
    without = await gather(connection, never, Eligibility(), Selection())
    assert left.figures["baseline/windows_with_effects"] == 1
    assert advantages(left.groups[0]) == pytest.approx(advantages(without.groups[0]), abs=1e-12)
    assert left.figures == pytest.approx(without.figures)


def _without(group: ScoredGroup) -> ScoredGroup:
    """The window as it would have been scored had the agent not been there."""
    members: list[Member] = [member for member in group.members if member.agent_id != GONE]
    mean = sum(member.reward for member in members) / len(members)
    factor = len(members) / (len(members) - 1)
    renewed = [
        msgspec.structs.replace(member, advantage=(member.reward - mean) * factor) for member in members
    ]
    return msgspec.structs.replace(group, members=renewed, agents=len(members))
