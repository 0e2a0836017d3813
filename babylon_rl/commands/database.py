"""`babylon migrate`, `babylon doctor` and `babylon db …`."""

from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.markup import escape

from babylon_rl.commands.support import out, wait

if TYPE_CHECKING:
    from babylon_rl.orchestration.findings import Finding


def migrate(
    embedded: Annotated[
        bool, typer.Option(help="Also create the game's tables; refused on a server that is not ours.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List what would be applied.")] = False,
) -> None:
    """Bring schema rl up to date and verify the game's tables."""
    from babylon_rl.database.connection import resolve_dsn, resolve_rl_dsn
    from babylon_rl.database.embedded import ensure_server
    from babylon_rl.database.migrations import migrate as apply
    from babylon_rl.settings import get_settings

    settings = get_settings()
    if dry_run and settings.database_url is None and settings.rl_database_url is None:
        names = wait(apply(ensure_server(settings.home).dsn(), embedded=True, dry_run=True))
    else:
        # The embedded server is migrated whenever it is opened: here there is nothing left to do for it.
        game, rl = resolve_dsn(settings), resolve_rl_dsn(settings)
        names = wait(apply(rl, embedded=embedded, dry_run=dry_run, game_dsn=None if game == rl else game))
    for name in names:
        out.print(f"{'would apply' if dry_run else 'applied'} {name}")
    if not names:
        out.print("schema rl is up to date")


def doctor(
    production: Annotated[
        bool, typer.Option("--production", help="Also the checklist for production, item by item.")
    ] = False,
) -> None:
    """Check settings, databases, schema drift, disk and keys; the status is 1 when something needs a hand."""
    from babylon_rl.errors import BabylonError
    from babylon_rl.orchestration.doctor import examine
    from babylon_rl.settings import get_settings

    async def look() -> "list[Finding]":
        from babylon_rl.orchestration.production import checklist

        findings = await examine()
        try:
            return [*findings, *(await checklist(get_settings()) if production else ())]
        except BabylonError:  # of the settings, which are among the findings
            return findings

    findings = wait(look())
    marks = {"ok": "[green]ok[/]  ", "note": "[yellow]note[/]", "bad": "[red]bad[/] "}
    for finding in findings:
        out.print(f"{marks[finding.level]} {escape(f'{finding.subject}: {finding.text}')}", soft_wrap=True)
    if any(f.level == "bad" for f in findings):
        raise typer.Exit(1)


def self_check() -> None:
    """Prove this installation: a tiny game in a scratch database, from its rows to a scored group."""
    from babylon_rl.orchestration.self_check import self_check as prove
    from babylon_rl.settings import get_settings

    with out.status("a tiny game in a scratch database"):
        lines = wait(prove(get_settings()))
    for line in lines:
        out.print(f"[green]ok[/]   {escape(line)}", soft_wrap=True)


def start() -> None:
    """Start the embedded server; a no-op when it runs."""
    from babylon_rl.database.embedded import ensure_server
    from babylon_rl.settings import get_settings

    server = ensure_server(get_settings().home)
    out.print(f"PostgreSQL {'started' if server.started else 'runs'} (process {server.pid}, {server.data})")


def stop(
    force: Annotated[bool, typer.Option("--force", help="Also while other sessions are connected.")] = False,
) -> None:
    """Stop the embedded server; its data stay."""
    from babylon_rl.database.embedded import stop_server
    from babylon_rl.settings import get_settings

    if stop_server(get_settings().home, only_if_unused=not force):
        out.print("PostgreSQL stopped")
    else:
        out.print("nothing stopped: it does not run, or others are connected (--force ends their sessions)")


def dsn(
    database: Annotated[
        Literal["babylon", "dagster"], typer.Option(help="babylon holds the game and schema rl.")
    ] = "babylon",
) -> None:
    """Print the address of the embedded server's database, for psql and other tools."""
    from babylon_rl.database.embedded import ensure_server
    from babylon_rl.settings import get_settings

    typer.echo(ensure_server(get_settings().home).dsn(database))
