"""`babylon status`."""

from babylon_rl.commands.support import databases, out, wait


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
