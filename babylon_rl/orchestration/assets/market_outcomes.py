"""`market_outcomes`: what the markets did in a window: the ground truth that its agents did not know."""

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
    markdown_table,
    materialize_each,
    numbers,
)
from babylon_rl.orchestration.resources import JUDGE, PostgresResource, WandbResource
from babylon_rl.orchestration.window_steps import DerivedWindow, derive_window


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
                derived = await derive_window(db, window_id, postgres.settings())
                reports.append(PartitionReport(window_id, derived.digest, _metadata(derived)))
                if derived.outcomes is not None:
                    inputs[window_id] = {"outcomes": derived.outcomes.sha256}
    log_lineage(context, wandb, reports, inputs)
    async for result in materialize_each(context, reports):
        yield result


def _metadata(derived: DerivedWindow) -> Metadata:
    outcomes, orders = derived.outcomes, derived.orders
    stocks = outcomes.stocks if outcomes else []
    moves = [abs(s.change_percent) for s in stocks if s.change_percent is not None]
    first = [order for order in orders if order.horizon == "1h"]
    values = [order.value for order in first if order.value is not None]
    return {
        "status": derived.status,
        "markets/stocks": len(stocks),
        "markets/resolved": sum(p.resolved_at is not None for p in outcomes.predictions) if outcomes else 0,
        "markets/news": len(outcomes.news) if outcomes else 0,
        "orders/count": len(first),
        "orders/matured": sum(order.matured for order in orders),
        "orders/liquidated": sum(order.liquidated for order in first),
        **numbers(
            {
                "markets/mean_move_percent": sum(moves) / len(moves) if moves else None,
                "orders/mean_value_1h": sum(values) / len(values) if values else None,
            }
        ),
        "stocks": markdown_table(
            ("stock", "start", "end", "change %", "moves", "flags"),
            [
                (s.ticker, s.start_price, s.end_price, s.change_percent, s.moves, ", ".join(s.flags))
                for s in stocks
            ],
        ),
    }
