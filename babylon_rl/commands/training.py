"""`babylon status`."""

from typing import TYPE_CHECKING

from babylon_rl.commands.support import databases, out, wait

if TYPE_CHECKING:
    from babylon_rl.deployment.changed_days import ChangedDay
    from babylon_rl.orchestration.readiness import WindowFacts

SHOWN = 20
"""Changed windows and days that are shown one by one."""


def status() -> None:
    """Show where the loop stands: recorded, resolved, trained, deployed, what waits, and what has changed."""
    from babylon_rl.deployment.changed_days import changed_days
    from babylon_rl.orchestration.changes import changed_windows
    from babylon_rl.orchestration.instance import open_instance
    from babylon_rl.orchestration.training import trained_days
    from babylon_rl.orchestration.views import changed_days_table, changed_table, status_lines
    from babylon_rl.settings import get_settings

    with open_instance(get_settings()) as instance:
        trained = trained_days(instance)

    async def read() -> "tuple[list[str], list[WindowFacts], list[ChangedDay]]":
        async with databases() as db:
            lines = await status_lines(db, trained, get_settings())
            return lines, await changed_windows(db.rl), await changed_days(db.rl)

    lines, windows, days = wait(read())
    for line in lines:
        out.print(line)
    if windows:
        out.print(changed_table(windows[:SHOWN]))
        if len(windows) > SHOWN:
            out.print(f"and {len(windows) - SHOWN} more")
        out.print("The sensor requests them; `babylon backfill` makes them now.")
    if days:
        out.print(changed_days_table(days[-SHOWN:]))
        out.print("A trained day stays as it is; `babylon backfill --retrain` trains it again on a branch.")
