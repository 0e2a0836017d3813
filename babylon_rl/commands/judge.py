"""`babylon judge …`: judges compared on windows that were recorded."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from babylon_rl.commands.support import CommandError, out, wait

if TYPE_CHECKING:
    from babylon_rl.database.connection import Databases
    from babylon_rl.scoring.judge.compare import Comparison, Variant
    from babylon_rl.scoring.window_scorer import WindowToScore
    from babylon_rl.settings import Settings

app = typer.Typer(no_args_is_help=True, help="The judge: RULER by a language model.")

ROLE = "babylon_judge"

_NEWEST = """
SELECT window_id FROM rl.window_state
 WHERE outcomes_status = 'settled' AND snapshot_status = 'frozen' AND agents >= $1
 ORDER BY window_id DESC LIMIT $2
"""


@app.callback()
def judge() -> None:
    """The judge: RULER by a language model."""


@app.command()
def compare(
    window: Annotated[
        list[str] | None, typer.Option(help="Window to judge; may be repeated. Default: the newest ones.")
    ] = None,
    last: Annotated[int, typer.Option(min=1, help="How many of the newest frozen windows.")] = 5,
    judge: Annotated[
        list[str] | None, typer.Option(help="Judge such as openai/gpt-4o-mini; repeat it to compare judges.")
    ] = None,
    rubric: Annotated[
        list[str] | None, typer.Option(help="Rubric file, or `default`; repeat it to compare rubrics.")
    ] = None,
    orders: Annotated[
        list[int] | None, typer.Option(min=1, max=8, help="Orders that are averaged; repeat it to compare.")
    ] = None,
    target_trajectories: Annotated[
        int | None, typer.Option(min=1, help="Leave out at most 30 % of the episodes to come near to this.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Compare judges, rubrics or orders on the same windows: agreement with each other and with the realised
    P&L, dependence on the order of the episodes, and cost. Scores that are stored do not change.
    """
    import msgspec

    from babylon_rl.settings import get_settings

    settings = get_settings()
    found = wait(
        _compare(settings, _variants(settings, judge, rubric, orders), window, last, target_trajectories)
    )
    if as_json:
        typer.echo(msgspec.json.encode(found).decode())
    else:
        _print(found)
    if all(variant.failed == variant.windows for variant in found.variants):
        raise CommandError("no window could be judged", found.variants[0].problem)


def _variants(
    settings: "Settings", judges: list[str] | None, rubrics: list[str] | None, orders: list[int] | None
) -> "list[Variant]":
    from babylon_rl.scoring.judge.compare import Variant

    if judges is None:
        judges = [settings.judge_model, *filter(None, [settings.judge_second_model])]
    chosen = rubrics or [str(settings.judge_rubric) if settings.judge_rubric else "default"]
    paths = [None if name == "default" else Path(name) for name in chosen]
    variants = [
        Variant(j, r, o) for j in judges for r in paths for o in orders or [max(2, settings.judge_orders)]
    ]
    if len(set(variants)) < len(variants):
        raise CommandError("a variant occurs twice", "Give different judges, rubrics or orders.")
    return variants


async def _compare(
    settings: "Settings",
    variants: "list[Variant]",
    window_ids: list[str] | None,
    last: int,
    target: int | None,
) -> "Comparison":
    from babylon_rl.database.connection import open_databases
    from babylon_rl.scoring.dropout import dropout_rate
    from babylon_rl.scoring.judge.compare import comparable, compare

    # Verdicts and books get a connection of their own: many tasks use it in turn.
    async with (
        open_databases(settings, role=ROLE) as db,
        open_databases(settings, role=ROLE, check=False) as own,
    ):
        if window_ids is None:
            rows = await db.rl.fetch(_NEWEST, settings.min_agents_per_window, last)
            window_ids = [row["window_id"] for row in rows]
        counts = [len(w.episodes) async for w in _windows(settings, db, window_ids) if comparable(w)]
        if not counts:
            raise CommandError(
                "none of the windows can be judged",
                "They need two agents or more, a snapshot and settled outcomes: see `babylon windows list`.",
            )
        rate = dropout_rate(sum(counts), target, settings.max_dropout)
        windows = (w async for w in _windows(settings, db, window_ids) if comparable(w))
        return await compare(variants, windows, settings, own.rl, dropout=rate)


async def _windows(
    settings: "Settings", db: "Databases", window_ids: list[str]
) -> "AsyncIterator[WindowToScore]":
    """Reads the windows one by one, so that only one is in memory."""
    from babylon_rl.orchestration.resources import ArtifactStoreResource
    from babylon_rl.scoring.frozen import load_window
    from babylon_rl.windows import parse_window

    store = ArtifactStoreResource().open()
    for window_id in window_ids:
        parse_window(window_id)
        loaded = await load_window(db.rl, store, window_id, horizon=settings.training_horizon, whole=True)
        yield loaded.window


def _print(found: "Comparison") -> None:
    from rich.table import Table

    table = Table(title=f"{found.windows} windows, {found.episodes} episodes", title_justify="left")
    for column in ("variant", "judged", "tau with P&L", "flip rate", "spread", "requests", "from cache", "$"):
        table.add_column(column, justify="left" if column == "variant" else "right")
    for v in found.variants:
        table.add_row(
            v.name,
            f"{v.windows - v.failed} of {v.windows}",
            _number(v.kendall_pnl),
            _number(v.flip_rate),
            _number(v.spread),
            str(v.calls),
            str(v.cached),
            f"{v.cost_usd:.4f}",
        )
    out.print(table)
    for pair in found.pairs:
        out.print(f"tau {_number(pair.kendall)}: {pair.first} and {pair.second} ({pair.windows} windows)")
    for v in found.variants:
        if v.problem:
            out.print(f"{v.name}: {v.problem}", markup=False)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
