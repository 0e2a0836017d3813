"""The recorder against a real database: rows as the game writes them, durable, never twice."""

import asyncio
import json
import subprocess
import sys
import textwrap
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from babylon_rl.database.connection import connect, create_pool
from babylon_rl.recorder import Ending, TrajectoryRecorder
from babylon_rl.recorder.errors import (
    InvalidRecordingError,
    NotStoredError,
    StepAlreadyOpenError,
    StepNotOpenError,
    TrajectoryIdTakenError,
    UnknownAgentError,
    UnknownTrajectoryError,
)
from babylon_rl.recorder.snowflake import Snowflakes
from babylon_rl.records.steps import EnvironmentState, LlmCall, decode_steps
from babylon_rl.windows import NaiveTimeError, UnknownWindowError

pytestmark = pytest.mark.anyio

START = datetime(2026, 10, 1, 13, 59, 58, 412_900, tzinfo=UTC)
STATE = {"agentBalance": 941.2, "agentPnL": -58.8, "openPositions": 2, "equity": 991.2, "mood": "calm"}
HOLD = {"actionType": "HOLD", "parameters": {}, "success": True, "result": {"held": True}}
CALL = LlmCall(
    model="babylon-tiny",
    model_version="v0.0.1",
    system_prompt="You trade.",
    user_prompt="ACME 100.0",
    response="HOLD",
    temperature=1.0,
    max_tokens=12,
    purpose="action",
    action_type="HOLD",
    latency_ms=12.6,
    prompt_token_ids=[1, 2, 3],
    token_ids=[7, 8],
    logprobs=[-0.5, -0.25],
    policy_version="v0.0.1",
    response_id="r-1",
    finish_reason="stop",
    chat_template_hash="abc",
    top_p=1.0,
)


@pytest.fixture
async def recorder(connection: asyncpg.Connection) -> TrajectoryRecorder:
    await connection.execute(
        """
        INSERT INTO "User" ("id", "isAgent", "updatedAt")
        VALUES ('agent-1', true, now()), ('agent-2', true, now())
        """
    )
    return TrajectoryRecorder(connection, new_id=Snowflakes())


async def only_row(connection: asyncpg.Connection) -> dict[str, Any]:
    (row,) = await connection.fetch('SELECT * FROM "trajectories"')
    return dict(row)


async def test_a_row_is_what_the_game_would_have_written(
    connection: asyncpg.Connection, recorder: TrajectoryRecorder
) -> None:
    trajectory = await recorder.start_trajectory("agent-1", at=START)
    recorder.start_step(trajectory, STATE, at=START + timedelta(seconds=1))
    recorder.log_provider_access(trajectory, {"providerName": "m", "data": {"p": 1.5}, "purpose": "prices"})
    recorder.log_llm_call(trajectory, CALL)
    recorder.complete_step(trajectory, HOLD)
    buy = {"actionType": "BUY_SHARES", "parameters": {"shares": 3}, "success": False, "error": "no money"}
    recorder.record_step(trajectory, environment_state=STATE, action=buy, reward=0.25, at=START)
    ended = await recorder.end_trajectory(
        trajectory, final_balance=941.2, final_pnl=-58.8, at=START + timedelta(seconds=5.4948)
    )
    assert ended is True

    row = await only_row(connection)
    assert int(row["id"]) > int(trajectory)
    assert row["trajectoryId"] == trajectory and row["agentId"] == "agent-1"
    assert row["startTime"] == START.replace(microsecond=412_000)
    assert (row["durationMs"], row["windowHours"]) == (5495, 1)
    # The window is that of the start, although the end lies in the next one.
    assert row["windowId"] == row["scenarioId"] == "2026-10-01T13:00"
    assert row["episodeId"] == f"2026-10-01T13:00-{int(row['endTime'].timestamp() * 1000)}"
    assert json.loads(row["rewardComponentsJson"]) == {"environmentReward": 0.25}
    assert json.loads(row["metadataJson"]) == {"isTrainingData": True, "gameKnowledge": {}}
    assert json.loads(row["metricsJson"]) == {
        "episodeLength": 2,
        "finalStatus": "completed_with_errors",
        "finalBalance": 941.2,
        "finalPnL": -58.8,
        "tradesExecuted": 1,
        "postsCreated": 0,
        "errorCount": 1,
    }
    assert (row["totalReward"], row["episodeLength"], row["finalStatus"]) == (
        0.25,
        2,
        "completed_with_errors",
    )
    assert (row["finalBalance"], row["finalPnL"], row["tradesExecuted"]) == (941.2, -58.8, 1)
    assert (row["isTrainingData"], row["isEvaluation"], row["usedInTraining"]) == (True, False, False)
    assert row["batchId"] is row["aiJudgeReward"] is row["judgedAt"] is None
    assert abs(row["updatedAt"] - datetime.now(UTC)) < timedelta(minutes=1)

    first, second = json.loads(row["stepsJson"])
    assert first["stepNumber"] == 0 and second["stepNumber"] == 1
    assert first["timestamp"] == int((START + timedelta(seconds=1)).timestamp() * 1000)
    assert first["environmentState"] == STATE
    assert first["action"] == HOLD and first["reward"] == 0
    assert first["llmCalls"][0]["logprobs"] == [-0.5, -0.25]
    assert second["llmCalls"] == [] and second["providerAccesses"] == []
    decoded = decode_steps(row["stepsJson"])
    assert decoded[0].llm_calls == [CALL]
    assert decoded[0].environment_state.extra == {"mood": "calm"}


async def test_each_call_is_logged_as_well(
    connection: asyncpg.Connection, recorder: TrajectoryRecorder
) -> None:
    trajectory = await recorder.start_trajectory("agent-1", at=START)
    recorder.record_step(trajectory, environment_state=STATE, action=HOLD, llm_calls=[CALL, CALL], at=START)
    await recorder.end_trajectory(trajectory, at=START)
    rows = await connection.fetch('SELECT * FROM "llm_call_logs" ORDER BY "callId"')
    assert [row["callId"] for row in rows] == [f"{trajectory}-call-0-0", f"{trajectory}-call-0-1"]
    row = dict(rows[0])
    assert row["stepId"] == f"{trajectory}-step-0" and row["trajectoryId"] == trajectory
    assert row["timestamp"] == START.replace(microsecond=412_000)
    assert (row["latencyMs"], row["maxTokens"], row["temperature"], row["topP"]) == (13, 12, 1.0, 1.0)
    assert (row["promptTokens"], row["completionTokens"], row["totalTokens"]) == (3, 2, 5)
    assert (row["systemPrompt"], row["userPrompt"], row["response"]) == ("You trade.", "ACME 100.0", "HOLD")
    assert json.loads(row["metadata"]) == {"modelVersion": "v0.0.1"}
    assert row["messagesJson"] is None


async def test_a_hold_is_not_an_error(connection: asyncpg.Connection, recorder: TrajectoryRecorder) -> None:
    trajectory = await recorder.start_trajectory("agent-1", at=START)
    state = EnvironmentState(agent_balance=1.0, agent_pnl=0.0, open_positions=0)
    recorder.record_step(trajectory, 0, environment_state=state, action=HOLD, at=START)
    await recorder.end_trajectory(trajectory, at=START)
    row = await only_row(connection)
    assert row["finalStatus"] == "completed" and json.loads(row["metricsJson"])["errorCount"] == 0
    assert row["finalBalance"] is None and "finalBalance" not in json.loads(row["metricsJson"])


async def test_a_repeated_end_does_nothing(
    connection: asyncpg.Connection, recorder: TrajectoryRecorder
) -> None:
    trajectory = await recorder.start_trajectory("agent-1", at=START)
    recorder.record_step(trajectory, environment_state=STATE, action=HOLD, llm_calls=[CALL], at=START)
    assert await recorder.end_trajectory(trajectory, final_pnl=1.0, at=START) is True
    assert await recorder.end_trajectory(trajectory, final_pnl=2.0, at=START) is False
    assert (await only_row(connection))["finalPnL"] == 1.0
    assert await connection.fetchval('SELECT count(*) FROM "llm_call_logs"') == 1


async def test_two_ends_at_once_store_one_row(
    dsn: str, connection: asyncpg.Connection, recorder: TrajectoryRecorder
) -> None:
    async with await create_pool(dsn, max_size=4) as pool:
        pooled = TrajectoryRecorder(pool)
        trajectory = await pooled.start_trajectory("agent-1", at=START)
        pooled.record_step(trajectory, environment_state=STATE, action=HOLD, llm_calls=[CALL], at=START)
        ended = await asyncio.gather(*(pooled.end_trajectory(trajectory, at=START) for _ in range(4)))
    assert sum(ended) == 1
    assert (await only_row(connection))["trajectoryId"] == trajectory
    assert await connection.fetchval('SELECT count(*) FROM "llm_call_logs"') == 1


async def test_another_trajectory_s_id_is_refused_not_swallowed(
    connection: asyncpg.Connection, recorder: TrajectoryRecorder
) -> None:
    ids = iter(["7", "8", "9", "7", "10", "11"])
    clashing = TrajectoryRecorder(connection, new_id=lambda: next(ids))
    for agent in ("agent-1", "agent-2"):
        trajectory = await clashing.start_trajectory(agent, at=START)
        clashing.record_step(trajectory, environment_state=STATE, action=HOLD, llm_calls=[CALL], at=START)
        if agent == "agent-1":
            await clashing.end_trajectory(trajectory, at=START)
            clashing._ended.clear()  # as in another process
        else:
            with pytest.raises(TrajectoryIdTakenError, match="WORKER_ID"):
                await clashing.end_trajectory(trajectory, at=START)


async def test_many_end_in_one_transaction(
    connection: asyncpg.Connection, recorder: TrajectoryRecorder
) -> None:
    async def play(agent: str) -> Ending:
        trajectory = await recorder.start_trajectory(agent, at=START)
        recorder.record_step(trajectory, environment_state=STATE, action=HOLD, llm_calls=[CALL], at=START)
        return Ending(trajectory_id=trajectory, final_pnl=3.0, at=START + timedelta(minutes=1))

    endings = [await play("agent-1") for _ in range(50)]
    assert await recorder.end_many(endings) == 50
    assert await recorder.end_many(endings) == 0
    assert await connection.fetchval('SELECT count(DISTINCT xmin::text) FROM "trajectories"') == 1
    assert await connection.fetchval('SELECT count(*) FROM "llm_call_logs"') == 50

    bad = [await play("agent-2"), await play("nobody")]
    with pytest.raises(UnknownAgentError, match="nobody"):
        await recorder.end_many(bad)
    assert await connection.fetchval('SELECT count(*) FROM "trajectories"') == 50
    assert await recorder.end_many(bad[:1]) == 1  # the good one is still open


async def test_large_trajectories_are_split_but_stay_one_transaction(
    connection: asyncpg.Connection, recorder: TrajectoryRecorder
) -> None:
    endings = []
    for _ in range(3):
        trajectory = await recorder.start_trajectory("agent-1", at=START)
        state = {**STATE, "custom": "x" * 5_000_000}
        recorder.record_step(trajectory, environment_state=state, action=HOLD, at=START)
        endings.append(Ending(trajectory_id=trajectory, at=START))
    assert await recorder.end_many(endings) == 3
    assert await connection.fetchval('SELECT count(DISTINCT xmin::text) FROM "trajectories"') == 1


async def test_a_failed_end_can_be_repeated(
    dsn: str, connection: asyncpg.Connection, recorder: TrajectoryRecorder
) -> None:
    other = await connect(dsn)
    broken = TrajectoryRecorder(other)
    trajectory = await broken.start_trajectory("agent-1", at=START)
    await other.close()
    with pytest.raises(NotStoredError, match="end them again"):
        await broken.end_trajectory(trajectory, at=START)
    broken._database = connection
    assert await broken.end_trajectory(trajectory, at=START) is True

    trajectory = await recorder.start_trajectory("agent-3", at=START)
    with pytest.raises(UnknownAgentError, match="agent-3"):
        await recorder.end_trajectory(trajectory, at=START)
    await connection.execute("""INSERT INTO "User" ("id", "updatedAt") VALUES ('agent-3', now())""")
    assert await recorder.end_trajectory(trajectory, at=START) is True


async def test_misuse_is_named(recorder: TrajectoryRecorder) -> None:
    trajectory = await recorder.start_trajectory("agent-1", at=START)
    with pytest.raises(UnknownTrajectoryError, match="12345"):
        recorder.start_step("12345", STATE)
    with pytest.raises(StepNotOpenError, match=trajectory):
        recorder.log_llm_call(trajectory, CALL)
    with pytest.raises(StepNotOpenError):
        recorder.complete_step(trajectory, HOLD)
    with pytest.raises(InvalidRecordingError, match="agentPnL"):
        recorder.start_step(trajectory, {"agentBalance": 1.0, "openPositions": 0})
    with pytest.raises(InvalidRecordingError, match="out of order"):
        recorder.record_step(trajectory, 3, environment_state=STATE, action=HOLD)
    with pytest.raises(NaiveTimeError):
        recorder.start_step(trajectory, STATE, at=datetime(2026, 10, 1))  # noqa: DTZ001
    recorder.start_step(trajectory, STATE, at=START)
    with pytest.raises(StepAlreadyOpenError, match="Step 0"):
        recorder.start_step(trajectory, STATE)
    with pytest.raises(InvalidRecordingError, match="reward"):
        recorder.complete_step(trajectory, HOLD, reward=float("nan"))
    with pytest.raises(InvalidRecordingError, match="maxTokens"):
        recorder.log_llm_call(
            trajectory,
            LlmCall(
                model="m",
                system_prompt="",
                user_prompt="",
                response="",
                temperature=1.0,
                max_tokens=None,
                purpose="action",
            ),
        )
    with pytest.raises(InvalidRecordingError, match="Step 0"):
        recorder.complete_step(
            trajectory, {"actionType": "X", "parameters": {"o": object()}, "success": True}
        )
    for end in (START - timedelta(seconds=1), START + timedelta(days=25)):
        with pytest.raises(InvalidRecordingError, match="would last"):
            await recorder.end_trajectory(trajectory, at=end)
    with pytest.raises(InvalidRecordingError, match="final_pnl"):
        await recorder.end_trajectory(trajectory, final_pnl=float("inf"), at=START)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"at": datetime(2026, 10, 1)}, NaiveTimeError),  # noqa: DTZ001
        ({"window_id": "2026-10-01T14:30"}, UnknownWindowError),
        ({"scenario_id": "x" * 101}, InvalidRecordingError),
        ({"episode_id": ""}, InvalidRecordingError),
        ({"metadata": {"when": object()}}, InvalidRecordingError),
    ],
)
async def test_a_bad_start_is_refused(
    recorder: TrajectoryRecorder, arguments: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        await recorder.start_trajectory("agent-1", **arguments)


async def test_given_ids_metadata_and_an_unfinished_step_are_kept(
    connection: asyncpg.Connection, recorder: TrajectoryRecorder
) -> None:
    trajectory = await recorder.start_trajectory(
        "agent-1",
        window_id="2026-10-01T09:00",
        scenario_id="s" * 100,
        at=START,
        metadata={"agentModel": "tiny", "isEvaluation": True, "isTrainingData": False},
    )
    recorder.start_step(trajectory, STATE, at=START)
    recorder.log_llm_call(trajectory, CALL)
    await recorder.end_trajectory(trajectory, final_status="timeout", total_reward=4.0, at=START)
    row = await only_row(connection)
    assert row["windowId"] == "2026-10-01T09:00" and row["scenarioId"] == "s" * 100
    assert len(row["episodeId"]) == 100 and row["episodeId"].endswith(f"s-{int(START.timestamp() * 1000)}")
    assert (row["isEvaluation"], row["isTrainingData"]) == (True, False)
    assert json.loads(row["metadataJson"])["agentModel"] == "tiny"
    assert (row["finalStatus"], row["totalReward"]) == ("timeout", 4.0)
    (step,) = json.loads(row["stepsJson"])
    assert step["action"] == {"actionType": "pending", "parameters": {}, "success": False}
    assert len(step["llmCalls"]) == 1


async def test_text_that_postgresql_cannot_hold_is_replaced(
    connection: asyncpg.Connection, recorder: TrajectoryRecorder
) -> None:
    call = LlmCall(
        model="m",
        system_prompt="nul \0",
        user_prompt="half \ud83d",
        response="whole \U0001f600",
        temperature=0.0,
        max_tokens=1,
        purpose="action",
        messages=[{"role": "user", "content": "half \ud83d"}],
    )
    trajectory = await recorder.start_trajectory("agent-1", at=START, metadata={"note": "half \ud83d"})
    state = {**STATE, "agentPnL": float("nan"), "extra key": "half \ud83d"}
    recorder.record_step(trajectory, environment_state=state, action=HOLD, llm_calls=[call], at=START)
    await recorder.end_trajectory(trajectory, at=START)
    (log,) = await connection.fetch('SELECT * FROM "llm_call_logs"')
    assert (log["systemPrompt"], log["userPrompt"]) == ("nul \ufffd", "half \ufffd")
    assert log["response"] == "whole \U0001f600"
    (step,) = json.loads((await only_row(connection))["stepsJson"])
    assert step["llmCalls"][0]["userPrompt"] == "half \ufffd"
    assert step["environmentState"]["agentPnL"] is None
    assert step["environmentState"]["extra key"] == "half \ufffd"


async def test_rows_do_not_depend_on_the_session_s_time_zone(
    dsn: str, connection: asyncpg.Connection, recorder: TrajectoryRecorder
) -> None:
    foreign = await asyncpg.connect(dsn, server_settings={"timezone": "America/New_York"})
    abroad = TrajectoryRecorder(foreign)
    trajectory = await abroad.start_trajectory("agent-1", at=START)
    await abroad.end_trajectory(trajectory, at=START)
    await foreign.close()
    row = await only_row(connection)
    assert row["startTime"] == START.replace(microsecond=412_000)
    assert abs(row["createdAt"] - datetime.now(UTC)) < timedelta(minutes=1)


async def test_a_crash_before_the_commit_leaves_nothing(
    dsn: str, connection: asyncpg.Connection, recorder: TrajectoryRecorder
) -> None:
    program = """
        import asyncio, sys
        from datetime import datetime, UTC
        from babylon_rl.database.connection import connect
        from babylon_rl.recorder import TrajectoryRecorder
        from babylon_rl_tests.recorder.test_recorder import CALL, HOLD, STATE

        async def main():
            recorder = TrajectoryRecorder(await connect(sys.argv[1]))
            trajectory = await recorder.start_trajectory("agent-1")
            recorder.record_step(trajectory, environment_state=STATE, action=HOLD, llm_calls=[CALL])
            print("ending", flush=True)
            await recorder.end_trajectory(trajectory)

        asyncio.run(main())
    """
    async with connection.transaction():
        await connection.execute('LOCK TABLE "llm_call_logs" IN ACCESS EXCLUSIVE MODE')
        process = subprocess.Popen(  # noqa: ASYNC220
            [sys.executable, "-c", textwrap.dedent(program), dsn], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None and process.stdout.readline() == "ending\n"
        # Its statement has inserted the trajectory and waits for the second table.
        waiting = "FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        while not await connection.fetchval(f"SELECT count(*) {waiting}"):
            await asyncio.sleep(0.02)
            await connection.execute("SELECT pg_stat_clear_snapshot()")
        process.kill()
        process.communicate()
        await connection.execute(f"SELECT pg_terminate_backend(pid, 5000) {waiting}")
    assert await connection.fetchval('SELECT count(*) FROM "trajectories"') == 0
    assert await connection.fetchval('SELECT count(*) FROM "llm_call_logs"') == 0
