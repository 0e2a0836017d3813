"""`babylon backfill`: what a range of the past lacks, and the runs that make it.

    span = parse_span("2026-10-01", "2026-10-07", settings, now)
    plan = await plan_backfill(db, instance, span, settings, now)
    run_backfill(instance, settings, plan, report=print, advance=bar)      # backfill_runs.py

Windows that have their verdict on their present content are left alone, so a second backfill finds nothing to
do. One run covers at most a day. Every run is claimed under a lock before it starts, and what another run or
backfill covers is waited for and then looked at again: two backfills over the same range, or one beside the
sensor, share the work. History never deploys anything, unless asked.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

import dagster as dg

from babylon_rl.database.connection import Databases
from babylon_rl.errors import BabylonError
from babylon_rl.orchestration.readiness import (
    WindowVerdict,
    judge_window,
    newest_complete_window,
    partitions_of_day,
    read_windows,
)
from babylon_rl.records.reader import reconcile_window_rows
from babylon_rl.scoring.judge.estimate import CostEstimate, estimate_cost
from babylon_rl.settings import Settings
from babylon_rl.windows import (
    day_of,
    parse_day,
    parse_window,
    window_id_at,
    window_range,
    windows_between,
    windows_of_day,
)

SCORED_ASSET = dg.AssetKey("scored_groups")


class BackfillRangeError(BabylonError):
    """A range that cannot be backfilled."""


@dataclass(frozen=True)
class Span:
    """Windows from `first` to `last`, both included."""

    first: str
    last: str

    def windows(self) -> list[str]:
        return windows_between(window_range(self.first)[0], window_range(self.last)[1])

    def days(self) -> list[str]:
        return sorted({day_of(window_id) for window_id in self.windows()})


@dataclass(frozen=True)
class BackfillPlan:
    """What a backfill will do.

    Attributes:
        runs: Contiguous windows of one day each, oldest first.
        unchanged: Windows that are left alone: nothing about them has changed.
        waiting: Windows that cannot be made yet, each with its reason.
        days: Days that will be trained, oldest first, if their windows are resolved by then.
        trained: Days of the range that were trained before.
        cost: What a judge will be paid at most.
    """

    span: Span
    runs: list[Span] = field(default_factory=list)
    unchanged: int = 0
    waiting: list[WindowVerdict] = field(default_factory=list)
    days: list[str] = field(default_factory=list)
    trained: list[str] = field(default_factory=list)
    cost: CostEstimate = CostEstimate()

    @property
    def windows(self) -> int:
        """How many windows will be made."""
        return sum(len(run.windows()) for run in self.runs)


def parse_span(first: str, last: str, settings: Settings, now: datetime) -> Span:
    """Reads a range of days or windows, both ends included.

    Args:
        first: A day (`2026-10-01`) or a window (`2026-10-01T14:00`).
        last: The same; today means until the newest window that is complete.
        now: Aware UTC.

    Raises:
        UnknownDayError: A text that is neither day nor window.
        BackfillRangeError: The range is upside down, in the future, or before FIRST_PARTITION.
    """
    start, end = _window(first, 0), _window(last, -1)
    newest = newest_complete_window(now, settings)
    if end < start:
        raise BackfillRangeError(f"{last} is before {first}", "Exchange --from and --to.")
    if start > newest:
        raise BackfillRangeError(
            f"{first} is not over", f"The newest window that can be made is {newest}; name an earlier --from."
        )
    if end > newest:
        if "T" in last or day_of(end) > day_of(window_id_at(now)):
            raise BackfillRangeError(f"{last} is not over", f"Use --to {newest}, the newest complete window.")
        end = newest
    if start < settings.first_partition:
        if "T" in first or day_of(start) != day_of(settings.first_partition):
            raise BackfillRangeError(
                f"{first} is before the first partition, {settings.first_partition}",
                f"Use --from {settings.first_partition}, or set FIRST_PARTITION to an earlier window.",
            )
        start = settings.first_partition
    return Span(start, end)


async def plan_backfill(
    db: Databases,
    instance: dg.DagsterInstance,
    span: Span,
    settings: Settings,
    now: datetime,
    *,
    rescore: bool = False,
    train: bool = True,
    trained: Sequence[str] = (),
) -> BackfillPlan:
    """Compares all recorded rows with what is known of them and says what the range lacks.

    Args:
        db: Databases under the judge's role.
        instance: Knows which windows were materialized.
        span: As `parse_span` returns it.
        settings: Which scorer, and when a window is complete.
        now: Aware UTC.
        rescore: Also windows about which nothing has changed.
        train: Also the days of the range.
        trained: Days that were trained before.
    """
    await reconcile_window_rows(db.game, db.rl)
    wanted, unchanged, waiting = await _wanted(db, instance, span, settings, now, rescore)
    days = [day for day in span.days() if _covered(day, span, settings)] if train else []
    return BackfillPlan(
        span,
        runs=daily_runs(wanted),
        unchanged=unchanged,
        waiting=waiting,
        days=[day for day in days if day not in trained],
        trained=[day for day in days if day in trained],
        cost=await estimate_cost(db.rl, wanted, settings),
    )


async def windows_to_make(
    db: Databases,
    instance: dg.DagsterInstance,
    span: Span,
    settings: Settings,
    now: datetime,
) -> list[str]:
    """Returns the windows of the range that have no verdict on their present content and can get one now."""
    return (await _wanted(db, instance, span, settings, now, rescore=False))[0]


async def _wanted(
    db: Databases,
    instance: dg.DagsterInstance,
    span: Span,
    settings: Settings,
    now: datetime,
    rescore: bool,
) -> tuple[list[str], int, list[WindowVerdict]]:
    facts = await read_windows(db.rl, span.first, span.last)
    made = instance.get_materialized_partitions(SCORED_ASSET)
    verdicts = [judge_window(window, now, settings) for window in facts]
    # A thin window of the past will not grow: only one that is not over, or not mature, is worth waiting for.
    waiting = [v for v in verdicts if v.verdict == "waiting" and v.facts.window_id in made and not rescore]
    skipped = {v.facts.window_id for v in waiting}
    wanted = [
        v.facts.window_id
        for v in verdicts
        if v.facts.window_id not in skipped
        and (rescore or v.verdict != "done" or v.facts.window_id not in made)
    ]
    return wanted, len(verdicts) - len(wanted) - len(waiting), waiting


def daily_runs(window_ids: Sequence[str]) -> list[Span]:
    """Returns contiguous stretches of the windows, none of which reaches over midnight."""
    runs: list[Span] = []
    for window_id in window_ids:
        follows = runs and window_range(runs[-1].last)[1] == window_range(window_id)[0]
        if follows and day_of(runs[-1].last) == day_of(window_id):
            runs[-1] = Span(runs[-1].first, window_id)
        else:
            runs.append(Span(window_id, window_id))
    return runs


def _covered(day: str, span: Span, settings: Settings) -> bool:
    windows = partitions_of_day(day, settings)
    return bool(windows) and span.first <= windows[0] and windows[-1] <= span.last


def _window(text: str, which: int) -> str:
    if "T" in text:
        return window_id_at(parse_window(text))
    return windows_of_day(f"{parse_day(text):%Y-%m-%d}")[which]
