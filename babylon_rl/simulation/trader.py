"""How a language model trades the simulated market: its prompt, the grammar of its answer, and its orders.

An answer is ``TICKER headline SIDE size`` (for example ``AURUM surge BUY 2``) or ``HOLD``. Naming the
headline it acts on is the model's one step of reasoning. A size counts units of ``UNIT_NOTIONAL`` dollars at
``LEVERAGE``.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from babylon_rl.simulation.market import HEADLINES

UNIT_NOTIONAL = 500.0
LEVERAGE = 10
MAX_SIZE = 3
BANKROLL = 1000.0
"""Dollars an agent has at the start of a window (Babylon's default balance)."""

SYSTEM_PROMPT = "Trade perpetuals. Answer TICKER headline SIDE size or HOLD."
SIDES = {"BUY": "long", "SELL": "short"}
_SIZES = tuple(map(str, range(1, MAX_SIZE + 1)))


@dataclass(frozen=True)
class Order:
    """A perpetual position that the agent wants to open; ``size`` is notional dollars."""

    ticker: str
    side: str
    size: float
    leverage: int = LEVERAGE

    @property
    def margin(self) -> float:
        return self.size / self.leverage


@dataclass(frozen=True)
class Hold:
    """The agent deliberately does nothing."""


@dataclass(frozen=True)
class Invalid:
    """An answer that is no order."""

    reason: str


Decision = Order | Hold | Invalid


def build_messages(
    headlines: Sequence[tuple[str, str]], equity: float, open_positions: int
) -> list[dict[str, str]]:
    """The chat messages of one decision: ``headlines`` are (ticker, headline word) pairs."""
    news = "\n".join(f"{ticker} {word}" for ticker, word in headlines)
    state = f"equity {round(equity, -1):.0f} open {open_positions}"
    return [{"role": "system", "content": SYSTEM_PROMPT}, {"role": "user", "content": f"{state}\n{news}"}]


def parse_decision(answer: str, tickers: Sequence[str]) -> Decision:
    """Read a model's answer strictly; anything outside the grammar is ``Invalid`` with the reason."""
    words = answer.split()
    if words == ["HOLD"]:
        return Hold()
    if len(words) != 4:
        return Invalid(f"expected 4 words or HOLD, got {len(words)}")
    ticker, headline, side, size = words
    if ticker not in tickers:
        return Invalid(f"unknown ticker {ticker[:20]!r}")
    if headline not in HEADLINES:
        return Invalid(f"unknown headline {headline[:20]!r}")
    if side not in SIDES:
        return Invalid(f"unknown side {side[:20]!r}")
    if size not in _SIZES:
        return Invalid(f"size must be 1 to {MAX_SIZE}, got {size[:20]!r}")
    return Order(ticker, SIDES[side], int(size) * UNIT_NOTIONAL)


def format_order(ticker: str, headline: str, side: str, size: int) -> str:
    """The answer that ``parse_decision`` reads back; ``side`` is BUY or SELL, ``size`` counts units."""
    return f"{ticker} {headline} {side} {size}"
