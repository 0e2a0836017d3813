"""Reading windows on a real database: every row in one window, nothing dropped silently."""

import asyncio
import json
from datetime import timedelta

import pytest

from babylon_rl import windows
from babylon_rl.database.connection import connect
from babylon_rl.records.reader import BEGINNING, OVERLAP, WindowRead, read_window, refresh_window_rows
from babylon_rl.records.trajectory import from_records, to_records
from babylon_rl_tests.game_rows import START, WINDOW, add_trajectory, add_user, at, call, step

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


@pytest.mark.parametrize(
    ("window", "scenario", "expected"),
    [
        (None, WINDOW, WINDOW),
        (None, None, WINDOW),
        (None, "free text", WINDOW),
        ("", "", WINDOW),
        ("2026-10-01T15:00", "2026-10-01T13:00", "2026-10-01T15:00"),
        ("2026-10-01T09:00:00.000Z", None, "2026-10-01T09:00"),
        ("2026-10-01T09:00Z", "2026-10-01T13:00", "2026-10-01T09:00"),
        (None, "2026-10-01T14:00-extra", WINDOW),
        ("2026-10-01T1%", "2026-10-01T1_:00", WINDOW),
        ("2026-10-01T09:30", "benchmark-7", WINDOW),
    ],
)
async def test_each_row_is_in_one_window(connection, window, scenario, expected):
    trajectory = await add_trajectory(connection, windowId=window, scenarioId=scenario)
    assert await refresh(connection) == 1
    assert await known(connection) == {trajectory: expected}
    counts = {w: len((await read(connection, w)).trajectories) for w in windows.windows_of_day("2026-10-01")}
    assert counts[expected] == 1 and sum(counts.values()) == 1


@pytest.mark.parametrize("zone", ["America/New_York", "Asia/Kolkata"])
async def test_the_host_zone_moves_no_row(connection, zone, monkeypatch):
    monkeypatch.setenv("TZ", zone)
    await add_trajectory(connection, windowId=None, scenarioId=None, startTime=at(0), endTime=at(1))
    await add_trajectory(connection, windowId=None, scenarioId=None, startTime=at(-0.001), endTime=at(1))
    await refresh(connection)
    assert sorted((await known(connection)).values()) == ["2026-10-01T13:00", WINDOW]


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


async def test_our_own_and_the_games_later_writes_are_no_news(connection):
    await add_trajectory(connection, steps=[step(reward=0), step(1, reward=None)])
    await refresh(connection)
    snapshot = to_records((await read(connection)).trajectories)
    seen = await connection.fetchval("SELECT seen_at FROM rl.window_rows")
    # The judge's columns, the batch, and the game's own overwriting of every step's reward.
    await connection.execute(
        'UPDATE "trajectories" SET "aiJudgeReward" = 0.7, "trainedInBatch" = \'b\', "usedInTraining" = true,'
        ' "totalReward" = 3, "stepsJson" = $1, "updatedAt" = $2',
        json.dumps([step(reward=-1.5), step(1, reward=1)]),
        at(30),
    )
    assert await refresh(connection) == 0
    assert await connection.fetchval("SELECT seen_at FROM rl.window_rows") == seen
    assert to_records((await read(connection)).trajectories) == snapshot


@pytest.mark.parametrize(
    "change",
    [
        {"stepsJson": json.dumps([step(action={"actionType": "BUY"})])},
        {"finalPnL": 5.0},
        {"agentId": "agent-2"},
        {"windowId": "2026-10-01T15:00"},
        {"isEvaluation": True},
    ],
)
async def test_a_change_of_what_the_recorder_owns_is_news(connection, change):
    await add_user(connection, "agent-2")
    await add_trajectory(connection)
    await refresh(connection)
    ((column, value),) = change.items()
    await connection.execute(f'UPDATE "trajectories" SET "{column}" = $1, "updatedAt" = $2', value, at(30))
    assert await refresh(connection) == 1
    assert await refresh(connection) == 0


async def test_a_row_that_moved_is_read_in_its_new_window_only(connection):
    moved = await add_trajectory(connection)
    await refresh(connection)
    await connection.execute('UPDATE "trajectories" SET "windowId" = \'2026-10-01T15:00\'')
    assert (await read(connection)).trajectories == []
    assert await known(connection) == {moved: "2026-10-01T15:00"}
    assert len((await read(connection, "2026-10-01T15:00")).trajectories) == 1


async def test_rows_committed_late_are_found(connection, dsn):
    await add_trajectory(connection, createdAt=at(30))
    await refresh(connection)
    late = await connect(dsn)
    try:
        transaction = late.transaction()
        await transaction.start()
        await add_trajectory(late, "late", createdAt=at(20), windowId=None, scenarioId=None)
        assert await refresh(connection) == 0
        await transaction.commit()
    finally:
        await late.close()
    assert await refresh(connection) == 1
    assert await refresh(connection, since=at(600)) == 0


async def test_rows_from_before_the_overlap_need_a_reconciliation(connection):
    await add_trajectory(connection, createdAt=at(0))
    await refresh(connection)
    await add_trajectory(connection, createdAt=START - OVERLAP - timedelta(minutes=1))
    assert await refresh(connection) == 0
    assert await refresh(connection, since=BEGINNING) == 1


async def test_a_row_dated_into_the_future_hides_nothing(connection):
    await add_trajectory(connection, createdAt=START.replace(year=2099))
    await refresh(connection)
    now = await connection.fetchval("SELECT now()")
    await add_trajectory(connection, "other", createdAt=now)
    assert await refresh(connection) == 1


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


async def test_two_feeds_at_once_do_not_disturb_each_other(connection, dsn):
    for agent in range(40):
        await add_trajectory(connection, f"agent-{agent:02}")
    other = await connect(dsn)
    try:
        await asyncio.gather(refresh(connection), refresh_window_rows(other, other))
    finally:
        await other.close()
    assert len(await known(connection)) == 40


async def test_a_long_list_is_read_in_pages(connection, monkeypatch):
    monkeypatch.setattr("babylon_rl.records.reader.LISTED_AT_ONCE", 3)
    monkeypatch.setattr("babylon_rl.records.reader.READ_AT_ONCE", 2)
    for agent in range(10):
        await add_trajectory(connection, f"agent-{agent}")
    assert await refresh(connection) == 10
    assert len((await read(connection)).agents) == 10
