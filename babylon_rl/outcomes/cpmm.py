"""Prediction markets as the game prices them: a constant product of two reserves, as pure functions.

    pool, shares = bought(Pool(500, 500), YES, 99.9)     # 83.26 shares for 100 USD less the fee
    pool, proceeds = sold(pool, YES, shares)             # 99.9 USD again, before the fee

The probability of YES is `no / (yes + no)`. Money that buys YES is added to the reserve of NO, the product of
the reserves stays, and what has left the reserve of YES is the buyer's. A share therefore costs about
`p / (1 - p)` and pays 1: at a price of one half or more, even a right prediction loses money. The displayed
price is never what a seller gets.
"""

import math

import msgspec

from babylon_rl.outcomes.perpetuals import PricingError

YES, NO = True, False

FEE_RATE = 0.001
"""Share of the gross amount of a purchase, and of the gross proceeds of a sale."""


class Pool(msgspec.Struct, frozen=True):
    """The reserves of a market, in shares."""

    yes: float
    no: float

    @property
    def yes_price(self) -> float:
        """Probability of YES that the market displays; one half for an empty pool."""
        total = self.yes + self.no
        return self.no / total if total > 0 else 0.5

    @property
    def is_liquid(self) -> bool:
        """Whether anything can be bought and sold; the game makes some markets without reserves."""
        return bool(0 < self.yes < math.inf and 0 < self.no < math.inf)

    @property
    def product(self) -> float:
        return self.yes * self.no


def bought(pool: Pool, side: bool, net: float) -> tuple[Pool, float]:
    """Buys a side for `net` USD (after the fee); returns the pool afterwards and the shares.

    Raises:
        PricingError: The amount is no positive number, or the pool is empty.
    """
    own, other = _reserves(pool, side, net, "amount")
    left = own * other / (other + net)
    return _pool(side, left, other + net), own - left


def sold(pool: Pool, side: bool, shares: float) -> tuple[Pool, float]:
    """Sells shares of a side; returns the pool afterwards and the proceeds in USD before the fee.

    Raises:
        PricingError: The number of shares is not positive, or the pool is empty.
    """
    own, other = _reserves(pool, side, shares, "number of shares")
    left = own * other / (own + shares)
    return _pool(side, own + shares, left), other - left


def moved(own: Pool, before: Pool, after: Pool) -> Pool:
    """Returns what a pool with an order of ours in it becomes when the recorded pool moves.

    Every trade adds money or shares to one reserve and leaves the product: the same addition is made here, so
    that the others trade what they traded. Where both reserves move one way, liquidity was changed, and ours
    changes in proportion.
    """
    product = own.product * after.product / before.product
    if after.no >= before.no and after.yes <= before.yes:
        no = own.no + after.no - before.no
        return Pool(product / no, no)
    if after.yes >= before.yes and after.no <= before.no:
        yes = own.yes + after.yes - before.yes
        return Pool(yes, product / yes)
    return Pool(own.yes * after.yes / before.yes, own.no * after.no / before.no)


def _reserves(pool: Pool, side: bool, quantity: float, name: str) -> tuple[float, float]:
    if not (math.isfinite(quantity) and quantity > 0):
        raise PricingError(f"the {name} of a trade is {quantity}", "It must be a positive number.")
    if not pool.is_liquid:
        raise PricingError("a market without liquidity", "Its orders have no value until it has reserves.")
    return (pool.yes, pool.no) if side else (pool.no, pool.yes)


def _pool(side: bool, own: float, other: float) -> Pool:
    return Pool(own, other) if side else Pool(other, own)
