"""What an order was worth at a horizon, and when that is final."""

from datetime import UTC, datetime, timedelta

import msgspec

HORIZONS = {"1h": timedelta(hours=1), "24h": timedelta(hours=24)}
RESOLUTION = "resolution"
"""The third horizon, of prediction markets only."""

DELAY = timedelta(minutes=5)
"""Time that late price rows get before a value counts as final."""


class OrderValue(msgspec.Struct, frozen=True, kw_only=True):
    """What an order was worth at a horizon."""

    order_id: str
    agent_id: str
    window_id: str
    kind: str
    """`perp` or `prediction`."""
    instrument: str
    """Engine ticker of a perpetual, id of a prediction market."""
    side: str
    """`long` or `short`, `yes` or `no`."""
    size: float
    """USD: notional of a perpetual, gross amount of a prediction."""
    opened_at: datetime
    horizon: str
    """`1h`, `24h`, or `resolution` for predictions."""
    value: float | None
    """USD after fees; None for an order that no rule gives a value to (a size of zero, an unknown side, a
    market without reserves, a market that is not resolved)."""
    matured: bool
    """Whether the horizon has passed in what is recorded, so that the value is final."""
    liquidated: bool
    closed_at: datetime | None = None
    """When the agent closed it, or sold of it last, if that was before the horizon."""
    held: float | None = None
    """USD that it would have been worth at the horizon, had the agent not closed it; None if the agent did
    not, or if the horizon has not passed."""

    @property
    def opening(self) -> float:
        """USD that the decision to open it made: what came of closing it early is another decision's."""
        return (self.value if self.held is None else self.held) or 0.0

    @property
    def closing(self) -> float:
        """USD that the decision to close it made against holding it; adds up to the value with `opening`."""
        return (self.value or 0.0) - self.opening


class Clock(msgspec.Struct, frozen=True):
    """How far time has come, by the clock and in the game's records."""

    now: datetime
    recorded_until: datetime | None
    """Time of the newest price; a horizon beyond it has not matured, whatever the clock says."""
    delay: timedelta = DELAY

    def has_passed(self, moment: datetime) -> bool:
        """Whether what happened until a moment is final."""
        recorded = self.recorded_until is not None and self.recorded_until >= moment
        return recorded and self.now >= moment + self.delay


def milliseconds(moment: datetime) -> int:
    """Returns milliseconds since 1970 in UTC, exactly; a float timestamp cannot hold every one."""
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
