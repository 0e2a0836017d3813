"""`window_readiness` and `daily_training` on real rows and a real Dagster instance."""

import asyncio
from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest

from babylon_rl.database.connection import UnreachableDatabaseError, connect
from babylon_rl.definitions import defs
from babylon_rl.orchestration.jobs import DAILY_ASSETS
from babylon_rl.orchestration.resources import PostgresResource
from babylon_rl.orchestration.schedules import daily_training
from babylon_rl.orchestration.sensors import window_readiness
from babylon_rl.orchestration.ticks import Cursor
from babylon_rl.settings import Settings, get_settings
from babylon_rl.windows import day_of, window_range, windows_between, windows_of_day
from babylon_rl_tests.orchestration.recorded import record_agents, record_window

DAY, NEXT_DAY = "2026-10-02", "2026-10-03"
WINDOWS = windows_of_day(DAY)
AGENTS = ["agent-a", "agent-b", "agent-c"]
MORNING = datetime(2026, 10, 5, 3, tzinfo=UTC)


@pytest.fixture
def instance(settings: Settings):
    with dg.instance_for_test() as instance:
        yield instance


def record(dsn: str, *windows: str, agents: list[str] = AGENTS) -> None:
    async def write() -> None:
        game = await connect(dsn)
        await record_agents(game, agents)
        for window_id in windows:
            await record_window(game, window_id, agents)
        await game.close()

    asyncio.run(write())


def resolve(dsn: str, windows: list[str], status: str = "scored") -> None:
    async def write() -> None:
        rl = await connect(dsn)
        await rl.executemany(
            "INSERT INTO rl.window_state (window_id, group_status, episodes) VALUES ($1, $2, 3)"
            " ON CONFLICT (window_id) DO UPDATE SET group_status = excluded.group_status, updated_at = now()",
            [(window_id, status) for window_id in windows],
        )
        await rl.close()

    asyncio.run(write())


def tick(instance: dg.DagsterInstance, cursor: str | None = None) -> dg.SensorResult:
    with dg.build_sensor_context(
        instance=instance,
        cursor=cursor,
        repository_def=defs.get_repository_def(),
        resources={"postgres": PostgresResource()},
    ) as context:
        result = window_readiness(context)
    assert isinstance(result, dg.SensorResult)
    return result


def evaluate(instance: dg.DagsterInstance, at: datetime = MORNING) -> dg.RunRequest | dg.SkipReason:
    with dg.build_schedule_context(
        instance=instance, scheduled_execution_time=at, resources={"postgres": PostgresResource()}
    ) as context:
        return daily_training(context)  # type: ignore[return-value]


def test_nothing_recorded_is_said(instance: dg.DagsterInstance):
    result = tick(instance)
    assert not result.run_requests
    assert "no complete window with recorded rows" in str(result.skip_reason)


def test_ready_windows_are_requested_with_their_fingerprint_and_observed(
    instance: dg.DagsterInstance, dsn: str
):
    record(dsn, WINDOWS[0], WINDOWS[1])
    result = tick(instance)
    requested = {request.partition_key: request for request in result.run_requests or []}
    assert {WINDOWS[0], WINDOWS[1]} <= set(requested)
    # the hours after the last row are empty, and over: they are materialized as well, within bounds
    assert len(requested) == 24
    fingerprint = str(requested[WINDOWS[0]].run_key).split(":")[-2]
    observed = {e.partition: e for e in result.asset_events or [] if isinstance(e, dg.AssetObservation)}
    assert (observed[WINDOWS[0]].tags or {})["dagster/data_version"] == fingerprint
    assert observed[WINDOWS[0]].metadata["rows/agents"].value == len(AGENTS)


def test_done_windows_move_the_watermark_and_late_rows_bring_a_new_key(
    instance: dg.DagsterInstance, dsn: str
):
    now = datetime.now(UTC)
    recent = windows_between(now - timedelta(hours=8), now - timedelta(hours=2))
    since_midnight = windows_between(window_range(f"{day_of(recent[0])}T00:00")[0], now)
    resolve(dsn, [window_id for window_id in since_midnight if window_id not in recent[:2]])
    record(dsn, *recent[:2])
    first = tick(instance)
    assert [request.partition_key for request in first.run_requests or []] == recent[:2]
    resolve(dsn, recent[:2])
    second = tick(instance, first.cursor)
    assert not second.run_requests
    assert Cursor.load(second.cursor).pending == []
    assert str(Cursor.load(second.cursor).watermark) > recent[1]

    record(dsn, recent[0], agents=["agent-d"])
    third = tick(instance, second.cursor)
    assert [request.partition_key for request in third.run_requests or []] == [recent[0]]
    keys = {request.partition_key: request.run_key for request in first.run_requests or []}
    assert (third.run_requests or [])[0].run_key != keys[recent[0]]


def test_windows_of_an_unfinished_run_are_left_alone(instance: dg.DagsterInstance, dsn: str):
    record(dsn, WINDOWS[0])
    job = defs.resolve_job_def("hourly_job")
    instance.create_run_for_job(
        job,
        status=dg.DagsterRunStatus.STARTED,
        tags={
            "dagster/asset_partition_range_start": WINDOWS[0],
            "dagster/asset_partition_range_end": WINDOWS[5],
        },
    )
    requested = {request.partition_key for request in tick(instance).run_requests or []}
    assert requested.isdisjoint(WINDOWS[:6])
    assert WINDOWS[6] in requested


def test_the_oldest_day_with_all_windows_is_trained(instance: dg.DagsterInstance, dsn: str):
    resolve(dsn, WINDOWS + windows_of_day(NEXT_DAY))
    request = evaluate(instance)
    assert isinstance(request, dg.RunRequest)
    assert request.partition_key == DAY


def test_a_day_with_an_unresolved_window_waits_and_says_so(instance: dg.DagsterInstance, dsn: str):
    resolve(dsn, WINDOWS[:-1])
    resolve(dsn, WINDOWS[-1:], status="immature")
    assert "2026-10-02 waits: 23 of 24 windows" in str(evaluate(instance))


def test_trained_days_are_passed_over_and_today_is_not_taken(instance: dg.DagsterInstance, dsn: str):
    resolve(dsn, WINDOWS + windows_of_day(NEXT_DAY))
    instance.report_runless_asset_event(dg.AssetMaterialization(DAILY_ASSETS[-1], partition=DAY))
    request = evaluate(instance)
    assert isinstance(request, dg.RunRequest)
    assert request.partition_key == NEXT_DAY
    on_that_day = evaluate(instance, datetime(2026, 10, 3, 12, tzinfo=UTC))
    assert "every day before today is trained" in str(on_that_day)


def test_a_running_or_thrice_failed_day_is_not_requested(instance: dg.DagsterInstance, dsn: str):
    resolve(dsn, WINDOWS)
    job = defs.resolve_job_def("daily_job")
    for attempt in range(1, 4):
        request = evaluate(instance)
        assert isinstance(request, dg.RunRequest)
        assert request.run_key == f"{DAY}:{attempt}"
        run = instance.create_run_for_job(
            job, status=dg.DagsterRunStatus.STARTED, tags={"dagster/partition": DAY}
        )
        assert f"{DAY} is being trained by run {run.run_id}" in str(evaluate(instance))
        instance.report_run_failed(run)
    assert f"{DAY} failed 3 times" in str(evaluate(instance))


def test_an_unreachable_database_fails_the_tick_with_its_remedy(instance: dg.DagsterInstance):
    unreachable = PostgresResource(database_url="postgresql://nobody@127.0.0.1:1/nowhere")
    with dg.build_sensor_context(
        instance=instance, repository_def=defs.get_repository_def(), resources={"postgres": unreachable}
    ) as context:
        with pytest.raises(UnreachableDatabaseError, match="babylon doctor"):
            window_readiness(context)


def test_the_first_day_needs_only_the_windows_that_exist(
    instance: dg.DagsterInstance, dsn: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("FIRST_PARTITION", WINDOWS[20])
    get_settings.cache_clear()
    resolve(dsn, WINDOWS[20:])
    request = evaluate(instance)
    assert isinstance(request, dg.RunRequest)
    assert request.partition_key == DAY


def test_the_first_recorded_day_is_requested_from_midnight_on(instance: dg.DagsterInstance, dsn: str):
    record(dsn, WINDOWS[5])
    assert WINDOWS[0] in {request.partition_key for request in tick(instance).run_requests or []}


def test_rows_from_before_the_first_partition_are_not_requested(
    instance: dg.DagsterInstance, dsn: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("FIRST_PARTITION", WINDOWS[5])
    get_settings.cache_clear()
    record(dsn, WINDOWS[3], WINDOWS[6])
    requested = sorted(request.partition_key or "" for request in tick(instance).run_requests or [])
    assert requested[0] == WINDOWS[5]


def test_rows_of_a_clock_that_runs_ahead_wait_and_hold_nothing_back(instance: dg.DagsterInstance, dsn: str):
    ahead = f"{datetime.now(UTC) + timedelta(days=30):%Y-%m-%d}T12:00"
    record(dsn, WINDOWS[1], ahead)
    result = tick(instance)
    requested = [request.partition_key for request in result.run_requests or []]
    assert WINDOWS[1] in requested and ahead not in requested
    watermark = Cursor.load(result.cursor).watermark
    assert watermark is not None and watermark < ahead


def test_a_cursor_of_a_clock_that_ran_ahead_hides_no_late_rows(instance: dg.DagsterInstance, dsn: str):
    record(dsn, WINDOWS[1], WINDOWS[2])
    cursor = Cursor.load(tick(instance).cursor)
    resolve(dsn, WINDOWS)
    later = Cursor("2026-10-03T00:00", (datetime.now(UTC) + timedelta(days=400)).isoformat(), [])
    record(dsn, WINDOWS[1], agents=[*AGENTS, "agent-late"])
    assert cursor.seen_at and later.seen_at and cursor.seen_at < later.seen_at
    requested = [request.partition_key for request in tick(instance, later.dump()).run_requests or []]
    assert WINDOWS[1] in requested and WINDOWS[2] not in requested
