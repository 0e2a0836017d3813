"""A recorded trajectory beside what another model answers: the engine, and any OpenAI-compatible server."""

import asyncpg
import pytest

from babylon_rl.benchmark.answers import read_answer
from babylon_rl.deployment.side_by_side import UnknownTrajectoryError, describe, replay_trajectory
from babylon_rl.policy.engine import EmbeddedEngine
from babylon_rl.policy.remote import RemotePolicy
from babylon_rl.policy.server import PolicyServer
from babylon_rl_tests.orchestration.recorded import record_window

WINDOW = "2026-10-02T03:00"

pytestmark = pytest.mark.anyio


@pytest.fixture
async def trajectory_id(connection: asyncpg.Connection) -> str:
    await record_window(connection, WINDOW, ["agent-a"])
    return str(await connection.fetchval('SELECT "trajectoryId" FROM "trajectories"'))


async def test_each_recorded_call_is_answered_once_more(
    connection: asyncpg.Connection, trajectory_id: str, base_engine: EmbeddedEngine
) -> None:
    replayed = await replay_trajectory(connection, trajectory_id, base_engine)
    assert (replayed.agent_id, replayed.window_id, replayed.version) == ("agent-a", WINDOW, "v0.0.0")
    assert [call.step for call in replayed.calls] == [0, 1] and replayed.answered == 2
    first, second = replayed.calls
    assert (first.recorded, first.model, first.action) == ("BUY $APEXCORP", "v0.0.0", "OPEN_PERP_POSITION")
    assert first.prompt == "News: Apex rises." and first.at is not None
    assert second.recorded_decision == "hold"
    again = await replay_trajectory(connection, trajectory_id, base_engine)
    assert again == replayed, "the likeliest answer does not change"
    assert replayed.to_json()["calls"][0]["at"] == "2026-10-02T03:05:00+00:00"


async def test_a_server_answers_as_the_engine_does(
    connection: asyncpg.Connection, trajectory_id: str, base_engine: EmbeddedEngine
) -> None:
    here = await replay_trajectory(connection, trajectory_id, base_engine)
    with PolicyServer(base_engine) as server:
        policy = RemotePolicy("v0.0.0", server.base_url, "any-name", server.api_key)
        there = await replay_trajectory(connection, trajectory_id, policy)
    assert [call.answer for call in there.calls] == [call.answer for call in here.calls]


async def test_a_call_that_cannot_be_answered_leaves_the_others(
    connection: asyncpg.Connection, trajectory_id: str, base_engine: EmbeddedEngine
) -> None:
    await connection.execute(
        """UPDATE "trajectories" SET "stepsJson" = replace("stepsJson", '"response":"HOLD"',
               '"response":"HOLD","messages":[{"role":"user","content":"'
               || repeat('AURUM surge ', 5000) || '"}]')"""
    )
    replayed = await replay_trajectory(connection, trajectory_id, base_engine)
    assert replayed.calls[0].answer is not None
    assert replayed.calls[1].answer is None and "tokens" in str(replayed.calls[1].problem)
    assert replayed.calls[1].same is None and replayed.answered == 1


async def test_an_unknown_trajectory(connection: asyncpg.Connection, base_engine: EmbeddedEngine) -> None:
    with pytest.raises(UnknownTrajectoryError, match="there is no trajectory 'nope'"):
        await replay_trajectory(connection, "nope", base_engine)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("AURUM surge BUY 2", "long AURUM $1000 10x"),
        ("HOLD", "hold"),
        ("dunno", "no order"),
        ('{"action": "close", "ticker": "AURUM"}', "close AURUM"),
        ('{"action": "post", "content": "hi"}', "post: hi"),
    ],
)
def test_decisions_are_told_in_words(text: str, told: str) -> None:
    assert describe(read_answer(text)).startswith(told)
