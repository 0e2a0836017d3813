"""`babylon train`: days, windows and iterations, each a Dagster run; units in doubt; the GPU environment."""

from enum import StrEnum
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from babylon_rl.commands.support import CommandError, databases, err, out, wait
from babylon_rl.commands.train_flags import require_meaning
from babylon_rl.commands.train_output import print_doubt, training_bar

if TYPE_CHECKING:
    import dagster as dg

    from babylon_rl.settings import Settings
    from babylon_rl.training.resolve import Doubt
    from babylon_rl.training.selection import Selection

WEEK = 168
"""Hours that are looked back by default, as the seeds' trainer did."""

app = typer.Typer(help="Train days or windows, each in a Dagster run; see what can be trained.")


class TrainMode(StrEnum):
    """What `babylon train` does."""

    list = "list"
    single = "single"
    continuous = "continuous"


@app.callback(invoke_without_command=True)
def train(
    context: typer.Context,
    mode: Annotated[
        TrainMode | None,
        typer.Option(
            help="list what can be trained, train one day or window, or go on. Default: MODE, single."
        ),
    ] = None,
    day: Annotated[
        str | None, typer.Option(help="Day such as 2026-10-01. Default: the oldest untrained.")
    ] = None,
    window: Annotated[
        str | None,
        typer.Option(help="Train this window alone, on a side branch. Default: WINDOW_ID."),
    ] = None,
    iterations: Annotated[
        int | None, typer.Option(min=1, help="Steps of mode continuous. Default: until stopped.")
    ] = None,
    windows_per_iteration: Annotated[int, typer.Option(min=1, help="Windows per step at most.")] = 20,
    lookback_hours: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="How far to look back from the newest recorded window or day. Default: 168; the oldest "
            "untrained day in mode single.",
        ),
    ] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Default: LEARNING_RATE.")] = None,
    min_agents: Annotated[
        int | None, typer.Option(min=1, help="Agents that a window needs. Default: MIN_AGENTS_PER_WINDOW.")
    ] = None,
    min_actions: Annotated[
        int | None,
        typer.Option(min=0, help="Actions that an agent's hour needs. Default: MIN_ACTIONS_PER_TRAJECTORY."),
    ] = None,
    target_trajectories: Annotated[
        int | None, typer.Option(min=1, help="Episodes wanted; of more, some are left out. Default: all.")
    ] = None,
    max_dropout: Annotated[
        float, typer.Option(min=0.0, max=0.9, help="Share that is left out at most.")
    ] = 0.3,
    model: Annotated[str | None, typer.Option(help="Base model. Default: BASE_MODEL.")] = None,
    backend: Annotated[
        str | None, typer.Option(help="auto, embedded, local or serverless. Default: TRAINING_BACKEND.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="The old training_config.yaml or rl-pipeline.yaml.")
    ] = None,
    poll: Annotated[
        float, typer.Option(min=1.0, help="Seconds between two looks in mode continuous.")
    ] = 300.0,
) -> None:
    """Train days through Dagster, so that the runs, their figures and their lineage are in the UI.

    Without options: the oldest untrained day of the live chain. A window, and mode continuous, train side
    branches that are never the parent of a day.
    """
    if context.invoked_subcommand is not None:
        return
    from babylon_rl.orchestration.instance import open_instance
    from babylon_rl.rl_model_config import log_rl_configuration
    from babylon_rl.settings import get_settings

    settings = get_settings()
    chosen = mode or TrainMode(settings.mode)
    window = window or (settings.window_id if chosen is TrainMode.single and day is None else None)
    if day and window:
        raise CommandError("--day and --window exclude each other", "Name one of them.")
    require_meaning(context, chosen, "window" if window else "day" if day else None)
    log_rl_configuration(settings)
    flags = {
        "learning_rate": learning_rate,
        "base_model": model,
        "training_backend": backend,
        "min_agents_per_window": min_agents,
        "min_actions_per_trajectory": min_actions,
    }
    if chosen is TrainMode.list:
        with open_instance(settings) as instance:
            _list(instance, settings, lookback_hours or WEEK, min_agents or settings.min_agents_per_window)
        return
    settings, options = _options(settings, flags, config)
    selection = _selection(settings, target_trajectories, max_dropout)
    with open_instance(settings) as instance, training_bar():
        if window is not None:
            from babylon_rl.orchestration.continuous import train_window

            train_window(instance, settings, window, selection, options, out.print)
        elif chosen is TrainMode.single:
            _one_day(instance, settings, day, options, selection, lookback_hours)
        else:
            from babylon_rl.orchestration.continuous import Plan, train_continuously

            ends = poll if iterations is None else None
            plan = Plan(selection, iterations, windows_per_iteration, lookback_hours or WEEK, ends)
            summary = train_continuously(instance, settings, plan, options, out.print)
            if summary.failed and not summary.trained:
                raise CommandError("every iteration failed", "The reasons are above, and in the Dagster UI.")


@app.command()
def resolve(
    unit: Annotated[
        str | None, typer.Argument(help="Key of a unit, or its beginning. Default: list those in doubt.")
    ] = None,
    not_trained: Annotated[
        bool, typer.Option("--not-trained", help="Nothing was trained: the next run submits it again.")
    ] = False,
    trained: Annotated[
        bool, typer.Option("--trained", help="The service's next step is this unit's: the next run takes it.")
    ] = False,
    job: Annotated[
        str | None,
        typer.Option(help="The service knows the submission as this job: the next run follows it."),
    ] = None,
) -> None:
    """Say whether a submission whose answer was lost was trained; it is never repeated by itself."""
    from babylon_rl.training import resolve as words

    if (words_said := sum((not_trained, trained, job is not None))) > 1 or (words_said and unit is None):
        raise CommandError(
            "one unit and one of --not-trained, --trained and --job are needed", "See `--help`."
        )

    async def act() -> "list[Doubt]":
        async with databases() as db:
            if unit is None:
                return await words.doubts(db.rl)
            if not_trained:
                return [await words.not_trained(db.rl, unit)]
            if trained:
                return [await words.trained(db.rl, unit)]
            if job is not None:
                return [await words.follow(db.rl, unit, job)]
            return [await words.look(db.rl, unit)]

    found = wait(act())
    if not found:
        out.print("no unit is in doubt")
    for doubt in found:
        print_doubt(doubt)
    if words_said:
        out.print(
            "Train the day again (`babylon train --day …`, or the partition in the UI) to go on from here."
        )


@app.command("setup-gpu")
def setup_gpu() -> None:
    """Make the GPU backend's own environment from its lock file (several GB) and look for a GPU."""
    from babylon_rl.settings import get_settings
    from babylon_rl.training.local_gpu.setup import install

    gpu = install(get_settings(), out.print)
    out.print(gpu.finding)
    if not gpu.usable:
        raise typer.Exit(1)


def _options(
    settings: "Settings", flags: dict[str, Any], config: Path | None
) -> "tuple[Settings, dict[str, Any]]":
    """The settings of this run, and what of them differs from the environment's; a flag beats the file."""
    from rich.markup import escape

    from babylon_rl.training.backends import choose_backend
    from babylon_rl.training.config_file import read_config
    from babylon_rl.training.options import with_options

    given = {name: value for name, value in flags.items() if value is not None}
    notes: list[str] = []
    if config is not None:
        file = read_config(config)
        settings_of_file = with_options(settings, {**file.values, **given})
        file = file.for_backend(choose_backend(settings_of_file).name)
        given = {**file.values, **given}
        notes = [*file.notices, *file.warnings]
    settings = with_options(settings, given)
    choice = choose_backend(settings)
    out.print(f"backend: {choice.name} ({choice.reason})")
    for line in (*notes, *settings.unusual()):
        err.print(f"[yellow]note:[/] {escape(line)}")
    return settings, given


def _selection(settings: "Settings", target: int | None, max_dropout: float) -> "Selection":
    from babylon_rl.training.selection import Selection

    return Selection(
        min_agents=settings.min_agents_per_window,
        min_actions=settings.min_actions_per_trajectory or 0,
        target=target,
        max_dropout=max_dropout,
    )


def _list(instance: "dg.DagsterInstance", settings: "Settings", lookback_hours: int, min_agents: int) -> None:
    """Days, and windows that nobody has trained."""
    from babylon_rl.deployment.branches import untrained_windows
    from babylon_rl.orchestration.training import recorded_days, trained_days
    from babylon_rl.orchestration.views import days_table

    days = wait(recorded_days(settings))
    out.print(days_table(days, trained_days(instance), settings))

    async def read() -> list[str]:
        async with databases() as db:
            return await untrained_windows(db.rl, lookback_hours=lookback_hours, min_agents=min_agents)

    windows = wait(read())
    out.print(
        f"{len(windows)} scored windows are untrained{': ' if windows else ''}{', '.join(windows[-24:])}"
    )


def _one_day(
    instance: "dg.DagsterInstance",
    settings: "Settings",
    day: str | None,
    options: dict[str, Any],
    selection: "Selection",
    lookback_hours: int | None,
) -> None:
    from babylon_rl.orchestration.training import recorded_days, train_day

    days = wait(recorded_days(settings))
    if lookback_hours is not None:
        days = days[-ceil(lookback_hours / 24) :]
    run = train_day(instance, settings, days, day, out.print, options, selection)
    if run is None:
        raise CommandError("there is no day left to train", "See `babylon train --mode list`.")
    out.print(f"run {run.run_id} succeeded in {run.seconds:.0f} s")
