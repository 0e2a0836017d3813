"""`babylon backfill`."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from babylon_rl.commands.support import CommandError, err, out, wait

if TYPE_CHECKING:
    from collections.abc import Callable

    import dagster as dg

    from babylon_rl.orchestration.backfill import BackfillPlan, Span
    from babylon_rl.settings import Settings


def backfill(
    first: Annotated[
        str, typer.Option("--from", help="First day (2026-10-01) or window (2026-10-01T14:00).")
    ],
    last: Annotated[str, typer.Option("--to", help="Last day or window, included.")],
    rescore: Annotated[
        bool, typer.Option("--rescore", help="Also score windows again about which nothing has changed.")
    ] = False,
    retrain: Annotated[
        bool,
        typer.Option("--retrain", help="Also train days again, on a branch beside the served chain."),
    ] = False,
    train: Annotated[bool, typer.Option(help="Train the days whose windows all lie in the range.")] = True,
    deploy: Annotated[
        bool, typer.Option("--deploy", help="Let the gate deploy what these days train. Default: never.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and stop.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before a judge is paid.")] = False,
) -> None:
    """Make what a range of the past lacks: its windows, then its days in order; a run covers at most a day.

    Windows and days about which nothing has changed are left alone, so it can be repeated and interrupted at
    any time, beside the sensor and beside another backfill. What the agents get is not touched.
    """
    from babylon_rl.orchestration.backfill import parse_span
    from babylon_rl.orchestration.instance import open_instance
    from babylon_rl.settings import get_settings

    settings, now = get_settings(), datetime.now(UTC)
    span = parse_span(first, last, settings, now)
    with open_instance(settings) as instance:
        with out.status("comparing every recorded row with what is known of it"):
            plan = _plan(instance, settings, span, now, rescore=rescore, train=train)
        _show(plan, retrain)
        if dry_run:
            return
        _agree(plan, yes)
        failed = _run(instance, settings, plan, rescore=rescore, deploy=deploy)
        if retrain and plan.trained:
            _retrain(instance, settings, plan)
    if failed:
        raise CommandError(
            f"{failed} runs failed", "Remove the cause and repeat the command: it makes only what is missing."
        )


def _plan(
    instance: "dg.DagsterInstance",
    settings: "Settings",
    span: "Span",
    now: datetime,
    *,
    rescore: bool,
    train: bool,
) -> "BackfillPlan":
    from babylon_rl.database.connection import open_databases
    from babylon_rl.orchestration.backfill import plan_backfill
    from babylon_rl.orchestration.resources import JUDGE
    from babylon_rl.orchestration.training import trained_days

    async def plan() -> "BackfillPlan":
        async with open_databases(settings, role=JUDGE) as db:
            known = sorted(trained_days(instance))
            return await plan_backfill(
                db, instance, span, settings, now, rescore=rescore, train=train, trained=known
            )

    return wait(plan())


def _show(plan: "BackfillPlan", retrain: bool) -> None:
    out.print(
        f"{plan.span.first} to {plan.span.last}: {plan.windows} windows to make in {len(plan.runs)} runs, "
        f"{plan.unchanged} unchanged"
    )
    for verdict in plan.waiting[:5]:
        out.print(f"  {verdict.facts.window_id} waits: {verdict.reason}")
    if len(plan.waiting) > 5:
        out.print(f"  and {len(plan.waiting) - 5} more")
    again = "trained again on a branch" if retrain else "trained before"
    out.print(f"{len(plan.days)} days to train, {len(plan.trained)} {again}")
    cost = plan.cost
    out.print(
        f"judge: {cost.windows} windows, {cost.episodes} episodes, about ${cost.usd:.2f} ({cost.basis})",
        soft_wrap=True,
    )


def _agree(plan: "BackfillPlan", yes: bool) -> None:
    if yes or plan.cost.usd <= 0:
        return
    if not err.is_terminal:
        raise CommandError(
            f"a judge would be paid about ${plan.cost.usd:.2f}", "Add --yes, or start it in a terminal."
        )
    typer.confirm(f"Pay a judge about ${plan.cost.usd:.2f}?", abort=True, err=True)


def _run(
    instance: "dg.DagsterInstance", settings: "Settings", plan: "BackfillPlan", *, rescore: bool, deploy: bool
) -> int:
    from babylon_rl.orchestration.backfill_runs import run_backfill

    with _bar(plan.windows + len(plan.days)) as advance:
        result = run_backfill(
            instance, settings, plan, report=err.print, advance=advance, rescore=rescore, deploy=deploy
        )
    shared = f", {result.shared} by another run meanwhile" if result.shared else ""
    out.print(f"{result.windows} windows made{shared}; {len(result.days)} days trained")
    for day, reason in result.left:
        out.print(f"{day} was not trained: {reason}", soft_wrap=True)
    return len(result.failed)


def _retrain(instance: "dg.DagsterInstance", settings: "Settings", plan: "BackfillPlan") -> None:
    from babylon_rl.orchestration.backfill_runs import retrain_days
    from babylon_rl.training.selection import Selection

    branch = f"backfill-{plan.trained[0]}-{plan.trained[-1]}"
    retrain_days(
        instance,
        settings,
        plan.trained,
        branch,
        Selection(min_agents=settings.min_agents_per_window),
        out.print,
    )


@contextmanager
def _bar(total: int) -> "Iterator[Callable[[int], None]]":
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("windows and days"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, disable=not err.is_terminal) as progress:
        task = progress.add_task("", total=max(total, 1))
        yield lambda count: progress.advance(task, count)
