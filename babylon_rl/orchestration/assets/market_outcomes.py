"""`market_outcomes`: what the markets did in a window: the ground truth that its agents did not know."""

from time import monotonic

import dagster as dg

from babylon_rl.orchestration.assets.common import (
    GROUP,
    OWNERS,
    log_lineage,
    retry_on_lost_database,
)
from babylon_rl.orchestration.assets.trajectories import trajectories
from babylon_rl.orchestration.partitions import ONE_DAY_OF_WINDOWS, hourly
from babylon_rl.orchestration.reporting import (
    Metadata,
    PartitionReport,
    materialize_each,
    table,
)
from babylon_rl.orchestration.resources import JUDGE, PostgresResource, WandbResource
from babylon_rl.orchestration.window_steps import DerivedWindow, derive_window

STOCKS = (
    ("stock", "text", "Ticker of the company."),
    ("start", "float8", "Last price at or before the window's start, $."),
    ("end", "float8", "Last price before its end, $."),
    ("change %", "float8", "From start to end."),
    ("moves", "integer", "Changes of the price."),
    ("flags", "text", "What is uncertain about it."),
)
PREDICTIONS = (
    ("question", "text", "What was asked."),
    ("outcome", "text", "YES or NO once the game has resolved it, else UNRESOLVED."),
    (
        "chance of YES",
        "float8",
        "Of the pool at the last trade before end or resolution.",
    ),
    ("resolved at", "timestamp", "UTC; empty while it is open."),
    ("volume", "float8", "Traded in the window, $."),
    ("market", "text", "Id of the market."),
    ("flags", "text", "What is uncertain about it."),
)
"""Columns of the outcomes. What the game has not resolved is not known here either: `Question.outcome`, which
holds the answer from the start, is never read. Nothing of these tables goes to W&B.
"""


@dg.asset(
    deps=[trajectories],
    partitions_def=hourly,
    backfill_policy=ONE_DAY_OF_WINDOWS,
    group_name=GROUP,
    owners=OWNERS,
    kinds={"postgres", "wandb"},
    code_version="1",
)
async def market_outcomes(
    context: dg.AssetExecutionContext, postgres: PostgresResource, wandb: WandbResource
):
    """The ground truth of one window: what stocks and prediction markets did, the news, and what the orders
    opened in it were worth at +1 h and +24 h (`rl.outcomes`, `rl.order_value`; projected to the game's
    `market_outcomes`). Repeat it after a resolution or when a horizon has passed; an open window materializes
    with the time at which it settles.
    """
    reports, inputs = [], {}
    with retry_on_lost_database():
        async with postgres.connect(role=JUDGE) as db:
            for window_id in context.partition_keys:
                began = monotonic()
                derived = await derive_window(db, window_id, postgres.settings())
                metadata = _metadata(derived) | {"duration/derive_s": monotonic() - began}
                reports.append(PartitionReport(window_id, derived.digest, metadata))
                if derived.outcomes is not None:
                    inputs[window_id] = {"outcomes": derived.outcomes.sha256}
    link = log_lineage(context, wandb, reports, inputs)
    async for result in materialize_each(context, reports, link):
        yield result


def _metadata(derived: DerivedWindow) -> Metadata:
    outcomes, orders = derived.outcomes, derived.orders
    stocks, predictions = (outcomes.stocks, outcomes.predictions) if outcomes else ([], [])
    moves = [abs(s.change_percent) for s in stocks if s.change_percent is not None]
    first = [order for order in orders if order.horizon == "1h"]
    values = [order.value for order in first if order.value is not None]
    return {
        "status": derived.status,
        "markets/stocks": len(stocks),
        "markets/predictions": len(predictions),
        "markets/resolved": sum(p.resolved_at is not None for p in predictions),
        "markets/unknown": len(outcomes.unknown) if outcomes else 0,
        "markets/news": len(outcomes.news) if outcomes else 0,
        "markets/mean_move_percent": sum(moves) / len(moves) if moves else None,
        "orders/count": len(first),
        "orders/matured": sum(order.matured for order in orders),
        "orders/liquidated": sum(order.liquidated for order in first),
        "orders/mean_value_1h": sum(values) / len(values) if values else None,
        "stocks": table(
            STOCKS,
            [
                (s.ticker, s.start_price, s.end_price, s.change_percent, s.moves, ", ".join(s.flags))
                for s in stocks
            ],
        ),
        "predictions": table(
            PREDICTIONS,
            [
                (p.question, p.outcome, p.final_probability)
                + (f"{p.resolved_at:%Y-%m-%d %H:%M:%S}" if p.resolved_at else None,)
                + (p.volume, p.market_id, ", ".join(p.flags))
                for p in sorted(predictions, key=lambda p: (p.resolved_at is None, -p.volume))
            ],
            limit=20,
        ),
    }
