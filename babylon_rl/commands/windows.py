"""`babylon windows …` and `babylon outcomes …`."""

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import track

from babylon_rl.commands.support import CommandError, databases, err, out, wait

if TYPE_CHECKING:
    from babylon_rl.orchestration.readiness import WindowFacts


def list_(
    hours: Annotated[int, typer.Option(min=1, help="How many hours back from the newest recorded one.")] = 24,
    min_agents: Annotated[int, typer.Option(min=0, help="Only windows with so many distinct agents.")] = 0,
) -> None:
    """Show the recorded windows, newest first: rows, distinct agents, quality, verdicts, rewards."""
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
    shown = [f for f in reversed(facts) if (f.rows or f.test_rows or f.unreadable or f.group_status)]
    out.print(windows_table([f for f in shown if f.agents >= min_agents], get_settings()))


def check(
    window_id: Annotated[
        str | None,
        typer.Argument(help="Window id, a UTC hour such as 2026-10-01T14:00. Default: all windows."),
    ] = None,
    hours: Annotated[
        int | None, typer.Option(min=1, help="Only the last hours, counted from now. Default: all.")
    ] = None,
    test_users: Annotated[
        bool | None,
        typer.Option(help="Count rows of test users. Default: INCLUDE_TEST_AGENTS."),
    ] = None,
) -> None:
    """Say whether there is enough to train, or whether one window is ready, and why not.

    The status is 1 when there is not enough, or when the window carries no trainable group.
    """
    ready, text = wait(_check_window(window_id) if window_id else _check_all(hours, test_users))
    out.print(text, markup=False, soft_wrap=True)
    if not ready:
        raise typer.Exit(1)


async def _check_window(window_id: str) -> tuple[bool, str]:
    from babylon_rl.orchestration.overview import quarantine_lines
    from babylon_rl.orchestration.readiness import read_windows
    from babylon_rl.orchestration.views import explain_window
    from babylon_rl.records.reader import refresh_window_rows
    from babylon_rl.settings import get_settings
    from babylon_rl.windows import parse_window

    parse_window(window_id)
    async with databases() as db:
        await refresh_window_rows(db.game, db.rl)
        [facts] = await read_windows(db.rl, window_id, window_id)
        usable, text = explain_window(facts, get_settings())
        return usable, "\n".join([text, *await quarantine_lines(db.rl, facts)])


async def _check_all(hours: int | None, test_users: bool | None) -> tuple[bool, str]:
    from babylon_rl.orchestration.overview import overview_lines, read_overview
    from babylon_rl.records.reader import refresh_window_rows
    from babylon_rl.settings import get_settings
    from babylon_rl.windows import window_id_at

    settings = get_settings()
    counted = settings.include_test_agents if test_users is None else test_users
    since = window_id_at(datetime.now(UTC) - timedelta(hours=hours)) if hours else None
    async with databases() as db:
        await refresh_window_rows(db.game, db.rl)
        overview = await read_overview(db.game, db.rl, settings, since=since, test_users=counted)
    return not overview.problems(settings), "\n".join(overview_lines(overview, settings))


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
