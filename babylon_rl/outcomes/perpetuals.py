"""What a perpetual position was worth against a price path: Babylon's rules as a pure function.

    value_perpetual("long", size=500, leverage=10, entry_price=100, prices=[101, 103]).value   # 15 - 1 of
    fees

Rules of the game: profit is the relative price move times the notional size, without the leverage; 0.1 % of
the size is paid at opening and again at closing, rounded to cents; the margin is size / leverage; once the
price is at or through the liquidation price, the margin is lost. Settlement never takes more than the margin.
Funding exists in the game's code but is never charged: what is paid is an argument (`outcomes.funding`).
"""

import math
from collections.abc import Sequence

import msgspec
import numpy as np

from babylon_rl.errors import BabylonError

FEE_RATE = 0.001
"""Share of the notional size, at opening and again at closing."""

LIQUIDATION_SHARE = 0.9
"""Share of the margin whose loss, as a price move, liquidates."""

SIDES = {"long": 1.0, "short": -1.0}


class PricingError(BabylonError):
    """An order or a price that Babylon's rules give no value to."""


class PerpValue(msgspec.Struct, frozen=True):
    """Worth of a position if closed at the end of its path; amounts in USD."""

    value: float
    """Profit or loss after the fees of opening and closing; at least minus margin and opening fee."""
    pnl: float
    """The same before fees, after funding."""
    fees: float
    liquidated: bool
    exit_price: float
    """Price of the last tick, or of the one that liquidated."""


def normal_side(side: str) -> str:
    """Returns `long` or `short` for any case of them, and for `open_long` and `open_short`.

    Raises:
        PricingError: It is neither.
    """
    normal = side.strip().lower().removeprefix("open_")
    if normal not in SIDES:
        raise PricingError(f"{side!r} is no side of a perpetual", "Use long or short.")
    return normal


def liquidation_price(side: str, entry_price: float, leverage: float) -> float:
    """Returns the price at which the engine liquidates: `entry * (1 -+ 0.9 / leverage)`."""
    return entry_price * (1 - SIDES[normal_side(side)] * LIQUIDATION_SHARE / leverage)


def trading_fee(size: float, fee_rate: float = FEE_RATE) -> float:
    """Returns the fee of one opening or closing, rounded to cents as JavaScript's `Math.round` does."""
    return math.floor(size * fee_rate * 100 + 0.5) / 100


def value_perpetual(
    side: str,
    size: float,
    leverage: float,
    entry_price: float,
    prices: Sequence[float] | np.ndarray,
    *,
    liquidation: float | None = None,
    fee_rate: float = FEE_RATE,
    funding: float = 0.0,
) -> PerpValue:
    """Values a position that is closed at the last price of `prices`, unless it is liquidated before.

    Args:
        side: `long` or `short`.
        size: Notional in USD.
        leverage: At least 1; the margin is `size / leverage`.
        entry_price: Price at opening.
        prices: Prices after opening in time order, shape `(ticks,)`; empty means that the price did not move.
        liquidation: Liquidation price, if it differs from the engine's formula (NPC positions).
        fee_rate: Share of `size` per opening or closing.
        funding: USD paid until the end of the path; negative if received.

    Raises:
        PricingError: A number is not finite or not positive, or the side is unknown.
    """
    sign = SIDES[normal_side(side)]
    path = np.asarray(prices, dtype=np.float64)
    for name, number in (("size", size), ("leverage", leverage), ("entry price", entry_price)):
        if not (math.isfinite(number) and number > 0):
            raise PricingError(f"{name} {number} of an order", "It must be a positive number.")
    if not math.isfinite(funding):
        raise PricingError(f"funding {funding} of an order", "It must be a number.")
    if path.size and not (np.isfinite(path).all() and path.min() > 0):
        raise PricingError("a price path with prices that are no positive numbers", "Leave such ticks out.")

    margin, fee = size / leverage, trading_fee(size, fee_rate)
    limit = liquidation if liquidation is not None else liquidation_price(side, entry_price, leverage)
    through = path <= limit if sign > 0 else path >= limit
    if through.any():
        exit_price = float(path[int(through.argmax())])
        return PerpValue(value=-margin - fee, pnl=-margin, fees=fee, liquidated=True, exit_price=exit_price)

    exit_price = float(path[-1]) if path.size else float(entry_price)
    pnl = sign * (exit_price - entry_price) / entry_price * size - funding
    settled = max(0.0, margin + pnl - fee)
    return PerpValue(
        value=settled - margin - fee,
        pnl=max(pnl, -margin),
        fees=2 * fee,
        liquidated=False,
        exit_price=exit_price,
    )
