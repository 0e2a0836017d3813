"""`babylon windows …` and `babylon outcomes …`."""

from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import track

from babylon_rl.commands.support import CommandError, databases, err, out, wait

if TYPE_CHECKING:
    from babylon_rl.orchestration.readiness import WindowFacts


def list_(
    hours: Annotated[int, typer.Option(min=1, help="How many hours back from the newest recorded one.")] = 24,
) -> None:
    """Show the newest windows: rows, agents, verdicts, rewards."""
    from babylon_rl.orchestration.views import windows_table, windows_until_newest
    from babylon_rl.records.reader import refresh_window_rows
    from babylon_rl.settings import get_settings

    async def read() -> "list[WindowFacts]":
        async with databases() as db:
            await refresh_window_rows(db.game, db.rl)
            return await windows_until_newest(db.rl, hours)

    facts = wait(read())
    if not facts:
        raise CommandError(
            "no recorded rows yet", "Record some with the game's agents, or run `babylon simulate`."
        )
    out.print(windows_table(facts, get_settings()))


def check(
    window_id: Annotated[str, typer.Argument(help="Window id, a UTC hour such as 2026-10-01T14:00.")],
) -> None:
    """Say whether one window is ready, and why not; the status is 1 when it carries no trainable group."""
    from babylon_rl.orchestration.readiness import read_windows
    from babylon_rl.orchestration.views import explain_window
    from babylon_rl.records.reader import refresh_window_rows
    from babylon_rl.settings import get_settings
    from babylon_rl.windows import parse_window

    parse_window(window_id)

    async def read() -> "WindowFacts":
        async with databases() as db:
            await refresh_window_rows(db.game, db.rl)
            [facts] = await read_windows(db.rl, window_id, window_id)
            return facts

    usable, text = explain_window(wait(read()), get_settings())
    out.print(text)
    if not usable:
        raise typer.Exit(1)


def sync(
    hours: Annotated[
        int | None, typer.Option(min=1, help="Hours back from now. Default: BACKFILL_HOURS.")
    ] = None,
) -> None:
    """Derive the market outcomes of the last complete windows anew, and value their orders again.

    Late prices and resolutions may have changed them: a scored window whose verdict depends on them is stale.
    """
    from babylon_rl.outcomes.sync import SyncReport, sync_recent_windows
    from babylon_rl.settings import get_settings

    async def sync_windows() -> "SyncReport":
        settings = get_settings()
        async with databases() as db:
            return await sync_recent_windows(
                db.game,
                db.rl,
                hours=hours or settings.backfill_hours,
                delay=settings.window_delay,
                horizon=settings.training_horizon,
                project_to_game=settings.project_to_game,
                track=lambda windows: track(windows, "Outcomes", console=err),
            )

    report = wait(sync_windows())
    out.print(f"{len(report.windows)} windows synced, {len(report.changed)} changed")
    if report.stale:
        out.print(f"{len(report.stale)} of them had been scored and are stale: {', '.join(report.stale)}")
    if report.credited:
        out.print(f"orders of {len(report.credited)} windows valued again")
