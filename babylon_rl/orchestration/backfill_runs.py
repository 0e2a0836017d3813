"""The runs of a backfill, one after the other in this process, shared with whoever else works on the range.

A run is created, and thereby claims its partitions, under a lock in the pipeline's database; the sensor and
other backfills then leave them alone. What is claimed by others is waited for and looked at again afterwards.
"""

import asyncio
import os
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import dagster as dg

from babylon_rl.database.connection import open_databases
from babylon_rl.deployment.branches import SIDE_RULES
from babylon_rl.orchestration.backfill import BackfillPlan, Span, daily_runs, windows_to_make
from babylon_rl.orchestration.claims import UNFINISHED, claimed_partitions, run_partitions
from babylon_rl.orchestration.partitions import daily, hourly
from babylon_rl.orchestration.readiness import DayFacts, partitions_of_day, read_days
from babylon_rl.orchestration.resources import JUDGE, READER
from babylon_rl.orchestration.runs import (
    DAILY_JOB,
    HOURLY_JOB,
    FinishedRun,
    RunCanceledError,
    RunFailedError,
    create_run,
    execute_here,
)
from babylon_rl.orchestration.training import trained_days
from babylon_rl.orchestration.window_training import Trained, run_windows
from babylon_rl.settings import Settings
from babylon_rl.training.selection import Selection
from babylon_rl.windows import windows_of_day

HISTORY_JOB = "history_job"
OWNER_TAG = "babylon/process"
"""Host and process of a run that is executed in the process of a command: nobody else notices its death."""
BACKFILL_TAG = "babylon/backfill"
POLL_SECONDS = 3.0

_LOCK = "SELECT pg_advisory_xact_lock(hashtext('babylon_rl.backfill'))"
_SCORED = """
SELECT window_id FROM rl.window_state
 WHERE group_status = 'scored' AND window_id BETWEEN $1 AND $2 ORDER BY window_id
"""

Report = Callable[[str], None]
Step = Callable[[int], None]


@dataclass(frozen=True)
class BackfillResult:
    """What a backfill did.

    Attributes:
        windows: Windows that were made here.
        shared: Windows that another run made meanwhile.
        days: Days that were trained here.
        left: Days that were not trained, each with its reason.
        failed: Runs that failed, each with its reason; what they cover is found again by the next backfill.
    """

    windows: int
    shared: int
    days: Sequence[str]
    left: Sequence[tuple[str, str]]
    failed: Sequence[str]


def run_backfill(
    instance: dg.DagsterInstance,
    settings: Settings,
    plan: BackfillPlan,
    *,
    report: Report,
    advance: Step,
    rescore: bool = False,
    deploy: bool = False,
) -> BackfillResult:
    """Makes the planned windows, then trains the planned days in order.

    A failed run is told and the next one tried; days whose windows are then missing are left.

    Args:
        report: Called with a line for a person.
        advance: Called with the number of windows or days that are behind us.
        rescore: The plan holds windows about which nothing has changed.
        deploy: Let the last days' models take part in the deployment.
    """
    made, shared, failed = _make_windows(instance, settings, plan, report, advance, rescore)
    done: list[str] = []
    left: list[tuple[str, str]] = []
    job = DAILY_JOB if deploy else HISTORY_JOB
    for day in plan.days:
        reason = _train(instance, settings, day, job, report, failed)
        if reason is None:
            done.append(day)
        else:
            left.append((day, reason))
        advance(1)
    return BackfillResult(made, shared, done, left, failed)


def retrain_days(
    instance: dg.DagsterInstance,
    settings: Settings,
    days: Sequence[str],
    branch: str,
    selection: Selection,
    report: Report,
) -> list[Trained]:
    """Trains days that were trained before once more, in order, on a side branch beside the served chain.

    A day whose scored windows the branch has trained already is left as it is.

    Raises:
        RunFailedError: A day could not be trained.
    """
    results = []
    for day in days:
        windows = asyncio.run(_scored_windows(settings, windows_of_day(day)))
        if len(windows) < SIDE_RULES.min_groups:
            report(f"{day}: no scored window, nothing to retrain")
            continue
        trained = run_windows(instance, branch, windows, selection)
        report(f"{day}: {trained.status}, {trained.version} on the branch {branch}")
        results.append(trained)
    return results


def _make_windows(
    instance: dg.DagsterInstance,
    settings: Settings,
    plan: BackfillPlan,
    report: Report,
    advance: Step,
    rescore: bool,
) -> tuple[int, int, list[str]]:
    made, shared = 0, 0
    failed: list[str] = []
    queue = list(plan.runs)
    while queue:
        span = queue.pop(0)
        run, busy = asyncio.run(_claim(instance, settings, span))
        if run is None:
            _wait_for(instance, span, busy, report)
            todo = asyncio.run(_still_to_make(instance, settings, span))
            taken = len(span.windows()) - len(todo)
            shared += taken
            advance(taken)
            queue[:0] = daily_runs(todo)
            continue
        # Another backfill may have made them between our plan and our claim.
        todo = span.windows() if rescore else asyncio.run(_still_to_make(instance, settings, span))
        if not todo:
            instance.report_run_canceled(run, message="another run made these windows meanwhile")
            shared += len(span.windows())
        else:
            try:
                finished = execute_here(instance, run)
                report(f"{span.first} to {span.last}: run {finished.run_id} in {finished.seconds:.0f} s")
                made += len(span.windows())
            except RunCanceledError:
                raise
            except RunFailedError as problem:
                failed.append(str(problem))
                report(f"failed: {problem}")
        advance(len(span.windows()))
    return made, shared, failed


def _train(
    instance: dg.DagsterInstance,
    settings: Settings,
    day: str,
    job: str,
    report: Report,
    failed: list[str],
) -> str | None:
    """Trains a day; returns why not."""
    while True:
        if day in trained_days(instance):
            return "another run trained it meanwhile"
        facts = asyncio.run(_day(settings, day))
        if not facts.complete(settings):
            return f"{facts.resolved} of its {len(partitions_of_day(day, settings))} windows are resolved"
        run, busy = asyncio.run(_claim_day(instance, settings, day, job))
        if run is not None:
            break
        _wait(f"{day} is being trained by run {busy}", lambda: _day_runs(instance, day), report)
    try:
        finished: FinishedRun = execute_here(instance, run)
    except RunCanceledError:
        raise
    except RunFailedError as problem:
        failed.append(str(problem))
        return str(problem)
    what = "batch, training, benchmark" if facts.scored else "no scored group, checkpoint = parent"
    report(f"{day}: {what}, {finished.seconds:.0f} s (run {finished.run_id})")
    return None


async def _claim(
    instance: dg.DagsterInstance, settings: Settings, span: Span
) -> tuple[dg.DagsterRun | None, set[str]]:
    """Creates the run of a span, or returns which of its windows others have claimed."""
    async with open_databases(settings, role=READER) as db, db.rl.transaction():
        await db.rl.execute(_LOCK)
        busy = _claimed(instance, span)
        if busy:
            return None, busy
        return create_run(instance, HOURLY_JOB, span.first, span.last, tags=_tags()), set()


async def _claim_day(
    instance: dg.DagsterInstance, settings: Settings, day: str, job: str
) -> tuple[dg.DagsterRun | None, str]:
    async with open_databases(settings, role=READER) as db, db.rl.transaction():
        await db.rl.execute(_LOCK)
        if busy := _day_runs(instance, day):
            return None, busy
        return create_run(instance, job, day, tags=_tags()), ""


def _claimed(instance: dg.DagsterInstance, span: Span) -> set[str]:
    from babylon_rl.definitions import defs

    end_dead_runs(instance)
    keys = claimed_partitions(instance, defs.get_repository_def(), dg.AssetKey("trajectories"), hourly)
    return keys & set(span.windows())


def _day_runs(instance: dg.DagsterInstance, day: str) -> str:
    """The unfinished run that covers a day, empty without one."""
    end_dead_runs(instance)
    runs = instance.get_runs(dg.RunsFilter(statuses=UNFINISHED))
    return next((run.run_id for run in runs if day in run_partitions(run, daily)), "")


def end_dead_runs(instance: dg.DagsterInstance) -> None:
    """Marks runs as failed that were executed in a process of this machine which is gone."""
    for run in instance.get_runs(dg.RunsFilter(statuses=UNFINISHED)):
        host, _, process = run.tags.get(OWNER_TAG, "").rpartition(":")
        if host == socket.gethostname() and process != str(os.getpid()) and not _alive(process):
            instance.report_run_failed(run, f"its process {process} on {host} has ended")


def _alive(process: str) -> bool:
    try:
        os.kill(int(process), 0)
    except PermissionError:
        return True
    except (ProcessLookupError, ValueError):
        return False
    return True


def _wait_for(instance: dg.DagsterInstance, span: Span, busy: set[str], report: Report) -> None:
    what = f"{min(busy)} and {len(busy) - 1} more windows" if len(busy) > 1 else min(busy)
    _wait(f"{what}: another run or backfill is at work", lambda: _claimed(instance, span), report)


def _wait(line: str, busy: Callable[[], object], report: Report) -> None:
    report(f"waits, {line} (Ctrl-C ends only this backfill; see /runs in the Dagster UI)")
    while busy():
        time.sleep(POLL_SECONDS)


async def _still_to_make(instance: dg.DagsterInstance, settings: Settings, span: Span) -> list[str]:
    async with open_databases(settings, role=JUDGE) as db:
        return await windows_to_make(db, instance, span, settings, datetime.now(UTC))


async def _day(settings: Settings, day: str) -> DayFacts:
    async with open_databases(settings, role=READER) as db:
        return next((facts for facts in await read_days(db.rl) if facts.day == day), DayFacts(day))


async def _scored_windows(settings: Settings, windows: Sequence[str]) -> list[str]:
    async with open_databases(settings, role=READER) as db:
        return [row["window_id"] for row in await db.rl.fetch(_SCORED, windows[0], windows[-1])]


def _tags() -> dict[str, str]:
    return {BACKFILL_TAG: "true", OWNER_TAG: f"{socket.gethostname()}:{os.getpid()}"}
