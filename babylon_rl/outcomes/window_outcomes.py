"""What the markets did in one window: typed, hashed, and rounded to the columns of `market_outcomes`."""

import hashlib
import math
from datetime import datetime
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Any

import msgspec

SENTIMENT_PERCENT = 0.5
"""A stock that moved more than this is BULLISH or BEARISH, otherwise NEUTRAL."""

UNRESOLVED = "UNRESOLVED"

LIMITS = {
    "startPrice": (Decimal("99999999.99"), 2),
    "endPrice": (Decimal("99999999.99"), 2),
    "changePercent": (Decimal("999.99"), 2),
    "finalProbability": (Decimal("9.9999"), 4),
    "volume": (Decimal("9999999999999.99"), 2),
}
"""Largest magnitude and decimal places of each DECIMAL column."""


class StockOutcome(msgspec.Struct, kw_only=True, frozen=True):
    """How one company's price moved; prices and volume in USD, in full precision."""

    ticker: str
    organization_id: str
    name: str
    start_price: float | None
    """Last price at or before the start; see `flags` for where it is from otherwise."""
    end_price: float | None
    """Last price before the end."""
    change_percent: float | None
    sentiment: str
    """BULLISH, BEARISH or NEUTRAL."""
    moves: int
    """Price changes inside the window; the engine's repeated rows without a change do not count."""
    volume: float
    """Notional of perpetual positions opened and closed in the window, and what NPCs traded."""
    news: list[str]
    """News of the window that names the company."""
    flags: list[str]
    """`no_prices`, `start_is_initial`, `start_is_first_inside`, `ticker_shared`, `clipped:<column>`."""


class PredictionOutcome(msgspec.Struct, kw_only=True, frozen=True):
    """Where one prediction market that was active in the window stood at its end."""

    market_id: str
    question: str
    outcome: str
    """YES or NO if it was resolved in the window, otherwise UNRESOLVED."""
    final_probability: float
    """Of YES: the last price before the resolution and before the end of the window."""
    resolved_at: datetime | None
    flags: list[str]
    """`time_from:<source>`, `probability_from:<source>`, `resolved_without_answer`, `resolved_before` (and
    named in the window all the same), `question_closed_market_open`, `clipped:<column>`."""
    volume: float = 0.0
    """USD that agents and NPCs traded in the window."""


class News(msgspec.Struct, kw_only=True, frozen=True):
    """Something that was published in the window."""

    kind: str
    """`event` or `article`."""
    published_at: datetime
    text: str
    organizations: list[str]
    """Ids of the companies it names."""


class WindowOutcomes(msgspec.Struct, kw_only=True, frozen=True):
    """The ground truth of one window. Nothing of it may be seen by a policy in that window."""

    window_id: str
    stocks: list[StockOutcome]
    predictions: list[PredictionOutcome]
    news: list[News]
    unknown: list[str] = []
    """What the window's agents named or traded, and the game has neither as a company nor as a market (any
    more): UNRESOLVED for ever."""
    sentiment_percent: float = SENTIMENT_PERCENT

    def to_json(self) -> str:
        """Canonical JSON; equal outcomes give equal text."""
        return msgspec.json.encode(self, order="deterministic").decode()

    @property
    def sha256(self) -> str:
        """Hash of the canonical JSON."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()


def from_json(text: str | bytes) -> WindowOutcomes:
    """The inverse of `WindowOutcomes.to_json`."""
    return msgspec.json.decode(text, type=WindowOutcomes)


def sentiment(change_percent: float | None) -> str:
    """Returns BULLISH above +0.5 %, BEARISH below -0.5 %, otherwise NEUTRAL."""
    if change_percent is None or abs(change_percent) <= SENTIMENT_PERCENT:
        return "NEUTRAL"
    return "BULLISH" if change_percent > 0 else "BEARISH"


def to_column(column: str, number: float | None) -> tuple[Decimal | None, bool]:
    """Returns a number as its DECIMAL column holds it, and whether it had to be changed beyond rounding.

    Too large magnitudes are clipped. A positive number that would round to zero counts as changed as well:
    dividing by it later is a trap.
    """
    if number is None or math.isnan(number):
        return None, number is not None
    largest, places = LIMITS[column]
    if abs(number) >= largest + 1:
        return largest.copy_sign(Decimal(number)), True
    rounded = Decimal(repr(number)).quantize(Decimal(1).scaleb(-places), ROUND_HALF_EVEN)
    if abs(rounded) > largest:
        return largest.copy_sign(rounded), True
    return rounded, rounded == 0 and column.endswith("Price")


def clip_flags(columns: dict[str, float | None]) -> list[str]:
    """Returns `clipped:<column>` for every number that its column cannot hold."""
    return [f"clipped:{column}" for column, number in columns.items() if to_column(column, number)[1]]


def projected_rows(outcomes: WindowOutcomes) -> list[dict[str, Any]]:
    """Returns the rows of `market_outcomes` for a window, with ids that are the same at every repetition."""
    prefix = row_id_prefix(outcomes.window_id)
    stocks = [
        {
            "id": f"{prefix}stock-{stock.organization_id}",
            "stockTicker": stock.ticker,
            "startPrice": to_column("startPrice", stock.start_price)[0],
            "endPrice": to_column("endPrice", stock.end_price)[0],
            "changePercent": to_column("changePercent", stock.change_percent)[0],
            "sentiment": stock.sentiment,
            "newsEvents": msgspec.json.encode(stock.news).decode(),
            "volume": to_column("volume", stock.volume)[0],
        }
        for stock in outcomes.stocks
    ]
    predictions = [
        {
            "id": f"{prefix}market-{market.market_id}",
            "predictionMarketId": market.market_id,
            "question": market.question,
            "outcome": market.outcome,
            "finalProbability": to_column("finalProbability", market.final_probability)[0],
            "volume": to_column("volume", market.volume)[0],
        }
        for market in outcomes.predictions
    ]
    return stocks + predictions


def row_id_prefix(window_id: str) -> str:
    """Returns what the ids of our rows of a window begin with; other writers' rows are left alone."""
    return f"babylon-rl-{window_id}-"
