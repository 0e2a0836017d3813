"""`babylon models`."""

from typing import TYPE_CHECKING, Annotated

import typer

from babylon_rl.commands.support import CommandError, databases, out, wait

if TYPE_CHECKING:
    from babylon_rl.deployment.registry import ModelRecord


def models(
    limit: Annotated[int, typer.Option(min=1, help="How many, newest first.")] = 20,
) -> None:
    """Show the registered models: lineage, verdict, status, and which one serves."""
    from babylon_rl.deployment.registry import list_models
    from babylon_rl.orchestration.views import models_table

    async def read() -> "list[ModelRecord]":
        async with databases() as db:
            return await list_models(db.rl)

    found = wait(read())
    if not found:
        raise CommandError("no model is registered", "Train one with `babylon train` or `babylon demo`.")
    out.print(models_table(found[:limit]))
