"""`babylon …`: the commands by topic, and the one place where errors become a line and a status.

Every error that a person can meet is one line with its remedy and a non-zero status; `--debug` adds the
traceback.
"""

import sys
from contextlib import suppress
from typing import Annotated

import typer

from babylon_rl.commands import (
    backfill,
    benchmark,
    data,
    database,
    judge,
    lineage,
    models,
    release,
    replay,
    service,
    services,
    simulation,
    train,
    training,
    windows,
)
from babylon_rl.commands.support import err
from babylon_rl.errors import BabylonError

DEFECT = 70
"""Exit status of an error that is ours (EX_SOFTWARE of sysexits.h)."""
INTERRUPTED = 130

app = typer.Typer(
    name="babylon",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="The daily reinforcement-learning loop of Babylon: recorded trading in, a better trading model out.",
)
windows_app = typer.Typer(no_args_is_help=True, help="What is recorded of each hour, and what became of it.")
outcomes_app = typer.Typer(no_args_is_help=True, help="Market outcomes: the ground truth of each window.")
db_app = typer.Typer(no_args_is_help=True, help="The embedded PostgreSQL server.")

for command in (
    simulation.demo,
    services.dev,
    training.status,
    backfill.backfill,
    lineage.reproduce,
    lineage.retrain,
    lineage.costs,
    models.models,
    release.deploy,
    release.rollout,
    release.promote,
    release.rollback,
    release.token,
    replay.replay,
    services.serve,
    services.admin,
    simulation.simulate,
    simulation.spawn,
    data.archive,
    data.restore,
    data.export,
    data.forget,
    database.migrate,
    database.doctor,
    database.self_check,
):
    app.command()(command)
app.add_typer(windows_app, name="windows")
windows_app.command("list")(windows.list_)
windows_app.command()(windows.check)
app.add_typer(outcomes_app, name="outcomes")
outcomes_app.command()(windows.sync)
app.add_typer(db_app, name="db")
db_app.command()(database.start)
db_app.command()(database.stop)
db_app.command()(database.dsn)
app.add_typer(judge.app, name="judge")
app.add_typer(benchmark.app, name="benchmark")
app.add_typer(train.app, name="train")
app.add_typer(service.app, name="service")


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Options of every command; `main` looks for --debug itself, since errors come after parsing."""
    from babylon_rl.logs import start_logging
    from babylon_rl.settings import get_settings

    with suppress(BabylonError):  # the command itself says what is wrong with the settings
        start_logging(get_settings())


def main() -> None:
    """Runs a command; the one place where errors become a line and a status."""
    try:
        app()
    except BabylonError as problem:
        _fail(problem, f"[bold red]error:[/] {_plain(str(problem))}", 1)
    except KeyboardInterrupt:
        err.print("interrupted")
        sys.exit(INTERRUPTED)
    except Exception as defect:
        what = _plain(f"{type(defect).__name__}: {defect}".splitlines()[0])
        hint = "`babylon --debug …` shows the traceback."
        _fail(defect, f"[bold red]unexpected error:[/] {what}. {hint}", DEFECT)


def _fail(problem: Exception, line: str, status: int) -> None:
    if "--debug" in sys.argv[1:]:
        raise problem
    err.print(line)
    sys.exit(status)


def _plain(text: str) -> str:
    from rich.markup import escape

    return escape(" ".join(text.split()))


if __name__ == "__main__":
    main()
