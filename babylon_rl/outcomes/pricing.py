"""What the perpetual orders of a window were worth against the recorded price path, at named horizons.

An order is a `PerpPosition` that one of the window's agents opened in the window. Its value at a horizon is
what the money was after that time: the position's liquidation value net of both fees, or, if the agent closed
it or the engine liquidated it earlier, what it was then. Positions opened before the window are not the
window's decisions. An order belongs to the window of its `openedAt` alone and has one row per horizon, so
nothing is paid twice.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta

import asyncpg
import msgspec
import numpy as np

from babylon_rl import windows
from babylon_rl.outcomes.perpetuals import (
    PerpValue,
    PricingError,
    liquidation_price,
    trading_fee,
    value_perpetual,
)
from babylon_rl.outcomes.tickers import TickerAliases, engine_ticker

__all__ = [
    "HORIZONS",
    "OrderValue",
    "PerpOrder",
    "PerpValue",
    "PricePath",
    "PricingError",
    "liquidation_price",
    "load_order_values",
    "load_price_paths",
    "price_orders",
    "trading_fee",
    "value_orders",
    "value_perpetual",
]

HORIZONS = {"1h": timedelta(hours=1), "24h": timedelta(hours=24)}
PERPETUAL = "perp"
DELAY = timedelta(minutes=5)
"""Time that late price rows get before a value counts as final."""

_ORDERS = """
SELECT "id", "userId", "organizationId", "ticker", "side", "size", "leverage", "entryPrice",
       "liquidationPrice", "openedAt", "closedAt"
  FROM "PerpPosition"
 WHERE "openedAt" >= $1 AND "openedAt" < $2 AND "userId" = ANY($3::text[])
 ORDER BY "userId", "openedAt", "id"
"""
# NaN sorts above infinity in PostgreSQL, so one comparison leaves both out.
_PATHS = """
SELECT "organizationId",
       array_agg((extract(epoch FROM "timestamp") * 1000)::bigint ORDER BY "timestamp", "id") AS times,
       array_agg("price" ORDER BY "timestamp", "id") AS prices
  FROM "StockPrice"
 WHERE "organizationId" = ANY($1::text[]) AND "timestamp" > $2 AND "timestamp" <= $3
   AND "price" > 0 AND "price" < 'Infinity'
 GROUP BY "organizationId"
"""
_AGENTS = """
SELECT DISTINCT agent_id FROM rl.window_rows
 WHERE window_id = $1 AND (excluded IS NULL OR excluded = 'test_user') ORDER BY agent_id
"""
_UPSERT = """
INSERT INTO rl.order_value AS o (order_id, horizon, agent_id, window_id, kind, instrument, side, size,
                                 opened_at, value, matured, liquidated, valued_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, now())
ON CONFLICT (order_id, horizon) DO UPDATE
   SET agent_id = excluded.agent_id, window_id = excluded.window_id, kind = excluded.kind,
       instrument = excluded.instrument, side = excluded.side, size = excluded.size,
       opened_at = excluded.opened_at, value = excluded.value, matured = excluded.matured,
       liquidated = excluded.liquidated, valued_at = excluded.valued_at
 WHERE (o.agent_id, o.window_id, o.instrument, o.side, o.size, o.opened_at, o.value, o.matured, o.liquidated)
       IS DISTINCT FROM (excluded.agent_id, excluded.window_id, excluded.instrument, excluded.side,
                         excluded.size, excluded.opened_at, excluded.value, excluded.matured,
                         excluded.liquidated)
"""


class PerpOrder(msgspec.Struct, frozen=True, kw_only=True):
    """A perpetual order as recorded; amounts in USD, times in UTC."""

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


class OrderValue(msgspec.Struct, frozen=True, kw_only=True):
    """What an order was worth at a horizon."""

    order_id: str
    agent_id: str
    window_id: str
    kind: str
    instrument: str
    """Engine ticker of a perpetual."""
    side: str
    size: float
    opened_at: datetime
    horizon: str
    value: float | None
    """USD after fees; None for an order that no rule gives a value to (a size of zero, an unknown side)."""
    matured: bool
    """Whether the horizon has passed in the recorded prices, so that the value is final."""
    liquidated: bool


class PricePath(msgspec.Struct):
    """Recorded prices of one organization, both of shape `(ticks,)`, in time order."""

    times: np.ndarray
    """Milliseconds since 1970 in UTC."""
    prices: np.ndarray

    def between(self, after: datetime, until: datetime) -> np.ndarray:
        """Returns the prices later than `after` and not later than `until`."""
        first, last = np.searchsorted(self.times, [_milliseconds(after), _milliseconds(until)], side="right")
        return self.prices[first:last]


EMPTY_PATH = PricePath(np.empty(0, np.int64), np.empty(0))


def price_orders(
    orders: Iterable[PerpOrder],
    paths: Mapping[str, PricePath],
    *,
    now: datetime,
    recorded_until: datetime | None,
    delay: timedelta = DELAY,
) -> list[OrderValue]:
    """Values orders at every horizon.

    Args:
        orders: Recorded or hypothetical orders.
        paths: Price path by organization id; without one, the price counts as unchanged.
        now: Aware time up to which horizons can have passed.
        recorded_until: Time of the newest price of the game; a horizon beyond it has not matured, whatever
        the
            clock says.
        delay: Time after a horizon before its value is final.
    """
    values = []
    for order in orders:
        path = paths.get(order.organization_id, EMPTY_PATH)
        for horizon, length in HORIZONS.items():
            end = order.opened_at + length
            if order.closed_at is not None:
                end = max(order.opened_at, min(end, order.closed_at))
            known = recorded_until is not None and recorded_until >= end
            worth = _worth(order, path.between(order.opened_at, end))
            values.append(
                OrderValue(
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
                    matured=known and now >= end + delay,
                    liquidated=worth.liquidated if worth else False,
                )
            )
    return values


async def value_orders(
    game: asyncpg.Connection,
    rl: asyncpg.Connection,
    window_id: str,
    now: datetime | None = None,
    *,
    delay: timedelta = DELAY,
) -> list[OrderValue]:
    """Values the perpetual orders of a window's agents and keeps them in `rl.order_value`.

    Safe to repeat: values are replaced, and orders that the game no longer has are dropped.

    Args:
        game: Connection to the game's database; only reads.
        rl: Connection to the database with schema `rl`; may be the same one.
        window_id: A canonical window id.
        now: Aware time up to which horizons can have passed; by default, the clock's.
        delay: Time after a horizon before its value is final.

    Raises:
        UnknownWindowError: `window_id` is not a window id.
    """
    start, end = windows.window_range(window_id)
    agents = [row["agent_id"] for row in await rl.fetch(_AGENTS, window_id)]
    companies = await game.fetch('SELECT "id", "name" FROM "Organization" ORDER BY "id"')
    aliases = TickerAliases([(row["id"], row["name"]) for row in companies])
    orders = [_order(row, aliases) for row in await game.fetch(_ORDERS, start, end, agents)]
    organizations = sorted({order.organization_id for order in orders})
    values = price_orders(
        orders,
        await load_price_paths(game, organizations, start, end + max(HORIZONS.values())),
        now=now or datetime.now(UTC),
        recorded_until=await game.fetchval('SELECT max("timestamp") FROM "StockPrice"'),
        delay=delay,
    )
    await _store(rl, window_id, values)
    return values


async def load_order_values(rl: asyncpg.Connection, window_id: str) -> list[OrderValue]:
    """Returns what `value_orders` last stored for a window, by agent, time and id."""
    rows = await rl.fetch(
        "SELECT order_id, agent_id, window_id, kind, instrument, side, size, opened_at, horizon, value,"
        " matured, liquidated FROM rl.order_value WHERE window_id = $1"
        " ORDER BY agent_id, opened_at, order_id, horizon",
        window_id,
    )
    return [OrderValue(**row) for row in rows]


async def load_price_paths(
    game: asyncpg.Connection, organizations: Sequence[str], after: datetime, until: datetime
) -> dict[str, PricePath]:
    """Returns the recorded prices later than `after` and not later than `until`, by organization id."""
    rows = await game.fetch(_PATHS, list(organizations), after, until)
    return {
        row["organizationId"]: PricePath(
            np.array(row["times"], np.int64), np.array(row["prices"], np.float64)
        )
        for row in rows
    }


async def _store(rl: asyncpg.Connection, window_id: str, values: Sequence[OrderValue]) -> None:
    async with rl.transaction():
        await rl.execute(
            "DELETE FROM rl.order_value WHERE window_id = $1 AND kind = $2 AND order_id <> ALL($3::text[])",
            window_id,
            PERPETUAL,
            [value.order_id for value in values],
        )
        await rl.executemany(
            _UPSERT,
            [
                (v.order_id, v.horizon, v.agent_id, v.window_id, v.kind, v.instrument, v.side, v.size)
                + (v.opened_at, v.value, v.matured, v.liquidated)
                for v in values
            ],
        )


def _order(row: asyncpg.Record, aliases: TickerAliases) -> PerpOrder:
    organization = aliases.resolve(row["organizationId"]) or aliases.resolve(row["ticker"])
    liquidation = row["liquidationPrice"]
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
    )


def _worth(order: PerpOrder, prices: np.ndarray) -> PerpValue | None:
    try:
        return value_perpetual(
            order.side, order.size, order.leverage, order.entry_price, prices, liquidation=order.liquidation
        )
    except PricingError:
        return None


def _milliseconds(moment: datetime) -> int:
    # Not timestamp(): its float cannot hold every millisecond exactly.
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
