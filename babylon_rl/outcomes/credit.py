"""Credit across windows: a market's resolution belongs to the window in which it was resolved, its pay to the
windows in which it was traded.

Markets are resolved about three days after their trades, so the values of orders become final long after
their window was processed. `credit_windows` brings them up to date, by market id; `load_known_values` says
what the orders are worth by now, and `training.residuals` pays the difference to what they were paid for.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import asyncpg
import msgspec

from babylon_rl.outcomes.market import load_outcomes
from babylon_rl.outcomes.order_value import DELAY, HORIZONS, OrderValue
from babylon_rl.outcomes.pricing import load_order_values, read_clock, value_orders
from babylon_rl.outcomes.window_outcomes import PredictionOutcome, WindowOutcomes

_NEVER = datetime(1970, 1, 3, tzinfo=UTC)
WINDOWS_AT_ONCE = 48
"""Windows that one call values again; the others wait for the next."""

# Orders whose time has come since they were valued, and those of markets that were resolved (or corrected).
_WINDOWS = """
SELECT window_id
  FROM (SELECT window_id, opened_at FROM rl.order_value
         WHERE NOT matured AND horizon = '1h' AND opened_at <= $1
        UNION ALL
        SELECT window_id, opened_at FROM rl.order_value
         WHERE NOT matured AND horizon = '24h' AND opened_at <= $2
        UNION ALL
        SELECT o.window_id, o.opened_at
          FROM (SELECT market_id, max(as_of) AS as_of FROM rl.market_resolutions GROUP BY market_id) r
          JOIN rl.order_value o ON o.instrument = r.market_id AND o.horizon = 'resolution'
         WHERE r.as_of > o.valued_at) due
 GROUP BY window_id ORDER BY max(opened_at) DESC LIMIT $3
"""
_STALE = """
UPDATE rl.recorded_windows SET settled = false, stale_reason = $2 WHERE window_id = $1 AND settled
"""
_LOOKED_AT = """
UPDATE rl.order_value SET valued_at = now() WHERE window_id = $1 AND horizon = 'resolution'
"""
# What its market's resolution made of an order, once that is known, else what it was worth at the horizon.
_KNOWN = """
SELECT paid.order_id, paid.agent_id, paid.window_id, paid.instrument,
       CASE WHEN resolved.order_id IS NULL THEN paid.value ELSE resolved.value END AS value,
       resolved.order_id IS NOT NULL AS resolved
  FROM rl.order_value paid
  LEFT JOIN rl.order_value resolved
         ON resolved.order_id = paid.order_id AND resolved.horizon = 'resolution'
        AND resolved.matured AND resolved.value IS NOT NULL
        AND EXISTS (SELECT FROM rl.market_resolutions known WHERE known.market_id = paid.instrument)
 WHERE paid.horizon = $2 AND paid.window_id = ANY($1::text[])
 ORDER BY paid.window_id, paid.agent_id, paid.order_id
"""
_RESOLVED = """
SELECT DISTINCT ON (market_id) market_id, outcome FROM rl.market_resolutions
 WHERE market_id = ANY($1::text[]) AND ($2::timestamptz IS NULL OR as_of <= $2)
 ORDER BY market_id, as_of DESC, id DESC
"""


class KnownValue(msgspec.Struct, frozen=True, kw_only=True):
    """What an order is worth as far as is known."""

    order_id: str
    agent_id: str
    window_id: str
    instrument: str
    value: float | None
    """USD, after its market's resolution if that is known, else at the training horizon."""
    resolved: bool
    """Whether its market is known to be resolved."""


async def credit_windows(
    game: asyncpg.Connection,
    rl: asyncpg.Connection,
    now: datetime | None = None,
    *,
    delay: timedelta = DELAY,
    horizon: str = "1h",
) -> list[str]:
    """Values the orders again whose horizon has passed or whose market was resolved since; returns windows.

    Args:
        game: Connection to the game's database; only reads.
        rl: Connection to the database with schema `rl`; may be the same one.
        now: Aware time up to which horizons can have passed; by default, the clock's.
        delay: Time after a horizon before its value is final.
        horizon: The training horizon: a change of its values makes a scored window stale.
    """
    clock = await read_clock(game, now, delay)
    now, until = clock.now, min(clock.now - delay, clock.recorded_until or _NEVER)
    due = [max(_NEVER, until - HORIZONS[name]) for name in ("1h", "24h")]
    found = [row["window_id"] for row in await rl.fetch(_WINDOWS, *due, WINDOWS_AT_ONCE)]
    for window_id in found:
        _, reasons = await value_again(game, rl, window_id, now, delay=delay, horizon=horizon)
        await mark_stale(rl, window_id, reasons)
        # Looked at, even where nothing has changed: an order may have lost its position.
        await rl.execute(_LOOKED_AT, window_id)
    return sorted(found)


async def value_again(
    game: asyncpg.Connection,
    rl: asyncpg.Connection,
    window_id: str,
    now: datetime,
    *,
    delay: timedelta = DELAY,
    horizon: str = "1h",
) -> tuple[list[OrderValue], list[str]]:
    """Values a window's orders; returns the values, and in words what differs from those that were paid."""
    before = await load_order_values(rl, window_id)
    values = await value_orders(game, rl, window_id, now, delay=delay)
    differing = _of_horizon(before, horizon) ^ _of_horizon(values, horizon)
    orders = len({value.order_id for value in differing})
    return values, [f"the values of {orders} orders at +{horizon} changed"] if orders else []


async def mark_stale(rl: asyncpg.Connection, window_id: str, reasons: Sequence[str]) -> bool:
    """Notes why a window's verdict is not the last word; returns whether it had one."""
    if not reasons:
        return False
    return await rl.execute(_STALE, window_id, "; ".join(reasons)) == "UPDATE 1"


async def load_known_values(
    rl: asyncpg.Connection, window_ids: Sequence[str], horizon: str = "1h"
) -> list[KnownValue]:
    """Returns what the orders of some windows are worth by now, by window, agent and order.

    What was paid for an order that is not resolved yet stays what it is; so nothing is paid twice by whoever
    pays the difference of these values to all that was paid before.

    Args:
        rl: Connection to the database with schema `rl`, as the judge's role.
        window_ids: Windows, for example those of a trained day.
        horizon: The training horizon at which they were paid first.
    """
    return [KnownValue(**row) for row in await rl.fetch(_KNOWN, list(window_ids), horizon)]


async def load_resolved_outcomes(
    rl: asyncpg.Connection, window_id: str, market_ids: Sequence[str] = ()
) -> WindowOutcomes:
    """Returns a window's outcomes with the resolutions that became known later.

    Args:
        rl: Connection to the database with schema `rl`, as the judge's role.
        window_id: A canonical window id.
        market_ids: Markets whose resolutions are wanted besides those of the window's outcomes.
    """
    outcomes = await load_outcomes(rl, window_id)
    outcomes = outcomes or WindowOutcomes(window_id=window_id, stocks=[], predictions=[], news=[])
    listed = [market.market_id for market in outcomes.predictions]
    answers = await load_resolutions(rl, [*listed, *market_ids])
    others = sorted(answers.keys() - set(listed))
    predictions = [
        *(
            msgspec.structs.replace(market, outcome=answers.get(market.market_id, market.outcome))
            for market in outcomes.predictions
        ),
        *(_unlisted(market_id, answers[market_id]) for market_id in others),
    ]
    return msgspec.structs.replace(outcomes, predictions=predictions)


async def load_resolutions(
    rl: asyncpg.Connection, market_ids: Sequence[str], as_of: datetime | None = None
) -> dict[str, str]:
    """Returns YES or NO by market id, for the markets that were known to be resolved at a moment.

    Args:
        rl: Connection to the database with schema `rl`, as the judge's role.
        market_ids: Markets.
        as_of: Aware moment at which it was known; by default, now.
    """
    rows = await rl.fetch(_RESOLVED, list(market_ids), as_of)
    return {row["market_id"]: row["outcome"] for row in rows}


def _unlisted(market_id: str, answer: str) -> PredictionOutcome:
    return PredictionOutcome(
        market_id=market_id,
        question="",
        outcome=answer,
        final_probability=float(answer == "YES"),
        resolved_at=None,
        flags=[],
    )


def _of_horizon(values: Sequence[OrderValue], horizon: str) -> set[OrderValue]:
    """What was paid: how a value is shared between opening and closing an order is no part of it."""
    paid = (value for value in values if value.horizon == horizon)
    return {msgspec.structs.replace(value, closed_at=None, held=None) for value in paid}
