"""`babylon …`: the commands. Thin over functions of the rooms, which are imported inside the commands.

Every error that a person can meet is one line with its remedy and a non-zero status; `--debug` adds the
traceback.
"""

import asyncio
import sys
import time
from collections.abc import Coroutine
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from rich.console import Console
from rich.progress import track

from babylon_rl.commands import simulation
from babylon_rl.errors import BabylonError

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from babylon_rl.database.connection import Databases
    from babylon_rl.deployment.deploy import Deployment
    from babylon_rl.deployment.registry import ModelRecord
    from babylon_rl.orchestration.readiness import WindowFacts
    from babylon_rl.settings import Settings

T = TypeVar("T")

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
app.add_typer(windows_app, name="windows")
app.add_typer(outcomes_app, name="outcomes")
app.add_typer(db_app, name="db")
app.command()(simulation.simulate)
app.command()(simulation.demo)

out = Console(highlight=False)
err = Console(stderr=True, highlight=False, soft_wrap=True)


class CommandError(BabylonError):
    """A command cannot do what it was asked in the present state."""


class TrainMode(StrEnum):
    """What `babylon train` does."""

    list = "list"
    single = "single"
    continuous = "continuous"


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Options of every command; `main` looks for --debug itself, since errors come after parsing."""


@app.command()
def migrate(
    embedded: Annotated[
        bool, typer.Option(help="Also create the game's tables; refused on a server that is not ours.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List what would be applied.")] = False,
) -> None:
    """Bring schema rl up to date and verify the game's tables."""
    from babylon_rl.database.connection import resolve_rl_dsn
    from babylon_rl.database.migrations import migrate as apply

    names = _wait(apply(resolve_rl_dsn(_settings()), embedded=embedded, dry_run=dry_run))
    for name in names:
        out.print(f"{'would apply' if dry_run else 'applied'} {name}")
    if not names:
        out.print("schema rl is up to date")


@app.command()
def doctor() -> None:
    """Check settings, databases, schema, disk and keys; the status is 1 when something needs a hand."""
    from babylon_rl.orchestration.doctor import examine

    findings = _wait(examine())
    for finding in findings:
        mark = {"ok": "[green]ok[/]  ", "note": "[yellow]note[/]", "bad": "[red]bad[/] "}[finding.level]
        out.print(f"{mark} {finding.subject}: {finding.text}", markup=True)
    if any(f.level == "bad" for f in findings):
        raise typer.Exit(1)


@windows_app.command("list")
def windows_list(
    hours: Annotated[int, typer.Option(min=1, help="How many hours back from the newest recorded one.")] = 24,
) -> None:
    """Show the newest windows: rows, agents, verdicts, rewards."""
    from babylon_rl.orchestration.views import windows_table, windows_until_newest
    from babylon_rl.records.reader import refresh_window_rows

    async def read() -> "list[WindowFacts]":
        async with _databases() as db:
            await refresh_window_rows(db.game, db.rl)
            return await windows_until_newest(db.rl, hours)

    facts = _wait(read())
    if not facts:
        raise CommandError(
            "no recorded rows yet", "Record some with the game's agents, or run `babylon simulate`."
        )
    out.print(windows_table(facts, _settings()))


@windows_app.command("check")
def windows_check(
    window_id: Annotated[str, typer.Argument(help="Window id, a UTC hour such as 2026-10-01T14:00.")],
) -> None:
    """Say whether one window is ready, and why not; the status is 1 when it carries no trainable group."""
    from babylon_rl.orchestration.readiness import read_windows
    from babylon_rl.orchestration.views import explain_window
    from babylon_rl.records.reader import refresh_window_rows
    from babylon_rl.windows import parse_window

    parse_window(window_id)

    async def read() -> "WindowFacts":
        async with _databases() as db:
            await refresh_window_rows(db.game, db.rl)
            [facts] = await read_windows(db.rl, window_id, window_id)
            return facts

    usable, text = explain_window(_wait(read()), _settings())
    out.print(text)
    if not usable:
        raise typer.Exit(1)


@outcomes_app.command("sync")
def outcomes_sync(
    hours: Annotated[
        int | None, typer.Option(min=1, help="Hours back from now. Default: BACKFILL_HOURS.")
    ] = None,
) -> None:
    """Derive the market outcomes of the last complete windows anew; resolutions may have changed them."""
    from babylon_rl.outcomes.market import derive_outcomes, store_outcomes
    from babylon_rl.windows import windows_between

    async def sync() -> int:
        settings = _settings()
        now = datetime.now(UTC)
        last = now - settings.window_delay - timedelta(hours=1)
        first = now - timedelta(hours=hours or settings.backfill_hours)
        window_ids = windows_between(first, last + timedelta(seconds=1))
        async with _databases() as db:
            for window_id in track(window_ids, "Outcomes", console=err):
                outcomes = await derive_outcomes(db.game, window_id)
                await store_outcomes(db.rl, db.game, outcomes, settings.project_to_game)
        return len(window_ids)

    out.print(f"{_wait(sync())} windows synced")


@app.command()
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
    from babylon_rl.orchestration.instance import open_instance
    from babylon_rl.orchestration.training import recorded_days, train_day, trained_days
    from babylon_rl.orchestration.views import days_table

    if day is not None and mode is not TrainMode.single:
        raise CommandError(f"--day means nothing in mode {mode}", "Use it with --mode single.")
    settings = _settings()
    with open_instance(settings) as instance:
        if mode is TrainMode.list:
            out.print(days_table(_wait(recorded_days(settings)), trained_days(instance)))
            return
        while True:
            run = train_day(instance, _wait(recorded_days(settings)), day, report=out.print)
            if run is not None:
                out.print(f"run {run.run_id} succeeded in {run.seconds:.0f} s")
            elif mode is TrainMode.single:
                raise CommandError("there is no day left to train", "See `babylon train --mode list`.")
            if mode is TrainMode.single:
                return
            if run is None:
                time.sleep(poll)


@app.command()
def models(
    limit: Annotated[int, typer.Option(min=1, help="How many, newest first.")] = 20,
) -> None:
    """Show the registered models: lineage, verdict, status, and which one serves."""
    from babylon_rl.deployment.registry import list_models
    from babylon_rl.orchestration.views import models_table

    async def read() -> "list[ModelRecord]":
        async with _databases() as db:
            return await list_models(db.rl)

    found = _wait(read())
    if not found:
        raise CommandError("no model is registered", "Train one with `babylon train` or `babylon demo`.")
    out.print(models_table(found[:limit]))


@app.command()
def deploy(
    version: Annotated[str, typer.Argument(help="Version such as v0.1.0; see `babylon models`.")],
    force: Annotated[bool, typer.Option("--force", help="Although the gate has not promoted it.")] = False,
    reason: Annotated[str, typer.Option(help="Kept in the history of deployments.")] = "by hand",
) -> None:
    """Make a model the active one; the one before it is archived."""
    from babylon_rl.deployment.deploy import deploy as switch

    async def act() -> "Deployment":
        async with _databases() as db:
            game = db.game if _settings().project_to_game else None
            return await switch(db.rl, game, version, reason=reason, verdict_required=not force)

    _report(_wait(act()))


@app.command()
def rollback(
    to: Annotated[
        str | None, typer.Option(help="A version that served before. Default: the last one.")
    ] = None,
    reason: Annotated[str, typer.Option(help="Kept in the history of deployments.")] = "rollback by hand",
) -> None:
    """Go back to the model that served before the active one; needs neither Dagster nor the gateway."""
    from babylon_rl.deployment.deploy import rollback as switch

    async def act() -> "Deployment":
        async with _databases() as db:
            game = db.game if _settings().project_to_game else None
            return await switch(db.rl, game, to, reason=reason)

    _report(_wait(act()))


@app.command()
def serve(
    host: Annotated[str, typer.Option(help="Address; there is no login, so keep it on this machine.")] = (
        "127.0.0.1"
    ),
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="0 takes a free one. Default: PORT.")
    ] = None,
) -> None:
    """Run the OpenAI-compatible gateway: chat completions from the deployed model, until Ctrl-C."""
    from babylon_rl.serving.gateway import run_gateway

    _wait(run_gateway(_settings(), host=host, port=port))


@app.command()
def status() -> None:
    """Show where the loop stands: recorded, resolved, trained, deployed, and what waits."""
    from babylon_rl.orchestration.instance import open_instance
    from babylon_rl.orchestration.training import trained_days
    from babylon_rl.orchestration.views import status_lines

    with open_instance(_settings()) as instance:
        trained = trained_days(instance)

    async def read() -> list[str]:
        async with _databases() as db:
            return await status_lines(db, trained, _settings())

    for line in _wait(read()):
        out.print(line)


@app.command()
def dev(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the Dagster UI.")] = 3000,
) -> None:
    """Run Dagster's UI and daemon and the gateway together until Ctrl-C."""
    from babylon_rl.orchestration.dev import development_services, run_together

    settings = _settings()
    services = development_services(settings, port)
    run_together(settings, services, lambda: _announce([f"{s.name}: {s.url}" for s in services]))
    out.print("stopped")


@db_app.command("start")
def db_start() -> None:
    """Start the embedded server; a no-op when it runs."""
    from babylon_rl.database.embedded import ensure_server

    server = ensure_server(_settings().home)
    out.print(f"PostgreSQL {'started' if server.started else 'runs'} (process {server.pid}, {server.data})")


@db_app.command("stop")
def db_stop(
    force: Annotated[bool, typer.Option("--force", help="Also while other sessions are connected.")] = False,
) -> None:
    """Stop the embedded server; its data stay."""
    from babylon_rl.database.embedded import stop_server

    if stop_server(_settings().home, only_if_unused=not force):
        out.print("PostgreSQL stopped")
    else:
        out.print("nothing stopped: it does not run, or others are connected (--force ends their sessions)")


@db_app.command("dsn")
def db_dsn(
    database: Annotated[str, typer.Option(help="babylon (game and rl) or dagster.")] = "babylon",
) -> None:
    """Print the address of the embedded server's database, for psql and other tools."""
    from babylon_rl.database.embedded import ensure_server

    typer.echo(ensure_server(_settings().home).dsn(database))


def main() -> None:
    """Runs a command; the one place where errors become a line and a status."""
    try:
        app()
    except BabylonError as problem:
        _fail(problem, f"[bold red]error:[/] {_plain(str(problem))}", 1)
    except KeyboardInterrupt:
        err.print("interrupted")
        sys.exit(130)
    except Exception as defect:
        text = _plain(f"{type(defect).__name__}: {defect}".splitlines()[0])
        _fail(defect, f"[bold red]unexpected error:[/] {text}. `babylon --debug …` shows the traceback.", 70)


def _fail(problem: Exception, line: str, status: int) -> None:
    if "--debug" in sys.argv[1:]:
        raise problem
    err.print(line)
    sys.exit(status)


def _plain(text: str) -> str:
    from rich.markup import escape

    return escape(" ".join(text.split()))


def _announce(lines: list[str]) -> None:
    for line in lines:
        out.print(line)
    out.print("Ctrl-C stops everything")


def _wait(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)


def _settings() -> "Settings":
    from babylon_rl.settings import get_settings

    return get_settings()


def _report(deployment: "Deployment") -> None:
    if not deployment.changed:
        out.print(f"{deployment.version} is the active model already")
    else:
        replaced = f" instead of {deployment.replaced}" if deployment.replaced else ""
        out.print(f"{deployment.version} serves now{replaced}")


def _databases() -> "AbstractAsyncContextManager[Databases]":
    from babylon_rl.database.connection import open_databases

    return open_databases(_settings())


if __name__ == "__main__":
    main()
