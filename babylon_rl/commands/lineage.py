"""`babylon reproduce`, `babylon retrain` and `babylon costs`."""

import json
from typing import TYPE_CHECKING, Annotated

import typer

from babylon_rl.commands.support import databases, out, wait

if TYPE_CHECKING:
    from babylon_rl.deployment.reproduction import Reproduction, Retrained


def reproduce(
    version: Annotated[str, typer.Argument(help="Version such as v0.0.3; see `babylon models`.")],
) -> None:
    """Train a version again from its manifest and compare the bytes; the status is 1 when they differ."""
    from babylon_rl.deployment.reproduction import reproduce as again
    from babylon_rl.orchestration.resources import ArtifactStoreResource
    from babylon_rl.settings import get_settings

    async def act() -> "Reproduction":
        async with databases() as db:
            return await again(db, ArtifactStoreResource().open(), get_settings(), version)

    found = wait(act())
    for name, then, now in found.changed:
        out.print(f"changed since: {name} was {then}, is {now}")
    if found.same:
        out.print(f"{found.version} was trained again: the same bytes in every file")
        return
    out.print(f"{found.version} was trained again: {', '.join(found.differing)} differ")
    raise typer.Exit(1)


def retrain(
    version: Annotated[
        str | None, typer.Argument(help="Version to make a branch of. Default: the newest of the live chain.")
    ] = None,
    without_agent: Annotated[
        str | None, typer.Option(help="Leave out this agent, from the first version that it had part in.")
    ] = None,
) -> None:
    """Train a version again as a branch beside the live chain; it is never the parent of a day."""
    from babylon_rl.deployment.lineage import newest_not_rejected
    from babylon_rl.deployment.reproduction import retrain as again
    from babylon_rl.orchestration.resources import ArtifactStoreResource
    from babylon_rl.settings import get_settings

    async def act() -> "list[Retrained]":
        async with databases() as db:
            newest = await newest_not_rejected(db.rl)
            chosen = version or (newest.version if newest else "v0.0.0")
            store = ArtifactStoreResource().open()
            return await again(db, store, get_settings(), chosen, without_agent=without_agent)

    results = wait(act())
    if not results:
        out.print(f"{without_agent} had no part in this version or what it grew from; nothing to retrain")
    for result in results:
        if result.model is None:
            out.print(f"{result.original}: nothing is left to train ({result.reason})")
        else:
            out.print(f"{result.original} -> {result.model.version} on the branch {result.model.branch}")


def costs(
    prices: Annotated[
        bool,
        typer.Option(
            "--prices", help="Print the price table as JSON, to be edited and named by PRICE_TABLE."
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show what a month of hourly training costs by the price table, and what the trained versions cost."""
    from dataclasses import asdict

    from babylon_rl.deployment.registry import ModelRecord, list_models
    from babylon_rl.settings import get_settings
    from babylon_rl.training.costs import monthly, read_prices, render_prices

    table = read_prices(get_settings().price_table)
    if prices:
        typer.echo(render_prices(table))
        return

    async def read() -> list[ModelRecord]:
        async with databases() as db:
            return await list_models(db.rl)

    month = monthly(table)
    runs = [
        {"version": model.version, **{k: v for k, v in model.metrics.items() if k.startswith("costs/")}}
        for model in wait(read())
        if not model.is_base
    ]
    if as_json:
        typer.echo(json.dumps({"month": asdict(month), "runs": runs}))
        return
    out.print(f"serverless, {table.jobs_per_day:g} jobs a day: training {month.training} a month")
    out.print(f"  inference {month.inference}, together {month.total}")
    out.print(
        f"self-managed: ${month.self_managed:,.0f}; saved {month.saved.low:.0f} to {month.saved.high:.0f} %"
    )
    for run in runs:
        low, high = run.get("costs/estimated_low_usd", 0.0), run.get("costs/estimated_high_usd", 0.0)
        actual = f", actual ${run['costs/actual_usd']:.2f}" if "costs/actual_usd" in run else ""
        out.print(f"{run['version']}: estimated ${low:.2f} to ${high:.2f}{actual}")
