"""`babylon train` and `babylon status`."""

import time
from enum import StrEnum
from typing import Annotated

import typer

from babylon_rl.commands.support import CommandError, databases, out, wait


class TrainMode(StrEnum):
    """What `babylon train` does."""

    list = "list"
    single = "single"
    continuous = "continuous"


def train(
    mode: Annotated[TrainMode, typer.Option(help="list what can be trained, train one day, or keep on.")] = (
        TrainMode.single
    ),
    day: Annotated[
        str | None, typer.Option(help="Day such as 2026-10-01. Default: the oldest untrained.")
    ] = None,
    poll: Annotated[
        float, typer.Option(min=1.0, help="Seconds between two looks in mode continuous.")
    ] = 300.0,
) -> None:
    """Train days through Dagster, so that the runs, their figures and their lineage are in the UI."""
    from babylon_rl.logs import log_rl_configuration
    from babylon_rl.orchestration.instance import open_instance
    from babylon_rl.orchestration.training import recorded_days, train_day, trained_days
    from babylon_rl.orchestration.views import days_table
    from babylon_rl.settings import get_settings

    if day is not None and mode is not TrainMode.single:
        raise CommandError(f"--day means nothing in mode {mode}", "Use it with --mode single.")
    settings = get_settings()
    log_rl_configuration(settings)
    with open_instance(settings) as instance:
        if mode is TrainMode.list:
            out.print(days_table(wait(recorded_days(settings)), trained_days(instance), settings))
            return
        while True:
            run = train_day(instance, settings, wait(recorded_days(settings)), day, report=out.print)
            if run is not None:
                out.print(f"run {run.run_id} succeeded in {run.seconds:.0f} s")
            elif mode is TrainMode.single:
                raise CommandError("there is no day left to train", "See `babylon train --mode list`.")
            if mode is TrainMode.single:
                return
            if run is None:
                time.sleep(poll)


def status() -> None:
    """Show where the loop stands: recorded, resolved, trained, deployed, and what waits."""
    from babylon_rl.orchestration.instance import open_instance
    from babylon_rl.orchestration.training import trained_days
    from babylon_rl.orchestration.views import status_lines
    from babylon_rl.settings import get_settings

    with open_instance(get_settings()) as instance:
        trained = trained_days(instance)

    async def read() -> list[str]:
        async with databases() as db:
            return await status_lines(db, trained, get_settings())

    for line in wait(read()):
        out.print(line)
