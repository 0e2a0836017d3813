"""`babylon models`, `babylon deploy` and `babylon rollback`."""

from typing import TYPE_CHECKING, Annotated

import typer

from babylon_rl.commands.support import CommandError, databases, out, wait

if TYPE_CHECKING:
    from babylon_rl.deployment.deploy import Deployment
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


def deploy(
    version: Annotated[str, typer.Argument(help="Version such as v0.1.0; see `babylon models`.")],
    force: Annotated[bool, typer.Option("--force", help="Although the gate has not promoted it.")] = False,
    reason: Annotated[str, typer.Option(help="Kept in the history of deployments.")] = "by hand",
) -> None:
    """Make a model the active one; the one before it is archived."""
    from babylon_rl.deployment.deploy import deploy as switch
    from babylon_rl.settings import get_settings

    async def act() -> "Deployment":
        async with databases() as db:
            game = db.game if get_settings().project_to_game else None
            return await switch(db.rl, game, version, reason=reason, verdict_required=not force)

    _report(wait(act()))


def rollback(
    to: Annotated[
        str | None, typer.Option(help="A version that served before. Default: the last one.")
    ] = None,
    reason: Annotated[str, typer.Option(help="Kept in the history of deployments.")] = "rollback by hand",
) -> None:
    """Go back to the model that served before the active one; needs neither Dagster nor the gateway."""
    from babylon_rl.deployment.deploy import rollback as switch
    from babylon_rl.settings import get_settings

    async def act() -> "Deployment":
        async with databases() as db:
            game = db.game if get_settings().project_to_game else None
            return await switch(db.rl, game, to, reason=reason)

    _report(wait(act()))


def _report(deployment: "Deployment") -> None:
    if not deployment.changed:
        out.print(f"{deployment.version} is the active model already")
    else:
        replaced = f" instead of {deployment.replaced}" if deployment.replaced else ""
        out.print(f"{deployment.version} serves now{replaced}")
