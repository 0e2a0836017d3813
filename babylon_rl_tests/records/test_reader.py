"""Reading windows on a real database: nothing is dropped silently, and a bad row sinks no window."""

import json

import pytest

from babylon_rl import windows
from babylon_rl.database.connection import connect
from babylon_rl.records.reader import WindowRead, read_window, refresh_window_rows
from babylon_rl.records.trajectory import from_records, to_records
from babylon_rl_tests.game_rows import WINDOW, add_trajectory, add_user, at, call, step

pytestmark = pytest.mark.anyio


async def read(connection, window_id: str = WINDOW, **options) -> WindowRead:
    return await read_window(connection, connection, window_id, **options)


async def refresh(connection, **options) -> int:
    return await refresh_window_rows(connection, connection, **options)


async def known(connection) -> dict[str, str]:
    rows = await connection.fetch("SELECT trajectory_id, window_id FROM rl.window_rows")
    return {row["trajectory_id"]: row["window_id"] for row in rows}


async def held(connection) -> dict[str, str]:
    rows = await connection.fetch("SELECT trajectory_id, reason FROM rl.quarantine WHERE released_at IS NULL")
    return {row["trajectory_id"]: row["reason"] for row in rows}


async def test_sixty_rows_of_one_agent_are_one_agent(connection):
    for minute in range(60):
        await add_trajectory(connection, "busy", startTime=at(59 - minute), endTime=at(60 - minute))
    await add_trajectory(connection, "calm")
    await refresh(connection)
    window = await read(connection)
    assert window.agents == ["busy", "calm"]
    assert len(window.trajectories) == 61
    starts = [t.start_time for t in window.trajectories if t.agent_id == "busy"]
    assert starts == sorted(starts)


async def test_rows_left_out_on_purpose_are_counted_by_reason(connection):
    await add_user(connection, "tester", isTest=True)
    await add_user(connection, "npc", isActor=True)
    await add_user(connection, "market-decision-engine")
    kept = await add_trajectory(connection, "player")
    tested = await add_trajectory(connection, "tester")
    await add_trajectory(connection, "npc")
    await add_trajectory(connection, "market-decision-engine")
    await add_trajectory(connection, "player", isEvaluation=True)
    await add_trajectory(connection, "player", isTrainingData=False)
    await add_trajectory(connection, "player", windowHours=24)
    await refresh(connection)
    window = await read(connection)
    assert [t.trajectory_id for t in window.trajectories] == [kept]
    assert window.excluded == {
        "evaluation": 1,
        "not_training_data": 1,
        "npc": 2,
        "test_user": 1,
        "window_hours": 1,
    }
    asked = await read(connection, include_test_users=True)
    assert {t.trajectory_id for t in asked.trajectories} == {kept, tested}
    assert "test_user" not in asked.excluded


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('[{"stepNumber":0', "invalid_json"),
        ("null", "null_steps"),
        ('{"steps":[]}', "not_a_list"),
        ("[3]", "step_not_an_object"),
        ('[{"environmentState":{"agentBalance":"a lot"}}]', "bad_number"),
    ],
)
async def test_an_unreadable_row_is_held_and_the_window_goes_on(connection, text, reason):
    good = await add_trajectory(connection, "good")
    bad = await add_trajectory(connection, "bad", text)
    await refresh(connection)
    window = await read(connection)
    assert [t.trajectory_id for t in window.trajectories] == [good]
    (row,) = window.quarantined
    assert (row.trajectory_id, row.agent_id, row.reason) == (bad, "bad", reason)
    assert await held(connection) == {bad: reason}
    detail = await connection.fetchval("SELECT detail FROM rl.quarantine WHERE trajectory_id = $1", bad)
    assert detail == row.detail != ""


@pytest.mark.parametrize("notice", ["refresh", "read"])
async def test_a_repaired_row_enters_again(connection, notice):
    bad = await add_trajectory(connection, "bad", "[{")
    await refresh(connection)
    await read(connection)
    before = await connection.fetchval("SELECT fingerprint FROM rl.window_rows")
    assert await refresh(connection) == 0
    # Repaired by hand, which leaves "updatedAt" alone.
    await connection.execute('UPDATE "trajectories" SET "stepsJson" = $1', json.dumps([step()]))
    if notice == "refresh":
        assert await refresh(connection) == 1
    else:
        assert [t.trajectory_id for t in (await read(connection)).trajectories] == [bad]
    assert await held(connection) == {}
    assert await connection.fetchval("SELECT released_at IS NOT NULL FROM rl.quarantine")
    assert await connection.fetchval("SELECT fingerprint FROM rl.window_rows") != before


async def test_a_row_that_breaks_again_is_held_again(connection):
    await add_trajectory(connection, "bad", "[{")
    await refresh(connection)
    await read(connection)
    await connection.execute('UPDATE "trajectories" SET "stepsJson" = $1', "[]")
    await refresh(connection)
    await connection.execute('UPDATE "trajectories" SET "stepsJson" = $1', "null")
    assert (await read(connection)).quarantined[0].reason == "null_steps"
    assert list((await held(connection)).values()) == ["null_steps"]


async def test_a_deleted_agent_takes_its_rows_away(connection):
    await add_trajectory(connection, "gone")
    await add_trajectory(connection, "here")
    await refresh(connection)
    await connection.execute('DELETE FROM "User" WHERE "id" = \'gone\'')
    window = await read(connection)
    assert window.agents == ["here"]
    assert window.excluded == {"deleted": 1}
    assert await connection.fetchval("SELECT count(*) FROM rl.window_rows WHERE excluded = 'deleted'") == 1


async def test_rows_of_zero_one_and_many_steps_and_without_calls_live_together(connection):
    await add_trajectory(connection, "benchmark", [])
    await add_trajectory(connection, "one", [step()])
    await add_trajectory(connection, "many", [step(i, llmCalls=[call()] if i % 2 else []) for i in range(7)])
    await refresh(connection)
    sizes = {t.agent_id: len(t.steps) for t in (await read(connection)).trajectories}
    assert sizes == {"benchmark": 0, "one": 1, "many": 7}


async def test_missing_and_nan_finals_are_none_and_zero_is_zero(connection):
    await add_trajectory(connection, "nan", finalPnL=float("nan"), finalBalance=float("inf"))
    await add_trajectory(connection, "null", finalPnL=None, finalBalance=None)
    await add_trajectory(connection, "zero", finalPnL=0.0, finalBalance=0.0)
    await refresh(connection)
    finals = {t.agent_id: (t.final_pnl, t.final_balance) for t in (await read(connection)).trajectories}
    assert finals == {"nan": (None, None), "null": (None, None), "zero": (0.0, 0.0)}


async def test_a_snapshot_is_the_same_whatever_the_order_of_arrival(connection):
    rows = [await add_trajectory(connection, agent, [step(llmCalls=[call()])]) for agent in "bac"]
    await refresh(connection)
    first = await read(connection)
    assert [t.agent_id for t in first.trajectories] == ["a", "b", "c"]
    records = to_records(first.trajectories)
    assert to_records(from_records(json.loads(json.dumps(records)))) == records
    await connection.execute(
        'UPDATE "trajectories" SET "createdAt" = $1 WHERE "trajectoryId" = $2', at(59), rows[0]
    )
    assert to_records((await read(connection)).trajectories) == records


async def test_an_unknown_and_an_empty_window(connection):
    with pytest.raises(windows.UnknownWindowError):
        await read(connection, "2026-10-01")
    assert await read(connection) == WindowRead(WINDOW, [], {}, [])


async def test_two_databases(connection, server, template):
    """The game's database and the one of schema `rl` may be apart."""
    name = server.create(template)
    try:
        rl = await connect(server.dsn(name))
        try:
            trajectory = await add_trajectory(connection, "player")
            assert await refresh_window_rows(connection, rl) == 1
            window = await read_window(connection, rl, WINDOW)
            assert [t.trajectory_id for t in window.trajectories] == [trajectory]
            assert await known(connection) == {}
        finally:
            await rl.close()
    finally:
        server.drop(name)
