"""The spellings of a side and of a probability on prediction markets, over all writers of the game."""

import math

from babylon_rl.outcomes.perpetuals import PricingError

_SIDES = {"yes": True, "true": True, "no": False, "false": False}


def prediction_side(spelling: str | bool) -> bool:
    """Returns true for YES, `yes`, `buy_yes` or `True`, and false for the same of NO.

    Raises:
        PricingError: It is neither.
    """
    side = spelling if isinstance(spelling, bool) else _SIDES.get(_bare(str(spelling)))
    if side is None:
        raise PricingError(f"{spelling!r} is no side of a prediction market", "Use yes or no.")
    return side


def probability(price: float) -> float | None:
    """Returns a displayed price as a probability; the game's NPC rows hold it in cents.

    A price of exactly 1 means certainty. None for what is neither.
    """
    if not math.isfinite(price) or not 0 <= price <= 100:
        return None
    return price if price <= 1 else price / 100


def _bare(spelling: str) -> str:
    text = spelling.strip().lower().replace("-", "_").replace(" ", "_")
    return text.removeprefix("buy_").removeprefix("sell_")
