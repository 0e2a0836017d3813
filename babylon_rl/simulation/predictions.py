"""Prediction markets of Babylon: a constant product of two reserves, as pure functions.

    fill = buy(Pool(500, 500), True, 100.0)      # YES for 100 USD
    fill.shares, fill.pool.yes_price             # 83.26 shares, and YES went from 0.50 to 0.59

The probability of YES is ``no / (yes + no)``. A buyer's money, net of the fee, is added to the other side's
reserve, and the product of the reserves stays what it was. A winning share pays one dollar.

Two pricings move the reserves alike and differ in what the buyer gets for the money:

as_shipped: what has left the bought reserve. A share costs about ``p / (1 - p)``, so at a price of one half
    or more even a right prediction loses money. This is what the game does.
as_specified: that, and one share per dollar, as a fixed-product market maker gives (the dollar mints one
    share of each side, and the other one goes into the pool). A share costs about its probability ``p``.
"""

import math
from dataclasses import dataclass
from typing import Literal, get_args

from babylon_rl.errors import BabylonError

Pricing = Literal["as_shipped", "as_specified"]
PRICINGS: tuple[Pricing, ...] = get_args(Pricing)

FEE_RATE = 0.001
"""Share of the gross amount of a purchase, or of the gross proceeds of a sale."""

PLACES = 6
"""Decimals of shares and reserves in the game's tables; trades are rounded to them, so that a market that was
stored and read again goes on exactly as it would have."""


class PredictionError(BabylonError):
    """A trade that a prediction market cannot carry out."""


@dataclass(frozen=True)
class Pool:
    """The reserves of one market, in shares."""

    yes: float
    no: float

    @property
    def yes_price(self) -> float:
        """Probability of YES that the market displays; one half for an empty pool."""
        total = self.yes + self.no
        return self.no / total if total > 0 else 0.5

    def price(self, side: bool) -> float:
        """Displayed price of a side; true is YES."""
        return self.yes_price if side else 1 - self.yes_price


@dataclass(frozen=True)
class Fill:
    """One executed trade; amounts in USD."""

    pool: Pool
    """The market afterwards."""
    side: bool
    """True for YES."""
    shares: float
    gross: float
    """What a buyer pays, or what a seller's shares are worth, before the fee."""
    fee: float

    @property
    def net(self) -> float:
        """What reaches the market (buying) or the seller (selling)."""
        return self.gross - self.fee

    @property
    def price(self) -> float:
        """Net dollars per share; above one where the pricing is ``as_shipped`` and the side is likely."""
        return self.net / self.shares


def buy(pool: Pool, side: bool, amount: float, pricing: Pricing = "as_shipped") -> Fill:
    """Buys a side (true is YES) for ``amount`` dollars including the fee.

    Raises:
        PredictionError: The amount is no positive number, or too small for a share; the pool is empty.
    """
    bought, other = _reserves(pool, side, amount, "amount")
    fee = amount * FEE_RATE
    net = amount - fee
    left = bought * other / (other + net)
    shares = bought - left + (net if pricing == "as_specified" else 0.0)
    return _fill(side, left, other + net, shares, amount, fee)


def sell(pool: Pool, side: bool, shares: float, pricing: Pricing = "as_shipped") -> Fill:
    """Sells ``shares`` of a side (true is YES); the reverse of ``buy`` but for the fees.

    Raises:
        PredictionError: The number of shares is not positive, or the pool is empty.
    """
    sold, other = _reserves(pool, side, shares, "number of shares")
    if pricing == "as_specified":
        # The pool pairs some of the shares with its own of the other side and burns the pairs at a dollar
        # each: proceeds x with (sold + shares - x)(other - x) = sold * other; the smaller root.
        total = sold + shares + other
        gross = 2 * shares * other / (total + math.sqrt(total * total - 4 * shares * other))
        return _fill(side, sold + shares - gross, other - gross, shares, gross, gross * FEE_RATE)
    left = sold * other / (sold + shares)
    gross = other - left
    return _fill(side, sold + shares, left, shares, gross, gross * FEE_RATE)


def payout(side: bool, shares: float, outcome: bool) -> float:
    """Dollars that a position is worth once the market is resolved."""
    return shares if side == outcome else 0.0


def _reserves(pool: Pool, side: bool, quantity: float, name: str) -> tuple[float, float]:
    if not (math.isfinite(quantity) and quantity > 0):
        raise PredictionError(f"the {name} of a trade is {quantity}", "It must be a positive number.")
    if not (pool.yes > 0 and pool.no > 0):
        raise PredictionError(
            "the market has no liquidity: one of its reserves is empty",
            "Give a new market reserves of 500 and 500.",
        )
    return (pool.yes, pool.no) if side else (pool.no, pool.yes)


def _fill(side: bool, own: float, other: float, shares: float, gross: float, fee: float) -> Fill:
    own, other, shares = (round(number, PLACES) for number in (own, other, shares))
    if not shares > 0:
        raise PredictionError("the trade is too small to move a millionth of a share", "Trade more.")
    return Fill(Pool(own, other) if side else Pool(other, own), side, shares, gross, fee)
