"""Training windows from the command line: one on a branch of its own, or one iteration after another.

An iteration is a Dagster run that trains some windows that nobody has trained yet, as one step of the branch
`continuous`. One that fails is told and left, and the next windows are tried. SIGTERM and Ctrl-C end the run
in progress, which loses nothing, and then the loop.
"""

import asyncio
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import dagster as dg

from babylon_rl.database.connection import open_databases
from babylon_rl.deployment.branches import CONTINUOUS, branch_of, scored_groups, untrained_windows
from babylon_rl.errors import BabylonError
from babylon_rl.orchestration.resources import ArtifactStoreResource
from babylon_rl.orchestration.runs import HOURLY_JOB, RunCanceledError, RunFailedError, run_in_process
from babylon_rl.orchestration.training_log import RULE, Summary, closing, describe, outcome
from babylon_rl.orchestration.unresolved import unresolved_windows
from babylon_rl.orchestration.window_training import Trained, art_options, run_windows
from babylon_rl.records.reader import refresh_window_rows
from babylon_rl.records.store import ArtifactError
from babylon_rl.scoring.groups import SCORED, ScoredGroup
from babylon_rl.settings import Settings
from babylon_rl.training.selection import Selection
from babylon_rl.windows import (
    WINDOW_LENGTH,
    WINDOWS_PER_DAY,
    parse_window,
    window_id_at,
    window_range,
)

Report = Callable[[str], None]


class WindowNotReadyError(BabylonError):
    """A window that cannot be trained."""


@dataclass(frozen=True)
class Plan:
    """What to iterate over.

    Attributes:
        iterations: How many steps to train; None for no end.
        windows: Windows per iteration at most.
        lookback_hours: How far back from the newest recorded window.
        poll: Seconds between two looks where nothing is left; None ends the loop there.
    """

    selection: Selection
    iterations: int | None = None
    windows: int = 20
    lookback_hours: int = 168
    poll: float | None = 300.0


def train_window(
    instance: dg.DagsterInstance,
    settings: Settings,
    window_id: str,
    selection: Selection,
    options: Mapping[str, Any],
    report: Report,
) -> Trained:
    """Trains one window on a branch of its own, after what is missing of it has been materialized.

    Raises:
        UnknownWindowError: It is no window id.
        WindowNotReadyError: It carries no group that could be trained, or is not over.
        RunFailedError: A run failed.
    """
    parse_window(window_id)
    _resolve(instance, settings, [window_id], options, report)
    groups = asyncio.run(_groups(settings, [window_id]))
    if not groups or groups[0].status != SCORED:
        reason = (
            (groups[0].reason or groups[0].status) if groups else "nothing was recorded, or it is not over"
        )
        raise WindowNotReadyError(
            f"{window_id} cannot be trained: {reason}", f"See `babylon windows check {window_id}`."
        )
    for line in describe(groups, settings.scorer):
        report(line)
    trained = run_windows(instance, branch_of(window_id), [window_id], selection, options)
    report(outcome(trained, 1))
    return trained


def train_continuously(
    instance: dg.DagsterInstance, settings: Settings, plan: Plan, options: Mapping[str, Any], report: Report
) -> Summary:
    """Trains untrained windows, iteration after iteration, until told to stop or nothing is left."""
    summary, left_out = Summary(), set[str]()
    with _stopping() as stop:
        while not stop.is_set() and (plan.iterations is None or len(summary.trained) < plan.iterations):
            try:
                worked = _iterate(instance, settings, plan, options, report, summary, left_out)
            except RunCanceledError:
                stop.set()
                break
            if not worked and (plan.poll is None or stop.wait(plan.poll)):
                break
        summary.stopped = stop.is_set()
    for line in closing(settings, summary):
        report(line)
    return summary


def _iterate(
    instance: dg.DagsterInstance,
    settings: Settings,
    plan: Plan,
    options: Mapping[str, Any],
    report: Report,
    summary: Summary,
    left_out: set[str],
) -> bool:
    """One iteration; returns whether there was anything to do."""
    recorded = asyncio.run(_due(settings, plan.lookback_hours))
    _resolve(instance, settings, recorded, options, report, left_out)
    found = asyncio.run(_untrained(settings, plan))
    windows = [window for window in found if window not in left_out][: plan.windows]
    if not windows:
        return False
    number = len(summary.trained) + 1
    of = f"/{plan.iterations}" if plan.iterations else ""
    report(f"ITERATION {number}{of}")
    report(RULE)
    report(f"Found {len(windows)} windows with {plan.selection.min_agents}+ agents")
    groups = list(_readable(settings, windows, report))
    left_out.update(set(windows) - {group.window_id for group in groups})
    windows = [group.window_id for group in groups]
    if not windows:
        summary.failed.append("no window could be read")
        return True
    for line in describe(groups, settings.scorer):
        report(line)
    report(f"Training on {len(windows)} windows...")
    try:
        trained = run_windows(instance, CONTINUOUS, windows, plan.selection, options)
    except RunCanceledError:
        raise
    except RunFailedError as problem:
        report(f"Iteration {number} failed: {problem}")
        summary.failed.append(str(problem))
        left_out.update(windows)
        return True
    report(outcome(trained, number))
    if trained.status == "no data":
        left_out.update(windows)
    else:
        summary.trained.append(trained)
    return True


def _readable(settings: Settings, windows: Sequence[str], report: Report) -> Iterator[ScoredGroup]:
    """The groups of windows; one that is damaged is told and spares the others."""
    for window in windows:
        try:
            yield from asyncio.run(_groups(settings, [window]))
        except ArtifactError as problem:
            report(f"{window} is left out: {problem}")


def _resolve(
    instance: dg.DagsterInstance,
    settings: Settings,
    windows: Sequence[str],
    options: Mapping[str, Any],
    report: Report,
    left_out: set[str] | None = None,
) -> None:
    """Materializes the hourly assets of windows that have no final verdict on their present content."""
    wanted = asyncio.run(unresolved_windows(settings, windows))
    for span in _spans([window for window in wanted if window not in (left_out or ())]):
        name = span[0] if len(span) == 1 else f"{span[0]} to {span[-1]}"
        report(f"{name}: no final verdict yet; materializing")
        try:
            run_in_process(instance, HOURLY_JOB, span[0], span[-1], run_config=art_options(options))
        except RunCanceledError:
            raise
        except RunFailedError as problem:
            if left_out is None:
                raise
            report(f"{name} cannot be resolved: {problem}")
            left_out.update(span)


def _spans(windows: Sequence[str]) -> list[list[str]]:
    """Windows that follow each other, a day at most: what one run may materialize."""
    spans: list[list[str]] = []
    for window in windows:
        follows = spans and window_range(spans[-1][-1])[1] == window_range(window)[0]
        if follows and len(spans[-1]) < WINDOWS_PER_DAY:
            spans[-1].append(window)
        else:
            spans.append([window])
    return spans


async def _due(settings: Settings, lookback_hours: int) -> list[str]:
    """Recorded windows, as far back as is looked."""
    async with open_databases(settings) as db:
        await refresh_window_rows(db.game, db.rl)
        newest = await db.rl.fetchval("SELECT max(window_id) FROM rl.window_rows")
        if newest is None:
            return []
        first = window_id_at(window_range(newest)[0] - (lookback_hours - 1) * WINDOW_LENGTH)
        rows = "SELECT DISTINCT window_id FROM rl.window_rows WHERE window_id >= $1 ORDER BY window_id"
        return [row["window_id"] for row in await db.rl.fetch(rows, first)]


async def _untrained(settings: Settings, plan: Plan) -> list[str]:
    async with open_databases(settings) as db:
        return await untrained_windows(
            db.rl, lookback_hours=plan.lookback_hours, min_agents=plan.selection.min_agents
        )


async def _groups(settings: Settings, windows: Sequence[str]) -> list[ScoredGroup]:
    async with open_databases(settings) as db:
        return await scored_groups(db.rl, ArtifactStoreResource().open(), windows)


@contextmanager
def _stopping() -> Iterator[threading.Event]:
    """An event that SIGTERM and SIGINT set. Dagster handles both by itself while a run is in progress, and
    afterwards gives SIGTERM the handler of SIGINT.
    """
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, lambda *_: stop.set())
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
