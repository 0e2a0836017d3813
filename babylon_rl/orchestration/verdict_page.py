"""Every verdict on one HTML page, with the pictures of learning; it needs nothing but itself."""

from collections.abc import Sequence
from html import escape

from babylon_rl.database.connection import Databases
from babylon_rl.deployment.registry import list_models
from babylon_rl.deployment.verdicts import BenchmarkRecord, all_benchmarks
from babylon_rl.orchestration.model_pictures import (
    importance_ratios,
    learning_curve,
    recorded_rewards,
    reward_against_pnl,
    steps_of,
    token_shares,
)
from babylon_rl.orchestration.verdict_views import COLUMNS, verdict_rows

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:1100px;margin:2rem auto;padding:0 1rem;color:#222}
table{border-collapse:collapse;font-size:13px}th,td{padding:.3rem .6rem;border-bottom:1px solid #ddd}
th{text-align:left}svg{max-width:100%;height:auto;border:1px solid #eee;margin:.5rem 0}
.promoted,.better{color:#0f7b6c}.rejected,.worse{color:#c4314b}
"""


async def verdict_page(db: Databases, horizon: str = "1h") -> str:
    """The page: pictures, the table of all comparisons, and the paragraph of each verdict."""
    records, models = await all_benchmarks(db.rl), await list_models(db.rl)
    trained = next((model for model in models if steps_of(model)), None)
    pictures = [
        ("Learning curve", learning_curve(records)),
        ("Reward against P&L", reward_against_pnl(await recorded_rewards(db.rl, None, horizon))),
        (
            f"Importance ratios of {trained.version}" if trained else "Importance ratios",
            importance_ratios(steps_of(trained)) if trained else None,
        ),
        ("Shares of tokens", token_shares(steps_of(trained)) if trained else None),
    ]
    return "".join(
        [
            "<!doctype html><html lang=en><meta charset=utf-8><title>Verdicts</title>",
            f"<style>{_STYLE}</style><h1>Every verdict</h1>",
            *(f"<h2>{escape(name)}</h2>{svg or '<p>nothing to draw yet</p>'}" for name, svg in pictures),
            "<h2>Comparisons</h2>",
            _table(records),
            "<h2>In words</h2>",
            *(_words(record) for record in records),
            "</html>",
        ]
    )


def _table(records: Sequence[BenchmarkRecord]) -> str:
    rows = []
    for row in verdict_rows(records):
        cells = "".join(f"<td>{_cell(row[column])}</td>" for column in COLUMNS)
        rows.append(f'<tr class="{escape(str(row["verdict"] or ""))}">{cells}</tr>')
    head = "".join(f"<th>{column}</th>" for column in COLUMNS)
    return f"<table><tr>{head}</tr>{''.join(rows)}</table>"


def _words(record: BenchmarkRecord) -> str:
    text = record.metrics.get("explanation") or record.reason or ""
    return f"<h3>{escape(record.version)}, {record.purpose}</h3><p>{escape(text)}</p>"


def _cell(value: object) -> str:
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else escape(str(value))
