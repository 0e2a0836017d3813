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
    """Derive the market outcomes of the last complete windows anew; resolutions may have changed them."""
    from babylon_rl.outcomes.market import derive_outcomes, store_outcomes
    from babylon_rl.settings import get_settings
    from babylon_rl.windows import windows_between

    async def sync_windows() -> int:
        settings = get_settings()
        now = datetime.now(UTC)
        last = now - settings.window_delay - timedelta(hours=1)
        first = now - timedelta(hours=hours or settings.backfill_hours)
        window_ids = windows_between(first, last + timedelta(seconds=1))
        async with databases() as db:
            for window_id in track(window_ids, "Outcomes", console=err):
                outcomes = await derive_outcomes(db.game, window_id)
                await store_outcomes(db.rl, db.game, outcomes, settings.project_to_game)
        return len(window_ids)

    out.print(f"{wait(sync_windows())} windows synced")
