"""Training days from the command line: which are left, and one of them from its windows to its model."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import dagster as dg

from babylon_rl.database.connection import open_databases
from babylon_rl.errors import BabylonError
from babylon_rl.orchestration.partitions import daily
from babylon_rl.orchestration.readiness import DayFacts, partitions_of_day, read_days, recorded_span
from babylon_rl.orchestration.runs import FinishedRun, run_day, run_hours
from babylon_rl.orchestration.schedules import LAST_ASSET
from babylon_rl.orchestration.unresolved import unresolved_windows
from babylon_rl.orchestration.window_training import art_options
from babylon_rl.records.reader import refresh_window_rows
from babylon_rl.settings import Settings
from babylon_rl.training.selection import Selection
from babylon_rl.windows import day_of, parse_day


class DayNotReadyError(BabylonError):
    """A day that cannot be trained."""


def trained_days(instance: dg.DagsterInstance) -> set[str]:
    """Returns the days whose daily assets have all been materialized."""
    return instance.get_materialized_partitions(LAST_ASSET)


async def recorded_days(settings: Settings) -> list[DayFacts]:
    """Returns every day from the first recorded window to the last day that is over, oldest first."""
    async with open_databases(settings) as db:
        await refresh_window_rows(db.game, db.rl)
        span = await recorded_span(db.rl)
        found = {day.day: day for day in await read_days(db.rl)}
    if span is None:
        return []
    keys = [day for day in daily.get_partition_keys() if day_of(span[0]) <= day <= day_of(span[1])]
    return [found.get(day) or DayFacts(day) for day in keys]


def train_day(
    instance: dg.DagsterInstance,
    settings: Settings,
    days: list[DayFacts],
    day: str | None,
    report: Callable[[str], None],
    options: Mapping[str, Any] | None = None,
    selection: Selection | None = None,
) -> FinishedRun | None:
    """Materializes what is missing of a day, hourly and daily assets, and offers its model for deployment.

    Args:
        instance: Dagster's instance; the runs appear in its UI.
        settings: Says which windows exist.
        days: As `recorded_days` returns them.
        day: The day; None for the oldest one that is not trained.
        report: Called with a line before each run.
        options: Training settings of this run, by name.
        selection: How many episodes are wanted; agents and actions are among the options.

    Returns:
        The run of the daily assets, or None where `day` is None and no day is left.

    Raises:
        UnknownDayError: `day` is not a day.
        DayNotReadyError: Nothing is recorded of `day`, or it is not over.
        RunFailedError: A run failed.
    """
    trained = trained_days(instance)
    if day is None:
        chosen = next((d for d in days if d.day not in trained), None)
        if chosen is None:
            return None
    else:
        parse_day(day)
        chosen = next((d for d in days if d.day == day), None)
        if chosen is None:
            raise DayNotReadyError(
                f"{day} is not over, or nothing was recorded until then",
                "`babylon train --mode list` shows the days that can be trained.",
            )
    config = art_options(options or {})
    if not chosen.complete(settings):
        windows = len(partitions_of_day(chosen.day, settings))
        report(f"{chosen.day}: {chosen.resolved} of {windows} windows are resolved; materializing them")
        run_hours(instance, chosen.day, run_config=config)
    elif too_thin := asyncio.run(unresolved_windows(settings, partitions_of_day(chosen.day, settings))):
        report(f"{chosen.day}: {len(too_thin)} windows have another verdict now; materializing them")
        run_hours(instance, chosen.day, run_config=config)
    report(f"{chosen.day}: batch, training, benchmark, deployment")
    return run_day(instance, chosen.day, run_config={**config, **_batch_config(selection)})


def _batch_config(selection: Selection | None) -> dict[str, Any]:
    if selection is None or selection.target is None:
        return {}
    wanted = {"target_trajectories": selection.target, "max_dropout": selection.max_dropout}
    return {"ops": {"training_batch": {"config": wanted}}}
