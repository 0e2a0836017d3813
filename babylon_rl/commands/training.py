"""`babylon status`."""

from typing import TYPE_CHECKING

from babylon_rl.commands.support import databases, out, wait

if TYPE_CHECKING:
    from rich.table import Table

SHOWN = 20
"""Changed windows that are shown one by one."""


def status() -> None:
    """Show where the loop stands: recorded, resolved, trained, deployed, what waits, and what has changed."""
    from babylon_rl.orchestration.instance import open_instance
    from babylon_rl.orchestration.training import trained_days
    from babylon_rl.orchestration.views import changed_table, changed_windows, status_lines
    from babylon_rl.settings import get_settings

    with open_instance(get_settings()) as instance:
        trained = trained_days(instance)

    async def read() -> "tuple[list[str], list[Table], int]":
        async with databases() as db:
            lines = await status_lines(db, trained, get_settings())
            changed = await changed_windows(db.rl)
            return lines, [changed_table(changed[:SHOWN])] if changed else [], len(changed)

    lines, tables, count = wait(read())
    for part in (*lines, *tables):
        out.print(part)
    if count > SHOWN:
        out.print(f"and {count - SHOWN} more")
    if count:
        out.print("The sensor requests them; `babylon backfill` makes them now.")
