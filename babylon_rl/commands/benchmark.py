"""`babylon benchmark …`: snapshots, comparisons on them, decision replay, and every verdict ever given."""

import json
import os
import sys
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from babylon_rl.commands import examinations
from babylon_rl.commands.support import CommandError, databases, err, out, wait

if TYPE_CHECKING:
    from babylon_rl.benchmark.replay import Replay
    from babylon_rl.database.connection import Databases
    from babylon_rl.deployment.verdicts import BenchmarkRecord
    from babylon_rl.policy.chat import Policy

app = typer.Typer(no_args_is_help=True, help="Which model is better: snapshots, replays, verdicts.")

PROMPT_LIMIT_HOURS = 72


app.command()(examinations.generate)
app.command()(examinations.run)
app.command()(examinations.compare)


@app.callback()
def benchmark() -> None:
    """Which model is better: snapshots, replays, verdicts."""


@app.command()
def verdicts(
    version: Annotated[str | None, typer.Option(help="Only this one, with its paragraph.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many, newest first.")] = 50,
    html: Annotated[Path | None, typer.Option(help="Write them as a page, with the learning curve.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show every verdict ever given, and what the vault and the replays found."""
    from babylon_rl.deployment.verdicts import BenchmarkRecord, all_benchmarks
    from babylon_rl.deployment.versions import parse_version
    from babylon_rl.orchestration.verdict_views import verdict_rows, verdicts_table

    chosen = str(parse_version(version)) if version else None

    async def read() -> list[BenchmarkRecord]:
        async with databases() as db:
            return await all_benchmarks(db.rl, chosen, limit)

    found = wait(read())
    if html is not None:
        html.write_text(wait(_page()))
        err.print(f"page: {html}", markup=False)
    if as_json:
        typer.echo(json.dumps({"verdicts": verdict_rows(found)}))
        return
    if not found:
        raise CommandError("no model was judged yet", "`babylon train` judges what it trains.")
    out.print(verdicts_table(found))
    if version:
        _paragraphs(found)


@app.command()
def replay(
    candidate: Annotated[str, typer.Option(help="Version such as v0.0.3; see `babylon models`.")],
    incumbent: Annotated[
        str | None, typer.Option(help="Default: the one that serves, else the base.")
    ] = None,
    decisions: Annotated[
        int, typer.Option(min=1, help="Recorded decisions, spread over the windows.")
    ] = 2000,
    embargo_hours: Annotated[
        int, typer.Option(min=PROMPT_LIMIT_HOURS, help="Hours between training data and what may judge.")
    ] = PROMPT_LIMIT_HOURS,
    horizon: Annotated[str, typer.Option(help="When the orders are valued: 1h or 24h.")] = "1h",
    candidate_url: Annotated[
        str | None, typer.Option(help="OpenAI-compatible server (with /v1) that holds the candidate.")
    ] = None,
    incumbent_url: Annotated[str | None, typer.Option(help="The same for the incumbent.")] = None,
    candidate_model: Annotated[
        str | None, typer.Option(help="Its name there. Default: babylon-agent-VERSION.")
    ] = None,
    incumbent_model: Annotated[str | None, typer.Option(help="The same for the incumbent.")] = None,
    api_key_env: Annotated[str, typer.Option(help="Variable that holds the key of the servers.")] = "API_KEY",
    yes: Annotated[
        bool, typer.Option("--yes", help="Start although it costs what is printed first.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Ask candidate and incumbent what they would have answered to recorded, held-out prompts, and compare
    what the orders were worth. Nothing is decided by it. The estimate of the cost comes first.
    """
    from rich.progress import Progress

    from babylon_rl.benchmark.replay import Replay
    from babylon_rl.deployment import registry
    from babylon_rl.deployment.replaying import estimate, held_out_decisions
    from babylon_rl.deployment.replaying import replay as compare
    from babylon_rl.deployment.versions import BASE
    from babylon_rl.outcomes.pricing import HORIZONS
    from babylon_rl.settings import get_settings
    from babylon_rl.training.costs import read_prices

    if horizon not in HORIZONS:
        raise CommandError(f"there is no horizon {horizon!r}", f"Use one of {', '.join(HORIZONS)}.")
    prices = read_prices(get_settings().price_table)

    async def act() -> Replay | None:
        async with databases() as db:
            one = (await registry.get(db.rl, candidate)).version
            serving = await registry.active(db.rl)
            other = (await registry.get(db.rl, incumbent)).version if incumbent else str(BASE)
            if incumbent is None and serving is not None:
                other = serving.version
            if one == other:
                raise CommandError(f"{one} cannot be compared with itself", "Name another --incumbent.")
            first = await _policy(db, one, candidate_url, candidate_model, api_key_env)
            second = await _policy(db, other, incumbent_url, incumbent_model, api_key_env)
            material = await held_out_decisions(
                db,
                [one, other],
                limit=decisions,
                embargo=timedelta(hours=embargo_hours),
                horizon=HORIZONS[horizon],
            )
            cost = estimate(material, prices, sum(url is not None for url in (candidate_url, incumbent_url)))
            err.print(f"{one} against {other}: {cost}", markup=False)
            if not (yes or (sys.stdin.isatty() and typer.confirm("Ask them?", err=True))):
                return None
            with Progress(console=err, transient=True, disable=not err.is_terminal) as progress:
                task = progress.add_task("answers", total=cost.answers)
                return await compare(
                    db,
                    material,
                    first,
                    second,
                    horizon=horizon,
                    on_progress=lambda number: progress.advance(task, number),
                )

    found = wait(act())
    if found is None:
        raise CommandError("nothing was asked yet", "Repeat the command with --yes to spend that.")
    if as_json:
        typer.echo(json.dumps(found.to_dict()))
    else:
        _print_replay(found)


async def _page() -> str:
    from babylon_rl.orchestration.verdict_page import verdict_page
    from babylon_rl.settings import get_settings

    async with databases() as db:
        return await verdict_page(db, get_settings().training_horizon)


async def _policy(
    db: "Databases", version: str, url: str | None, model: str | None, api_key_env: str
) -> "Policy":
    from babylon_rl.deployment import registry
    from babylon_rl.deployment.storage import open_engine
    from babylon_rl.policy.remote import RemotePolicy

    record = await registry.get(db.rl, version)
    if url is None:
        return open_engine(record)
    return RemotePolicy(version, url, model or record.model_id, os.environ.get(api_key_env))


def _print_replay(found: "Replay") -> None:
    from rich.table import Table

    table = Table(header_style="bold", box=None, pad_edge=False)
    columns = ("version", "return/decision", "$/decision", "orders", "won", "held", "invalid", "refused")
    for column in (*columns, "unpriced"):
        table.add_column(column, justify="left" if column == "version" else "right")
    for side in (found.candidate, found.incumbent):
        won = f"{side.wins / side.orders:.1%}" if side.orders else "–"
        counts = (side.orders, won, side.holds, side.invalid, side.refused, side.unpriced)
        table.add_row(side.version, f"{side.return_mean:+.5f}", f"{side.value_mean:+.2f}", *map(str, counts))
    out.print(table)
    interval = found.difference
    out.print(
        f"{found.finding}: {interval.mean:+.5f} of equity per decision [{interval.low:+.5f}, "
        f"{interval.high:+.5f}] over {found.decisions} decisions in {found.blocks} blocks; they differ on "
        f"{found.changed:.0%}; minimum detectable effect {interval.minimum_detectable_effect():.5f}",
        markup=False,
    )
    if found.unanswerable:
        out.print(f"{found.unanswerable} prompts exceed a model's context and count for neither")


def _paragraphs(records: "list[BenchmarkRecord]") -> None:
    for record in records:
        text = record.metrics.get("explanation") or record.reason
        if text:
            out.print(f"\n{text}", markup=False, soft_wrap=True)
