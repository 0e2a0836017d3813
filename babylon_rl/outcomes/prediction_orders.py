"""Orders on prediction markets against the recorded path, at liquidation value.

A recorded order is an `AgentTrade`, or a `Position` that no trade explains; its own impact is in the recorded
reserves. A hypothetical order is bought into the reserves of its moment and carried through the others'
trades, so that its own impact stays with it. Both are worth what selling the shares would bring, less fees,
or what the resolution paid if it came before; shares that the agent sold earlier count with what they
brought, oldest first.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta

import asyncpg
import msgspec

from babylon_rl import windows
from babylon_rl.outcomes.cpmm import FEE_RATE, bought, sold
from babylon_rl.outcomes.order_value import HORIZONS, RESOLUTION, Clock, OrderValue
from babylon_rl.outcomes.perpetuals import PricingError
from babylon_rl.outcomes.pool_paths import PoolPath
from babylon_rl.outcomes.sides import prediction_side

PREDICTION = "prediction"
DUST = 1e-9
"""Shares below this are rounding."""

_SAME_TRADE = timedelta(minutes=2)
"""How far apart the game writes a trade and the position that it makes."""

_TRADES = """
SELECT "id", "agentUserId", "marketId", lower("action") AS action, "side", "amount", "price", "executedAt"
  FROM "AgentTrade"
 WHERE "marketType" = 'prediction' AND "marketId" IS NOT NULL AND "agentUserId" = ANY($1::text[])
   AND ($2::text[] IS NULL OR "marketId" = ANY($2::text[]))
   AND ($3::timestamp IS NULL OR "executedAt" >= $3) AND ($4::timestamp IS NULL OR "executedAt" < $4)
 ORDER BY "executedAt", "id"
"""
_POSITIONS = """
SELECT "id", "userId", "marketId", "side", "shares"::float8 AS shares, "avgPrice"::float8 AS price,
       "amount"::float8 AS amount, "createdAt"
  FROM "Position"
 WHERE "userId" = ANY($1::text[]) AND "createdAt" >= $2 AND "createdAt" < $3
 ORDER BY "userId", "createdAt", "id"
"""


class Sale(msgspec.Struct, frozen=True):
    """Shares of an order that the agent sold before the market was resolved."""

    at: datetime
    shares: float
    proceeds: float
    """USD after the fee."""


class PredictionOrder(msgspec.Struct, frozen=True, kw_only=True):
    """A purchase of shares, recorded or hypothetical; amounts in USD, times in UTC."""

    order_id: str
    agent_id: str
    market_id: str
    side: bool | None
    """True for YES; None for a spelling that is no side."""
    amount: float
    """What was paid, with the fee."""
    opened_at: datetime
    shares: float | None = None
    """What a recorded order got; None for a hypothetical one."""
    hypothetical: bool = False
    sales: Sequence[Sale] = ()


def price_predictions(
    orders: Iterable[PredictionOrder], paths: Mapping[str, PoolPath], clock: Clock
) -> list[OrderValue]:
    """Values orders at +1 h, +24 h and resolution.

    Args:
        orders: Recorded or hypothetical orders.
        paths: The markets' paths by id; without one, an order has no value.
        clock: How far time has come.
    """
    return [
        _value_at(order, paths.get(order.market_id), horizon, clock)
        for order in orders
        for horizon in (*HORIZONS, RESOLUTION)
    ]


async def load_prediction_orders(
    game: asyncpg.Connection, agents: Sequence[str], start: datetime, end: datetime
) -> list[PredictionOrder]:
    """Returns the orders that agents opened on prediction markets in `[start, end)`, by agent, time, id."""
    inside = await game.fetch(_TRADES, list(agents), None, start, end)
    opened = [row for row in inside if row["action"] == "open"]
    markets = sorted({row["marketId"] for row in opened})
    history = await game.fetch(_TRADES, list(agents), markets, None, None) if markets else []
    orders = [order for order in _with_sales(history) if start <= order.opened_at < end]
    for row in await game.fetch(_POSITIONS, list(agents), start, end):
        if not _is_explained(row, inside):
            orders.append(_of_position(row))
    return sorted(orders, key=lambda order: (order.agent_id, order.opened_at, order.order_id))


def _value_at(order: PredictionOrder, path: PoolPath | None, horizon: str, clock: Clock) -> OrderValue:
    reached = order.opened_at + HORIZONS[horizon] if horizon in HORIZONS else None
    resolved_at = path.resolved_at if path is not None and path.answer is not None else None
    if resolved_at is not None and (reached is None or resolved_at <= reached):
        reached = max(resolved_at, order.opened_at)
    sold_out = _sold_out(order)
    end = sold_out if sold_out is not None and (reached is None or sold_out < reached) else reached
    closed_at = max((sale.at for sale in order.sales if reached is None or sale.at < reached), default=None)
    held = None
    if closed_at is not None and reached is not None and clock.has_passed(reached) and path is not None:
        held = _worth(msgspec.structs.replace(order, sales=()), path, reached)
    return OrderValue(
        order_id=order.order_id,
        agent_id=order.agent_id,
        window_id=windows.window_id_at(order.opened_at),
        kind=PREDICTION,
        instrument=order.market_id,
        side={True: "yes", False: "no", None: "unknown"}[order.side],
        size=order.amount,
        opened_at=order.opened_at,
        horizon=horizon,
        value=_worth(order, path, end) if path is not None and end is not None else None,
        matured=end is not None and clock.has_passed(end),
        liquidated=False,
        closed_at=closed_at,
        held=held,
    )


def _worth(order: PredictionOrder, path: PoolPath, end: datetime) -> float | None:
    """USD that the order has brought at `end`, in its resolution, its sales, and a sale of what is left."""
    if order.side is None or not 0 < order.amount < float("inf"):
        return None
    try:
        own, shares = _bought(order, path)
        money = -order.amount
        for sale in order.sales:
            if sale.at <= end:
                shares, money = shares - sale.shares, money + sale.proceeds
        if shares <= DUST:
            return money
        if path.resolved_by(end):
            return money + (shares if path.answer == order.side else 0.0)
        pool = path.at(end) if own is None else path.carry(own, order.opened_at, end)
        if pool is None:
            return None
        _, proceeds = sold(pool, order.side, shares)
        return money + proceeds * (1 - FEE_RATE)
    except PricingError:
        return None


def _bought(order: PredictionOrder, path: PoolPath):
    """The pool with a hypothetical order in it (None for a recorded one) and the shares of the order."""
    if not order.hypothetical:
        if order.shares is None or not 0 < order.shares < float("inf"):
            raise PricingError(
                f"order {order.order_id} has no shares", "Its price must be a positive number."
            )
        return None, order.shares
    pool = path.at(order.opened_at)
    if pool is None or order.side is None or path.resolved_by(order.opened_at):
        raise PricingError(f"market {order.market_id} was not open", "Choose a moment at which it was.")
    return bought(pool, order.side, order.amount * (1 - FEE_RATE))


def _sold_out(order: PredictionOrder) -> datetime | None:
    """When the agent had sold all shares of a recorded order; None if it kept some."""
    if order.shares is None or not order.sales:
        return None
    left = order.shares - sum(sale.shares for sale in order.sales)
    return max(sale.at for sale in order.sales) if left <= DUST else None


def _with_sales(trades: Sequence[asyncpg.Record]) -> list[PredictionOrder]:
    """The orders of trades in time order; what was sold counts against the oldest shares first."""
    orders: dict[str, PredictionOrder] = {}
    left: dict[tuple[str, str, bool | None], list[tuple[str, float]]] = defaultdict(list)
    sales: dict[str, list[Sale]] = defaultdict(list)
    for row in trades:
        side = _side(row["side"])
        queue = left[row["agentUserId"], row["marketId"], side]
        if row["action"] == "open":
            order = _of_trade(row, side)
            orders[order.order_id] = order
            if order.shares is not None:
                queue.append((order.order_id, order.shares))
        elif row["action"] == "close" and row["price"] > 0 and row["amount"] > 0:
            _sell(queue, sales, row)
    return [msgspec.structs.replace(order, sales=tuple(sales[order.order_id])) for order in orders.values()]


def _sell(queue: list[tuple[str, float]], sales: dict[str, list[Sale]], row: asyncpg.Record) -> None:
    remaining = row["amount"] / row["price"]
    while queue and remaining > DUST:
        order_id, held = queue[0]
        taken = min(held, remaining)
        sales[order_id].append(Sale(row["executedAt"], taken, taken * row["price"] * (1 - FEE_RATE)))
        remaining -= taken
        if held - taken > DUST:
            queue[0] = (order_id, held - taken)
        else:
            queue.pop(0)


def _of_trade(row: asyncpg.Record, side: bool | None) -> PredictionOrder:
    price, amount = row["price"], row["amount"]
    # The recorded price is what a share cost, which may exceed 1; it is not the displayed probability.
    shares = amount * (1 - FEE_RATE) / price if 0 < price < float("inf") else None
    return PredictionOrder(
        order_id=row["id"],
        agent_id=row["agentUserId"],
        market_id=row["marketId"],
        side=side,
        amount=amount,
        opened_at=row["executedAt"],
        shares=shares,
    )


def _of_position(row: asyncpg.Record) -> PredictionOrder:
    price = row["price"]
    # A resolved position has no shares any more, but what they had cost.
    shares = row["shares"] if row["shares"] > 0 else (row["amount"] / price if price > 0 else 0.0)
    return PredictionOrder(
        order_id=row["id"],
        agent_id=row["userId"],
        market_id=row["marketId"],
        side=row["side"],
        amount=shares * price / (1 - FEE_RATE),
        opened_at=row["createdAt"],
        shares=shares,
    )


def _is_explained(position: asyncpg.Record, trades: Sequence[asyncpg.Record]) -> bool:
    return any(
        (trade["agentUserId"], trade["marketId"], _side(trade["side"]))
        == (position["userId"], position["marketId"], position["side"])
        and abs(trade["executedAt"] - position["createdAt"]) <= _SAME_TRADE
        for trade in trades
    )


def _side(spelling: str | None) -> bool | None:
    try:
        return prediction_side(spelling or "")
    except PricingError:
        return None
