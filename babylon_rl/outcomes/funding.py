"""Funding of perpetual positions: what the game's code describes, and never charges.

A rule says what a position pays between two moments. None is applied unless it is asked for: the game's
`processFunding` is never called, so `fundingPaid` is zero in practice; where a closed position does carry
some, that amount counts.
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

FundingRule = Callable[[str, float, datetime, datetime], float]
"""(side, notional size in USD, after, until) to USD paid; negative where the position receives it."""

SLOT = timedelta(hours=8)
SLOTS_PER_YEAR = 1095.75
ANNUAL_RATE = 0.01


def slot_funding(annual_rate: float = ANNUAL_RATE) -> FundingRule:
    """Returns the rule of the game's engine: at 00, 08 and 16 UTC longs pay shorts.

    Args:
        annual_rate: Share of the size per year.
    """

    def rule(side: str, size: float, after: datetime, until: datetime) -> float:
        paid = size * annual_rate / SLOTS_PER_YEAR * slots_between(after, until)
        return paid if side == "long" else -paid

    return rule


def slots_between(after: datetime, until: datetime) -> int:
    """Returns how many funding times lie later than `after` and not later than `until` (both aware)."""
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    return max(0, (until - epoch) // SLOT - (after - epoch) // SLOT)
