"""What the orders of a window were worth against the recorded path, at named horizons.

    values = await value_orders(game, rl, "2026-10-01T14:00")        # recorded ones, kept in rl.order_value
    values = await value_hypothetical(game, [HypotheticalOrder(...)])  # what else an agent could have done

A value is what the money was after that time, at liquidation value: what closing would have brought, after
fees; or, if the agent closed it, the engine liquidated it or the market was resolved earlier, what it was
then. Positions opened before the window are not the window's decisions. An order belongs to the window in
which it was opened alone and has one row per horizon, so nothing is paid twice.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import asyncpg
import msgspec

from babylon_rl import windows
from babylon_rl.outcomes.funding import FundingRule
from babylon_rl.outcomes.order_value import DELAY, HORIZONS, RESOLUTION, Clock, OrderValue
from babylon_rl.outcomes.perp_orders import (
    EMPTY_PATH,
    PERPETUAL,
    PerpOrder,
    PricePath,
    load_perpetual_orders,
    load_price_paths,
    price_perpetuals,
)
from babylon_rl.outcomes.perpetuals import (
    PerpValue,
    PricingError,
    liquidation_price,
    normal_side,
    trading_fee,
    value_perpetual,
)
from babylon_rl.outcomes.pool_paths import PoolPath, load_pool_paths
from babylon_rl.outcomes.prediction_orders import (
    PREDICTION,
    PredictionOrder,
    load_prediction_orders,
    price_predictions,
)
from babylon_rl.outcomes.sides import prediction_side
from babylon_rl.outcomes.tickers import TickerAliases, engine_ticker
from babylon_rl.outcomes.touched import window_agents

__all__ = [
    "DELAY",
    "HORIZONS",
    "PERPETUAL",
    "PREDICTION",
    "RESOLUTION",
    "Clock",
    "HypotheticalOrder",
    "OrderValue",
    "PerpOrder",
    "PerpValue",
    "PoolPath",
    "PredictionOrder",
    "PricePath",
    "PricingError",
    "liquidation_price",
    "load_order_values",
    "load_pool_paths",
    "load_price_paths",
    "price_perpetuals",
    "price_predictions",
    "read_clock",
    "trading_fee",
    "value_hypothetical",
    "value_orders",
    "value_perpetual",
]

_FIELDS = (
    *("order_id", "horizon", "agent_id", "window_id", "kind", "instrument", "side", "size"),
    *("opened_at", "value", "matured", "liquidated", "closed_at", "held"),
)
_COLUMNS = ", ".join(_FIELDS)
_UPSERT = f"""
INSERT INTO rl.order_value AS o ({_COLUMNS}, valued_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, now())
ON CONFLICT (order_id, horizon) DO UPDATE
   SET agent_id = excluded.agent_id, window_id = excluded.window_id, kind = excluded.kind,
       instrument = excluded.instrument, side = excluded.side, size = excluded.size,
       opened_at = excluded.opened_at, value = excluded.value, matured = excluded.matured,
       liquidated = excluded.liquidated, closed_at = excluded.closed_at, held = excluded.held,
       valued_at = excluded.valued_at
 WHERE (o.agent_id, o.window_id, o.kind, o.instrument, o.side, o.size, o.opened_at, o.value, o.matured,
        o.liquidated, o.closed_at, o.held)
       IS DISTINCT FROM (excluded.agent_id, excluded.window_id, excluded.kind, excluded.instrument,
                         excluded.side, excluded.size, excluded.opened_at, excluded.value, excluded.matured,
                         excluded.liquidated, excluded.closed_at, excluded.held)
"""


class HypotheticalOrder(msgspec.Struct, frozen=True, kw_only=True):
    """An order that nobody gave, in the words of an agent; amounts in USD."""

    order_id: str
    agent_id: str = ""
    kind: str
    """`perp` or `prediction`."""
    instrument: str
    """Any spelling of a company, or the id of a prediction market."""
    side: str
    """Any spelling of long, short, YES or NO."""
    size: float
    """Notional of a perpetual, gross amount of a prediction."""
    leverage: float = 1.0
    at: datetime


async def value_orders(
    game: asyncpg.Connection,
    rl: asyncpg.Connection,
    window_id: str,
    now: datetime | None = None,
    *,
    delay: timedelta = DELAY,
    funding: FundingRule | None = None,
) -> list[OrderValue]:
    """Values the orders of a window's agents and keeps them in `rl.order_value`.

    Safe to repeat: values are replaced, and orders that the game no longer has are dropped.

    Args:
        game: Connection to the game's database; only reads.
        rl: Connection to the database with schema `rl`; may be the same one.
        window_id: A canonical window id.
        now: Aware time up to which horizons can have passed; by default, the clock's.
        delay: Time after a horizon before its value is final.
        funding: What perpetual positions pay for being held; by default only what the game recorded.

    Raises:
        UnknownWindowError: `window_id` is not a window id.
    """
    start, end = windows.window_range(window_id)
    agents = await window_agents(rl, window_id)
    clock = await read_clock(game, now, delay)
    perpetuals = await load_perpetual_orders(game, agents, await _aliases(game), start, end)
    organizations = sorted({order.organization_id for order in perpetuals})
    paths = await load_price_paths(game, organizations, start, end + max(HORIZONS.values()))
    predictions = await load_prediction_orders(game, agents, start, end)
    pools = await load_pool_paths(game, {order.market_id for order in predictions})
    values = price_perpetuals(perpetuals, paths, clock, funding=funding)
    values += price_predictions(predictions, pools, _with_pools(clock, pools))
    await _store(rl, window_id, values)
    return values


async def value_hypothetical(
    game: asyncpg.Connection,
    orders: Sequence[HypotheticalOrder],
    now: datetime | None = None,
    *,
    delay: timedelta = DELAY,
    funding: FundingRule | None = None,
) -> list[OrderValue]:
    """Values orders that could have been given against what was recorded; nothing is stored.

    A perpetual is entered at the last recorded price of its moment. Every order gets its rows: one that could
    not have been given (an unknown market or side, no price yet, a resolved market) has the value None.

    Args:
        game: Connection to the game's database; only reads.
        orders: In any order, at any time.
        now: Aware time up to which horizons can have passed; by default, the clock's.
        delay: Time after a horizon before its value is final.
        funding: What perpetual positions pay for being held.
    """
    if not orders:
        return []
    clock, aliases = await read_clock(game, now, delay), await _aliases(game)
    first, last = min(order.at for order in orders), max(order.at for order in orders)
    organizations = {o for order in orders if (o := aliases.resolve(order.instrument)) is not None}
    paths = await load_price_paths(game, sorted(organizations), first, last + max(HORIZONS.values()))
    pools = await load_pool_paths(game, {o.instrument for o in orders if o.kind == PREDICTION})
    perpetuals = [_perpetual(order, aliases, paths) for order in orders if order.kind == PERPETUAL]
    predictions = [_prediction(order) for order in orders if order.kind == PREDICTION]
    values = price_perpetuals(perpetuals, paths, clock, funding=funding)
    return values + price_predictions(predictions, pools, _with_pools(clock, pools))


async def load_order_values(rl: asyncpg.Connection, window_id: str) -> list[OrderValue]:
    """Returns what `value_orders` last stored for a window, by agent, time and id."""
    rows = await rl.fetch(
        f"SELECT {_COLUMNS} FROM rl.order_value WHERE window_id = $1"
        " ORDER BY agent_id, opened_at, order_id, horizon",
        window_id,
    )
    return [OrderValue(**row) for row in rows]


async def read_clock(
    game: asyncpg.Connection, now: datetime | None = None, delay: timedelta = DELAY
) -> Clock:
    """Returns how far time has come, by the clock and in the game's recorded prices."""
    newest = await game.fetchval('SELECT max("timestamp") FROM "StockPrice"')
    return Clock(now or datetime.now(UTC), newest, delay)


def _with_pools(clock: Clock, pools: dict[str, PoolPath]) -> Clock:
    """A game without stocks shows in its prediction markets how far it has been recorded."""
    times = [path.times[-1] for path in pools.values() if path.times]
    times += [path.resolved_at for path in pools.values() if path.resolved_at is not None]
    newest = max([*times, *([clock.recorded_until] if clock.recorded_until else [])], default=None)
    return msgspec.structs.replace(clock, recorded_until=newest)


async def _aliases(game: asyncpg.Connection) -> TickerAliases:
    companies = await game.fetch('SELECT "id", "name" FROM "Organization" ORDER BY "id"')
    return TickerAliases([(row["id"], row["name"]) for row in companies])


async def _store(rl: asyncpg.Connection, window_id: str, values: Sequence[OrderValue]) -> None:
    rows = sorted(([getattr(v, name) for name in _FIELDS] for v in values), key=lambda row: row[:2])
    async with rl.transaction():
        await rl.execute(
            "DELETE FROM rl.order_value WHERE window_id = $1 AND order_id <> ALL($2::text[])",
            window_id,
            sorted({value.order_id for value in values}),
        )
        await rl.executemany(_UPSERT, rows)


def _perpetual(order: HypotheticalOrder, aliases: TickerAliases, paths: dict[str, PricePath]) -> PerpOrder:
    organization = aliases.resolve(order.instrument)
    entry = paths.get(organization or "", EMPTY_PATH).at(order.at)
    try:
        side = normal_side(order.side)
    except PricingError:
        side = order.side
    return PerpOrder(
        order_id=order.order_id,
        agent_id=order.agent_id,
        organization_id=organization or order.instrument,
        ticker=engine_ticker(organization or order.instrument),
        side=side,
        size=order.size,
        leverage=order.leverage,
        entry_price=entry if entry is not None else 0.0,  # no price, no value
        opened_at=order.at,
    )


def _prediction(order: HypotheticalOrder) -> PredictionOrder:
    try:
        side = prediction_side(order.side)
    except PricingError:
        side = None
    return PredictionOrder(
        order_id=order.order_id,
        agent_id=order.agent_id,
        market_id=order.instrument,
        side=side,
        amount=order.size,
        opened_at=order.at,
        hypothetical=True,
    )
