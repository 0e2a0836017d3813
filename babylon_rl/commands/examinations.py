"""`babylon benchmark generate|run|compare`: snapshots, examinations on them, and their comparison."""

import json
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from babylon_rl.commands.support import CommandError, databases, err, out, wait

if TYPE_CHECKING:
    from babylon_rl.benchmark.comparison import Compared, Result
    from babylon_rl.benchmark.exam import Player


def generate(
    seed: Annotated[
        int, typer.Option(min=0, help="Equal seeds give equal files; 0 is one like any other.")
    ] = 0,
    count: Annotated[int, typer.Option(min=1, help="How many, with the seeds that follow.")] = 1,
    ticks: Annotated[int, typer.Option(min=1, help="Length; 12 ticks are an hour of the market.")] = 288,
    tick_seconds: Annotated[int, typer.Option(min=1, help="Seconds from one tick to the next.")] = 300,
    perpetuals: Annotated[int, typer.Option(min=1, help="Companies.")] = 4,
    predictions: Annotated[int, typer.Option(min=0, help="Prediction markets.")] = 0,
    agents: Annotated[int, typer.Option(min=1, help="Agents named in a file of Babylon's format.")] = 8,
    vault: Annotated[
        bool, typer.Option("--vault", help="Also the regimes that nothing was tuned on.")
    ] = False,
    babylon: Annotated[
        bool, typer.Option("--babylon", help="Write Babylon's format, version 1.0.0.")
    ] = False,
    output: Annotated[Path | None, typer.Option(help="Folder. Default: benchmarks in BABYLON_HOME.")] = None,
) -> None:
    """Write seeded snapshots: markets that any model can be examined on again."""
    from babylon_rl.benchmark.babylon_format import file_name, to_babylon
    from babylon_rl.benchmark.snapshot import SnapshotConfig, write
    from babylon_rl.benchmark.snapshot import generate as make

    folder = output or _home()
    for number in range(seed, seed + count):
        config = SnapshotConfig(
            seed=number,
            ticks=ticks,
            tick_seconds=tick_seconds,
            perpetuals=perpetuals,
            predictions=predictions,
            agents=agents,
            vault=vault,
        )
        snapshot = make(config)
        path = folder / (file_name(snapshot) if babylon else f"{snapshot.id}.json")
        if babylon:
            folder.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(to_babylon(snapshot)))
        else:
            write(snapshot, path)
        out.print(str(path), markup=False, soft_wrap=True)


def run(
    snapshots: Annotated[list[str], typer.Argument(help="Files, or names in BABYLON_HOME/benchmarks.")],
    model: Annotated[
        list[str] | None, typer.Option(help="Version to examine; the first one is the incumbent. Repeat it.")
    ] = None,
    url: Annotated[
        str | None, typer.Option(help="OpenAI-compatible server (with /v1) that is asked for --served-model.")
    ] = None,
    served_model: Annotated[
        list[str] | None, typer.Option(help="Name of a model at --url, asked for as it is. Repeat it.")
    ] = None,
    api_key_env: Annotated[str, typer.Option(help="Variable that holds the server's key.")] = "API_KEY",
    view: Annotated[str, typer.Option(help="What players are shown: auto, compact or full.")] = "auto",
    company: Annotated[
        int, typer.Option(min=0, help="Also play one candidate among so many seats, and all; 0 for not.")
    ] = 0,
    output: Annotated[
        Path | None, typer.Option(help="Folder of the report. Default: in BABYLON_HOME.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Examine models on snapshots, beside hold, random, momentum, buy and hold; write JSON, CSV and HTML."""
    from rich.progress import Progress

    from babylon_rl.benchmark.company import populations
    from babylon_rl.benchmark.comparison import Result, compare, player_result
    from babylon_rl.benchmark.exam import Player, play, rules
    from babylon_rl.benchmark.report import baseline, write_report
    from babylon_rl.benchmark.snapshot import read

    if view not in ("auto", "compact", "full"):
        raise CommandError(f"there is no view {view!r}", "Use auto, compact or full.")
    if served_model and url is None:
        raise CommandError("--served-model needs the address of its server", "Give --url.")
    markets = list({(found := read(_find(name))).id: found for name in snapshots}.values())
    folder = output or _home() / "results" / f"{datetime.now(UTC):%Y%m%dT%H%M%S}"

    async def act() -> Result:
        players = await _players(model or (), served_model or (), url, os.environ.get(api_key_env))
        results = []
        with Progress(console=err, transient=True, disable=not err.is_terminal) as progress:
            task = progress.add_task("ticks", total=sum(market.ticks for market in markets))
            for market in markets:
                contestants = players + [Player(name, rule=rule) for name, rule in rules(market).items()]
                records = await play(
                    market, contestants, view=view, on_progress=lambda number: progress.advance(task, number)
                )
                results += [player_result(record, market, record.player) for record in records]
        together = {}
        if company and len(players) > 1:
            for candidate in players[1:]:
                found = await populations(markets, candidate, players[0], seats=company, view=view)
                together[f"{candidate.name} against {players[0].name}"] = found
        return Result(snapshots=[m.id for m in markets], players=results, populations=together)

    result = wait(act())
    compared = compare(result)
    write_report(folder, result, compared)
    for name in result.names()[: len(model or ()) + len(served_model or ())]:
        text = json.dumps(baseline(result, name, str(snapshots[0]), datetime.now(UTC)), indent=1)
        (folder / f"baseline-{name.replace('/', '-')}.json").write_text(text)
    _show(result, compared, folder, as_json)


def compare(
    results: Annotated[list[Path], typer.Argument(help="Folders or result.json of `babylon benchmark run`.")],
    incumbent: Annotated[str | None, typer.Option(help="Player to compare with. Default: the first.")] = None,
    output: Annotated[Path | None, typer.Option(help="Also write a report into this folder.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Compare players of several runs on the snapshots they share; each one spends its share of alpha."""
    from babylon_rl.benchmark.comparison import compare as pairwise
    from babylon_rl.benchmark.comparison import read_results
    from babylon_rl.benchmark.report import write_report

    result = read_results(results)
    compared = pairwise(result, incumbent)
    if output is not None:
        write_report(output, result, compared)
    _show(result, compared, output, as_json)


async def _players(
    versions: Sequence[str], served: Sequence[str], url: str | None, key: str | None
) -> "list[Player]":
    from babylon_rl.benchmark.exam import Player
    from babylon_rl.deployment import registry
    from babylon_rl.deployment.storage import open_engine
    from babylon_rl.policy.remote import RemotePolicy

    found = []
    if versions:
        async with databases() as db:
            records = [await registry.get(db.rl, version) for version in versions]
        found = [Player(record.version, policy=open_engine(record)) for record in records]
    return found + [Player(name, policy=RemotePolicy(name, str(url), name, key)) for name in served]


def _show(result: "Result", compared: "Sequence[Compared]", folder: Path | None, as_json: bool) -> None:
    import msgspec
    from rich.table import Table

    from babylon_rl.benchmark.comparison import totals

    if as_json:
        shown = {
            "snapshots": result.snapshots,
            "players": {name: dict(totals(result, name)) for name in result.names()},
            "comparisons": msgspec.to_builtins(list(compared)),
            "populations": result.populations,
            "report": str(folder) if folder else None,
        }
        typer.echo(json.dumps(shown))
        return
    table = Table(header_style="bold", box=None, pad_edge=False)
    columns = ("total_pnl", "sharpe", "max_drawdown", "win_rate", "accuracy", "optimality_score", "invalid")
    for column in ("player", *columns):
        table.add_column(column.replace("_", " "), justify="left" if column == "player" else "right")
    for name in result.names():
        mine = totals(result, name)
        table.add_row(name, *(f"{mine[column]:.3g}" for column in columns))
    out.print(table)
    for one in compared:
        out.print(f"{one.player}, {one.verdict}: {one.reason}", markup=False, soft_wrap=True)
    for name, found in result.populations.items():
        for key in ("among_incumbents", "on_others", "all_candidates"):
            part = found[key]
            ends = f"[{part['low']:+.5f}, {part['high']:+.5f}]"
            out.print(f"{name}, {key.replace('_', ' ')}: {part['mean']:+.5f} {ends}", markup=False)
    if folder is not None:
        out.print(f"report: {folder / 'report.html'}", markup=False, soft_wrap=True)


def _find(name: str) -> Path:
    path = Path(name)
    if path.exists() or len(path.parts) > 1:
        return path
    from babylon_rl.benchmark.snapshot import inside

    folder = _home()
    found = inside(folder, name)
    return found if found.exists() else inside(folder, f"{name}.json")


def _home() -> Path:
    from babylon_rl.settings import get_settings

    return get_settings().home / "benchmarks"
