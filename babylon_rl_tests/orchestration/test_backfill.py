"""`babylon backfill` on real rows: what a range lacks, who shares the work, and what is refused."""

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime

import dagster as dg
import pytest

from babylon_rl.database.connection import connect, open_databases
from babylon_rl.orchestration.backfill import (
    BackfillPlan,
    BackfillRangeError,
    Span,
    daily_runs,
    parse_span,
    plan_backfill,
)
from babylon_rl.orchestration.backfill_runs import OWNER_TAG, run_backfill
from babylon_rl.orchestration.resources import JUDGE
from babylon_rl.orchestration.runs import HOURLY_JOB, create_run
from babylon_rl.settings import Settings, get_settings
from babylon_rl.windows import UnknownDayError, UnknownWindowError, windows_of_day

NOW = datetime(2026, 10, 5, 12, 30, tzinfo=UTC)
DAY = "2026-10-02"
WINDOWS = windows_of_day(DAY)
AGENTS = ["agent-a", "agent-b", "agent-c"]


@pytest.mark.parametrize(
    ("first", "last", "message"),
    [
        ("2026-10-03", "2026-10-02", "is before"),
        ("2026-10-07", "2026-10-08", "2026-10-07 is not over. The newest window .* 2026-10-05T11:00"),
        ("2026-10-02", "2026-10-06", "2026-10-06 is not over. Use --to 2026-10-05T11:00"),
        ("2026-10-05T02:00", "2026-10-05T12:00", "2026-10-05T12:00 is not over"),
        ("2026-09-30", "2026-10-02", "before the first partition, 2026-10-01T00:00"),
    ],
)
def test_a_range_that_cannot_be_made_is_refused(settings: Settings, first: str, last: str, message: str):
    with pytest.raises(BackfillRangeError, match=message):
        parse_span(first, last, settings, NOW)


def test_a_range_ends_with_the_newest_complete_window_of_today(settings: Settings):
    assert parse_span("2026-10-04", "2026-10-05", settings, NOW).last == "2026-10-05T11:00"
    assert parse_span("2026-10-04T03:00", "2026-10-04", settings, NOW).first == "2026-10-04T03:00"


@pytest.mark.parametrize("text", ["yesterday", "2026-13-01", "2026-10-01T12:30"])
def test_what_is_neither_day_nor_window_is_refused(settings: Settings, text: str):
    with pytest.raises((UnknownDayError, UnknownWindowError)):
        parse_span(text, "2026-10-04", settings, NOW)


def test_runs_are_contiguous_and_end_at_midnight():
    windows = [*WINDOWS[2:4], *WINDOWS[22:], *windows_of_day("2026-10-03")]
    runs = daily_runs(windows)
    assert [(run.first, run.last) for run in runs] == [
        (WINDOWS[2], WINDOWS[3]),
        (WINDOWS[22], WINDOWS[23]),
        ("2026-10-03T00:00", "2026-10-03T23:00"),
    ]
    assert [window_id for run in runs for window_id in run.windows()] == windows


def plan(instance: dg.DagsterInstance, span: Span, *, rescore: bool = False, train: bool = False):
    async def read() -> BackfillPlan:
        async with open_databases(get_settings(), role=JUDGE) as db:
            return await plan_backfill(db, instance, span, get_settings(), NOW, rescore=rescore, train=train)

    return asyncio.run(read())


def run(instance: dg.DagsterInstance, planned: BackfillPlan, said: list[str], *, rescore: bool = False):
    return run_backfill(
        instance, get_settings(), planned, report=said.append, advance=lambda count: None, rescore=rescore
    )


def materializations(instance: dg.DagsterInstance) -> int:
    runs = instance.get_runs(dg.RunsFilter(job_name=HOURLY_JOB, statuses=[dg.DagsterRunStatus.SUCCESS]))
    return len(runs)


def test_a_second_backfill_finds_nothing_and_late_rows_one_window(
    pg_instance: dg.DagsterInstance, record: Callable[..., None], dsn: str
):
    record(AGENTS, WINDOWS[0], WINDOWS[2])
    span = Span(WINDOWS[0], WINDOWS[2])
    first = plan(pg_instance, span)
    assert (first.windows, first.unchanged) == (3, 0)  # the empty one in the middle is made as well
    assert first.cost.usd == 0
    said: list[str] = []
    result = run(pg_instance, first, said)
    assert (result.windows, result.shared, result.failed) == (3, 0, [])

    assert (plan(pg_instance, span).windows, plan(pg_instance, span, rescore=True).windows) == (0, 3)

    async def dated_far_back() -> None:
        game = await connect(dsn)
        text = 'UPDATE "trajectories" SET "createdAt" = \'2026-01-01\' WHERE "agentId" = \'agent-z\''
        await game.execute(text)
        await game.close()

    record(["agent-z"], WINDOWS[1])
    asyncio.run(dated_far_back())
    again = plan(pg_instance, span)
    assert [(r.first, r.last) for r in again.runs] == [(WINDOWS[1], WINDOWS[1])]


def test_two_backfills_over_the_same_range_make_it_once(
    pg_instance: dg.DagsterInstance, record: Callable[..., None]
):
    record(AGENTS, WINDOWS[0])
    span = Span(WINDOWS[0], WINDOWS[1])
    first, second = plan(pg_instance, span), plan(pg_instance, span)
    said: list[str] = []
    assert run(pg_instance, first, said).windows == 2
    late = run(pg_instance, second, said)
    assert (late.windows, late.shared) == (0, 2)
    assert materializations(pg_instance) == 1


def test_the_run_of_a_killed_process_is_taken_over(
    pg_instance: dg.DagsterInstance, record: Callable[..., None]
):
    record(AGENTS, WINDOWS[0])
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    planned = plan(pg_instance, Span(WINDOWS[0], WINDOWS[0]))
    tags = {OWNER_TAG: f"{socket.gethostname()}:{gone.pid}"}
    dead = create_run(pg_instance, HOURLY_JOB, WINDOWS[0], tags=tags)
    alive = create_run(
        pg_instance, HOURLY_JOB, WINDOWS[5], tags={OWNER_TAG: f"{socket.gethostname()}:{os.getppid()}"}
    )
    assert run(pg_instance, planned, []).windows == 1
    states = {r.run_id: r.status for r in pg_instance.get_runs()}
    assert states[dead.run_id] == dg.DagsterRunStatus.FAILURE
    assert states[alive.run_id] == dg.DagsterRunStatus.NOT_STARTED


@pytest.mark.long
def test_a_day_without_groups_is_trained_as_nothing_and_deploys_nothing(
    pg_instance: dg.DagsterInstance, record: Callable[..., None], dsn: str, home_with_base: object
):
    record(["agent-a"], WINDOWS[3])
    planned = plan(pg_instance, Span(WINDOWS[0], WINDOWS[23]), train=True)
    assert planned.days == [DAY]
    said: list[str] = []
    result = run(pg_instance, planned, said)
    assert (result.days, result.left) == ([DAY], [])
    assert any("no scored group, checkpoint = parent" in line for line in said)
    assert not pg_instance.get_latest_materialization_event(dg.AssetKey("deployed_model"))


def test_a_day_with_a_missing_window_is_left_and_says_so(
    pg_instance: dg.DagsterInstance, record: Callable[..., None]
):
    record(AGENTS, WINDOWS[0])
    planned = BackfillPlan(Span(WINDOWS[0], WINDOWS[23]), runs=[Span(WINDOWS[0], WINDOWS[0])], days=[DAY])
    result = run(pg_instance, planned, [])
    assert result.left == [(DAY, "1 of its 24 windows are resolved")]
