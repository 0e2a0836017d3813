"""The table of every comparison that was ever made, for the command line, JSON and the UI."""

import math
from collections.abc import Sequence
from typing import Any

from rich.table import Table

from babylon_rl.deployment.verdicts import BenchmarkRecord

COLUMNS = ("at", "purpose", "version", "against", "verdict", "difference", "low", "high", "n", "alpha")
COLUMNS += ("detectable", "candidate")


def verdict_rows(records: Sequence[BenchmarkRecord]) -> list[dict[str, Any]]:
    """One entry per comparison, in the order given; the unit of a difference is return on equity, per market
    of an hour (gate and vault) or per decision (replay)."""
    return [_row(record) for record in records]


def verdicts_table(records: Sequence[BenchmarkRecord]) -> Table:
    """The same for a terminal."""
    table = Table(header_style="bold", box=None, pad_edge=False)
    for column in COLUMNS:
        table.add_column(column, no_wrap=True)
    colours = {"promoted": "green", "rejected": "red"}
    for row in verdict_rows(records):
        shown = [_text(row[column]) for column in COLUMNS]
        verdict = row["verdict"]
        if verdict in colours:
            shown[COLUMNS.index("verdict")] = f"[{colours[verdict]}]{verdict}[/]"
        table.add_row(*shown)
    return table


def _row(record: BenchmarkRecord) -> dict[str, Any]:
    metrics = record.metrics
    gate, replay = metrics.get("verdict") or {}, metrics.get("replay") or {}
    interval = gate.get("difference") or metrics.get("gain") or replay.get("difference") or {}
    return {
        "at": f"{record.created_at:%Y-%m-%d %H:%M}",
        "purpose": record.purpose,
        "version": record.version,
        "against": record.incumbent,
        "verdict": record.verdict or replay.get("finding"),
        "difference": interval.get("mean"),
        "low": interval.get("low"),
        "high": interval.get("high"),
        "n": interval.get("n", record.windows),
        "alpha": interval.get("alpha"),
        "detectable": gate.get("minimum_detectable_effect"),
        "candidate": metrics.get("candidate_number"),
        "reason": record.reason,
        "explanation": metrics.get("explanation"),
    }


def _text(value: object) -> str:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
