"""Perpetual orders against the recorded price path.

An order is a `PerpPosition` that was opened, or one that could have been. The recorded path is taken as it
is: the game erases what users' perpetual trades do to a price at its next tick, so an order marks itself
neither up nor down.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

import asyncpg
import msgspec
import numpy as np

from babylon_rl import windows
from babylon_rl.outcomes.funding import FundingRule
from babylon_rl.outcomes.order_value import HORIZONS, Clock, OrderValue, milliseconds
from babylon_rl.outcomes.perpetuals import PerpValue, PricingError, value_perpetual
from babylon_rl.outcomes.tickers import TickerAliases, engine_ticker

PERPETUAL = "perp"

_ORDERS = """
SELECT "id", "userId", "organizationId", "ticker", "side", "size", "leverage", "entryPrice",
       "liquidationPrice", "fundingPaid", "openedAt", "closedAt"
  FROM "PerpPosition"
 WHERE "openedAt" >= $1 AND "openedAt" < $2 AND "userId" = ANY($3::text[])
 ORDER BY "userId", "openedAt", "id"
"""
# NaN sorts above infinity in PostgreSQL, so one comparison leaves both out. The last price before the range
# is the one at which it begins.
_PATHS = """
SELECT p."organizationId",
       array_agg((extract(epoch FROM p."timestamp") * 1000)::bigint ORDER BY p."timestamp", p."id") AS times,
       array_agg(p."price" ORDER BY p."timestamp", p."id") AS prices
  FROM unnest($1::text[]) AS organization
  CROSS JOIN LATERAL (
       (SELECT "id", "organizationId", "timestamp", "price" FROM "StockPrice"
         WHERE "organizationId" = organization AND "timestamp" <= $2 AND "price" > 0 AND "price" < 'Infinity'
         ORDER BY "timestamp" DESC, "id" DESC LIMIT 1)
       UNION ALL
       (SELECT "id", "organizationId", "timestamp", "price" FROM "StockPrice"
         WHERE "organizationId" = organization AND "timestamp" > $2 AND "timestamp" <= $3
           AND "price" > 0 AND "price" < 'Infinity')) p
 GROUP BY p."organizationId"
"""


class PerpOrder(msgspec.Struct, frozen=True, kw_only=True):
    """A perpetual order, recorded or hypothetical; amounts in USD, times in UTC."""

    order_id: str
    agent_id: str
    organization_id: str
    ticker: str
    side: str
    size: float
    """Notional."""
    leverage: float
    entry_price: float
    opened_at: datetime
    closed_at: datetime | None = None
    liquidation: float | None = None
    funding_paid: float = 0.0
    """What the game charged a position until it was closed."""


class PricePath(msgspec.Struct):
    """Recorded prices of one organization, both of shape `(ticks,)`, in time order."""

    times: np.ndarray
    """Milliseconds since 1970 in UTC."""
    prices: np.ndarray

    def between(self, after: datetime, until: datetime) -> np.ndarray:
        """Returns the prices later than `after` and not later than `until`."""
        first, last = np.searchsorted(self.times, [milliseconds(after), milliseconds(until)], side="right")
        return self.prices[first:last]

    def at(self, moment: datetime) -> float | None:
        """Returns the last price not later than a moment, or None before the first."""
        last = int(np.searchsorted(self.times, milliseconds(moment), side="right"))
        return float(self.prices[last - 1]) if last else None


EMPTY_PATH = PricePath(np.empty(0, np.int64), np.empty(0))


def price_perpetuals(
    orders: Iterable[PerpOrder],
    paths: Mapping[str, PricePath],
    clock: Clock,
    *,
    funding: FundingRule | None = None,
) -> list[OrderValue]:
    """Values orders at +1 h and +24 h.

    Args:
        orders: Recorded or hypothetical orders.
        paths: Price path by organization id; without one, the price counts as unchanged.
        clock: How far time has come.
        funding: What positions pay for being held; by default only what the game recorded.
    """
    return [
        _value_at(order, paths.get(order.organization_id, EMPTY_PATH), horizon, clock, funding)
        for order in orders
        for horizon in HORIZONS
    ]


async def load_perpetual_orders(
    game: asyncpg.Connection, agents: Sequence[str], aliases: TickerAliases, start: datetime, end: datetime
) -> list[PerpOrder]:
    """Returns the positions that agents opened in `[start, end)`, by agent, time and id."""
    return [_order(row, aliases) for row in await game.fetch(_ORDERS, start, end, list(agents))]


async def load_price_paths(
    game: asyncpg.Connection, organizations: Sequence[str], after: datetime, until: datetime
) -> dict[str, PricePath]:
    """Returns the recorded prices from the last one at `after` to `until`, by organization id."""
    rows = await game.fetch(_PATHS, list(organizations), after, until)
    return {
        row["organizationId"]: PricePath(
            np.array(row["times"], np.int64), np.array(row["prices"], np.float64)
        )
        for row in rows
    }


def _value_at(
    order: PerpOrder, path: PricePath, horizon: str, clock: Clock, funding: FundingRule | None
) -> OrderValue:
    reached = end = order.opened_at + HORIZONS[horizon]
    closed = order.closed_at is not None and order.closed_at <= end
    if order.closed_at is not None and closed:
        end = max(order.opened_at, order.closed_at)
    worth = _worth(order, path.between(order.opened_at, end), _funding(order, end, closed, funding))
    early = closed and end < reached and worth is not None and not worth.liquidated
    held = None
    if early and clock.has_passed(reached):
        prices = path.between(order.opened_at, reached)
        held = _worth(order, prices, _funding(order, reached, False, funding))
    return OrderValue(
        order_id=order.order_id,
        agent_id=order.agent_id,
        window_id=windows.window_id_at(order.opened_at),
        kind=PERPETUAL,
        instrument=order.ticker,
        side=order.side,
        size=order.size,
        opened_at=order.opened_at,
        horizon=horizon,
        value=worth.value if worth else None,
        matured=clock.has_passed(end),
        liquidated=worth.liquidated if worth else False,
        closed_at=end if early else None,
        held=held.value if held else None,
    )


def _order(row: asyncpg.Record, aliases: TickerAliases) -> PerpOrder:
    organization = aliases.resolve(row["organizationId"]) or aliases.resolve(row["ticker"])
    liquidation, funding = row["liquidationPrice"], row["fundingPaid"]
    return PerpOrder(
        order_id=row["id"],
        agent_id=row["userId"],
        organization_id=organization or row["organizationId"],
        ticker=engine_ticker(organization or row["ticker"]),
        side=row["side"].strip().lower(),
        size=row["size"],
        leverage=row["leverage"],
        entry_price=row["entryPrice"],
        opened_at=row["openedAt"],
        closed_at=row["closedAt"],
        liquidation=liquidation if 0 < liquidation < float("inf") else None,
        funding_paid=funding if abs(funding) < float("inf") else 0.0,
    )


def _funding(order: PerpOrder, end: datetime, closed: bool, rule: FundingRule | None) -> float:
    if closed and order.funding_paid:
        return order.funding_paid
    return rule(order.side, order.size, order.opened_at, end) if rule else 0.0


def _worth(order: PerpOrder, prices: np.ndarray, funding: float) -> PerpValue | None:
    try:
        return value_perpetual(
            order.side,
            order.size,
            order.leverage,
            order.entry_price,
            prices,
            liquidation=order.liquidation,
            funding=funding,
        )
    except PricingError:
        return None
