"""One trader, one hour, one market: the episodes that evaluations are made of.

Every episode starts with the bankroll and no position, on a market of its own, and is valued like the
pipeline values recorded orders: closed one hour after opening, at liquidation value, net of fees. Episodes
are independent, so all of them advance together and the policy answers one large batch per decision.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from babylon_rl.outcomes.perpetuals import trading_fee, value_perpetual
from babylon_rl.policy.chat import ChatAnswer, ChatRequest, Policy
from babylon_rl.simulation.market import DECISION_TICKS, HEADLINES, MarketPath
from babylon_rl.simulation.trader import (
    BANKROLL,
    LEVERAGE,
    MAX_SIZE,
    UNIT_NOTIONAL,
    Decision,
    Hold,
    Invalid,
    Order,
    build_messages,
    parse_decision,
)

MAX_ORDER_LOSS = MAX_SIZE * UNIT_NOTIONAL / LEVERAGE + trading_fee(MAX_SIZE * UNIT_NOTIONAL)
RETURN_BOUND = len(DECISION_TICKS) * MAX_ORDER_LOSS / BANKROLL
"""The most that an episode can lose, as a share of the bankroll; returns are clipped to it on both sides."""

ANSWER_TOKENS = 12

Rule = Callable[[Sequence[tuple[str, str]], random.Random], Decision]
"""A trader without a model: headlines as (ticker, word) pairs and a random stream to a decision."""


@dataclass(frozen=True)
class Episode:
    """What one trader made of one hour."""

    pnl: float
    """Dollars, net of fees."""
    decisions: int
    orders: int
    wins: int
    """Orders that made money."""
    well_timed: int
    """Orders after which the price moved in their favour, before fees."""
    invalid: int
    calls: tuple[tuple[ChatRequest, ChatAnswer], ...] = field(default=(), repr=False)
    """What the policy was asked and answered; empty for rules."""
    made: tuple[float | None, ...] = field(default=(), repr=False)
    """Dollars that each decision made, net of fees; None for an invalid one."""

    @property
    def clipped_return(self) -> float:
        """Return on the bankroll, clipped to ``± RETURN_BOUND``."""
        return max(-RETURN_BOUND, min(RETURN_BOUND, self.pnl / BANKROLL))


class _Trader:
    """The state of one episode."""

    def __init__(self, market: MarketPath, seed: int) -> None:
        self.market, self.seed = market, seed
        self.tickers = market.spec.tickers
        self.pnl = self.fees = 0.0
        self.orders = self.wins = self.well_timed = self.invalid = 0
        self.calls: list[tuple[ChatRequest, ChatAnswer]] = []
        self.made: list[float | None] = []

    def headlines(self, decision: int) -> list[tuple[str, str]]:
        words = self.market.headlines[0, decision]
        return [(ticker, HEADLINES[word]) for ticker, word in zip(self.tickers, words, strict=True)]

    def request(self, decision: int) -> ChatRequest:
        messages = build_messages(self.headlines(decision), BANKROLL - self.fees, self.orders)
        return ChatRequest(
            messages, max_tokens=ANSWER_TOKENS, seed=self.seed * len(DECISION_TICKS) + decision
        )

    def act(self, decision: int, choice: Decision) -> None:
        if isinstance(choice, Invalid):
            self.invalid += 1
        if not isinstance(choice, Order):
            self.made.append(None if isinstance(choice, Invalid) else 0.0)
            return
        prices = self.market.price_path(self.tickers.index(choice.ticker), DECISION_TICKS[decision])
        worth = value_perpetual(choice.side, choice.size, choice.leverage, float(prices[0]), prices[1:])
        self.orders += 1
        self.fees += trading_fee(choice.size)
        self.pnl += worth.value
        self.made.append(worth.value)
        self.wins += worth.value > 0
        self.well_timed += worth.pnl > 0

    def result(self) -> Episode:
        counts = (self.orders, self.wins, self.well_timed, self.invalid)
        return Episode(self.pnl, len(DECISION_TICKS), *counts, tuple(self.calls), tuple(self.made))


async def play_policy(policy: Policy, markets: Sequence[MarketPath], seeds: Sequence[int]) -> list[Episode]:
    """Let a policy trade the first hour of every market; equal seeds give equal answers."""
    traders = [_Trader(market, seed) for market, seed in zip(markets, seeds, strict=True)]
    for decision in range(len(DECISION_TICKS)):
        requests = [trader.request(decision) for trader in traders]
        answers = await policy.complete(requests)
        for trader, request, answer in zip(traders, requests, answers, strict=True):
            trader.calls.append((request, answer))
            trader.act(decision, parse_decision(answer.content, trader.tickers))
    return [trader.result() for trader in traders]


def play_rule(rule: Rule, markets: Sequence[MarketPath], seeds: Sequence[int]) -> list[Episode]:
    """Let a rule trade the first hour of every market."""
    traders = [_Trader(market, seed) for market, seed in zip(markets, seeds, strict=True)]
    for trader in traders:
        rng = random.Random(trader.seed)
        for decision in range(len(DECISION_TICKS)):
            trader.act(decision, rule(trader.headlines(decision), rng))
    return [trader.result() for trader in traders]


def random_rule(headlines: Sequence[tuple[str, str]], rng: random.Random) -> Decision:
    """A valid order at random."""
    ticker, _ = rng.choice(headlines)
    return Order(ticker, rng.choice(("long", "short")), rng.randint(1, MAX_SIZE) * UNIT_NOTIONAL)


def headline_rule(headlines: Sequence[tuple[str, str]], rng: random.Random) -> Decision:
    """The best use of the headlines alone: the strongest one, with its sign, at full size ("oracle")."""
    strengths = [(HEADLINES.index(word) - 2, ticker) for ticker, word in headlines]
    rng.shuffle(strengths)
    strength, ticker = max(strengths, key=lambda pair: abs(pair[0]))
    if strength == 0:
        return Hold()
    return Order(ticker, "long" if strength > 0 else "short", MAX_SIZE * UNIT_NOTIONAL)
