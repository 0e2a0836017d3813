"""What an examination leaves behind: JSON, CSV, and one HTML page that needs nothing but itself."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from html import escape
from pathlib import Path
from typing import Any

import msgspec

from babylon_rl.benchmark.comparison import Compared, Result, compare, mean_return, totals
from babylon_rl.benchmark.exam import RULES
from babylon_rl.benchmark.pictures import Point, curves, intervals

_SHOWN = ("total_pnl", "total_return", "sharpe", "max_drawdown", "win_rate", "accuracy", "optimality_score")
_SHOWN += ("total_trades", "liquidations", "invalid", "refused", "avg_response_ms")
_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:1100px;margin:2rem auto;padding:0 1rem;color:#222}
table{border-collapse:collapse;margin:1rem 0;font-size:13px}
th,td{padding:.3rem .6rem;border-bottom:1px solid #ddd}
th{text-align:left}td{text-align:right}td:first-child{text-align:left}
.better{color:#0f7b6c}.worse{color:#c4314b}
svg{max-width:100%;height:auto;border:1px solid #eee;margin:.5rem .5rem .5rem 0}
"""


def write_report(
    folder: Path,
    result: Result,
    compared: Sequence[Compared] | None = None,
    extra: Mapping[str, str] | None = None,
) -> list[Path]:
    """Writes `result.json`, `metrics.csv`, `actions.csv`, `comparison.json`, `comparison.csv`, `report.html`.

    Args:
        compared: By default everybody against the first player.
        extra: More pictures for the page, by title (SVG).
    """
    compared = compare(result) if compared is None else compared
    folder.mkdir(parents=True, exist_ok=True)
    metrics = [{"player": p.player, "snapshot": p.snapshot, **p.metrics} for p in result.players]
    actions = [
        {"player": p.player, "snapshot": p.snapshot, **action} for p in result.players for action in p.actions
    ]
    differences = [_flat(one) for one in compared]
    summary = {
        "runs": len(result.players),
        "players": {name: totals(result, name) for name in result.names()},
        "best_run": _extreme(metrics, max),
        "worst_run": _extreme(metrics, min),
        "comparisons": differences,
        "populations": result.populations,
    }
    contents = {
        "result.json": msgspec.json.encode(result).decode(),
        "comparison.json": json.dumps(summary, indent=1),
        "metrics.csv": _csv(metrics),
        "actions.csv": _csv(actions),
        "comparison.csv": _csv(differences),
        "report.html": page(result, compared, extra or {}),
    }
    for name, text in contents.items():
        (folder / name).write_text(text)
    return [folder / name for name in contents]


def page(result: Result, compared: Sequence[Compared], extra: Mapping[str, str] | None = None) -> str:
    """The HTML page; pictures are in it, and it asks no server for anything."""
    names = result.names()
    pictures = [*_pictures(result, compared), *(extra or {}).values()]
    rows = [[name, *(f"{totals(result, name)[key]:.4g}" for key in _SHOWN)] for name in names]
    verdicts = [
        [
            f"{one.player} against {one.incumbent}",
            f'<span class="{one.verdict}">{one.verdict}</span>',
            f"{one.difference['mean']:+.5f}",
            f"[{one.difference['low']:+.5f}, {one.difference['high']:+.5f}]",
            str(one.difference["n"]),
            f"{one.difference['alpha']:.3g}",
            f"{one.detectable:.5f}",
            f"{one.pnl_delta:+.2f}",
        ]
        for one in compared
    ]
    columns = (
        "players",
        "finding",
        "difference",
        "interval",
        "n",
        "alpha",
        "detectable",
        "P&amp;L",
    )
    return "".join(
        [
            "<!doctype html><html lang=en><meta charset=utf-8><title>Examination</title>",
            f"<style>{_STYLE}</style><h1>Examination</h1>",
            f"<p>{len(names)} players on {len(result.snapshots)} snapshots: ",
            f"{escape(', '.join(result.snapshots[:5]))}{' …' if len(result.snapshots) > 5 else ''}. ",
            "Returns are on the bankroll with which every hour begins. Intervals of differences are valid ",
            "for any shape of losses; each further model spends a smaller share of the error.</p>",
            "<h2>Comparisons</h2>",
            _table(columns, verdicts),
            *(f"<p>{escape(one.player)}: {escape(one.reason)}.</p>" for one in compared),
            _populations(result.populations),
            "<h2>Players</h2>",
            _table(("player", *(key.replace("_", " ") for key in _SHOWN)), rows, plain=True),
            "<h2>Pictures</h2>",
            *pictures,
            "</html>",
        ]
    )


def baseline(result: Result, name: str, path: str, at: datetime) -> dict[str, Any]:
    """A player in the shape of Babylon's `benchmarks/baselines/*.json`."""
    mine = totals(result, name)
    model = result.of(name)[0].model
    return {
        "model": {"name": name, "modelId": model, "displayName": name},
        "benchmark": {"id": result.snapshots[0], "path": path},
        "metrics": {
            "totalPnl": mine["total_pnl"],
            "predictionAccuracy": mine["accuracy"],
            "perpWinRate": mine["win_rate"],
            "optimalityScore": mine["optimality_score"],
            "totalTrades": mine["total_trades"],
            "correctPredictions": mine["correct_predictions"],
            "incorrectPredictions": mine["incorrect_predictions"],
        },
        "timing": {
            "totalDuration": mine["avg_response_ms"] * mine["decisions"],
            "avgResponseTime": mine["avg_response_ms"],
        },
        "runAt": at.isoformat(),
    }


def _pictures(result: Result, compared: Sequence[Compared]) -> list[str]:
    found = [
        intervals(
            [
                (f"{one.player} − {one.incumbent}", *(one.difference[key] for key in ("mean", "low", "high")))
                for one in compared
            ],
            "Difference of return per hour, with its valid interval",
        )
    ]
    means = [(name, i) for name in result.names() if (i := mean_return(result, name)) is not None]
    found.append(intervals([(name, i.mean, i.low, i.high) for name, i in means], "Return per hour, 95 %"))
    learned = [(name, i) for name, i in means if name not in RULES]
    if len(learned) > 1:
        points = [Point(x, i.mean, i.low, i.high) for x, (_, i) in enumerate(learned)]
        title = "Learning curve: return per hour by checkpoint, in the order named"
        found.append(curves({"return per hour": points}, title, names=[name for name, _ in learned]))
    for snapshot in result.snapshots[:4]:
        paths = {p.player: _thin(p.equity) for p in result.players if p.snapshot == snapshot}
        found.append(curves(paths, f"Equity in USD, {snapshot}", "tick"))
    return [picture for picture in found if picture is not None]


def _thin(equity: Sequence[float]) -> list[Point]:
    step = max(1, len(equity) // 200)
    return [Point(tick, value, value, value) for tick, value in list(enumerate(equity))[::step]]


def _populations(found: Mapping[str, Any]) -> str:
    if not found:
        return ""
    rows = []
    for name, one in found.items():
        for key in ("among_incumbents", "on_others", "all_candidates"):
            part = one[key]
            ends = f"[{part['low']:+.5f}, {part['high']:+.5f}]"
            rows.append([f"{name}: {key.replace('_', ' ')}", f"{part['mean']:+.5f}", ends, str(part["n"])])
    return "<h2>In company</h2>" + _table(("population", "difference", "interval", "n"), rows, plain=True)


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]], plain: bool = False) -> str:
    head = "".join(f"<th>{column}</th>" for column in columns)
    body = "".join(
        "<tr>"
        + "".join(f"<td>{escape(cell) if plain or i == 0 else cell}</td>" for i, cell in enumerate(row))
        + "</tr>"
        for row in rows
    )
    return f"<table><tr>{head}</tr>{body}</table>"


def _flat(one: Compared) -> dict[str, Any]:
    plain = msgspec.to_builtins(one)
    interval = plain.pop("difference")
    return plain | {key: interval[key] for key in ("mean", "low", "high", "n", "alpha")}


def _extreme(metrics: Sequence[Mapping[str, Any]], choose: Any) -> dict[str, Any]:
    one = choose(metrics, key=lambda row: row["total_pnl"])
    return {key: one[key] for key in ("player", "snapshot", "total_pnl")}


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    if rows:
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({key: _safe(value) for key, value in row.items()} for row in rows)
    return text.getvalue()


def _safe(value: Any) -> Any:
    """A model's answer must not become a formula in a spreadsheet."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t") else value
