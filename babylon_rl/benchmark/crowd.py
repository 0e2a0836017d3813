"""One candidate among incumbents, and all candidates: what a policy's gain is worth when others trade too.

The arena plays every policy alone, as a taker of prices. In the game a user's order moves the displayed price
until the next tick, so the second buyer of the same minute pays what the first one added. A policy may
therefore gain by taking from those who come after it (a transfer), and lose it all when everybody follows it.
Three figures tell these apart, on the same markets, seats and random streams:

- `among_incumbents`: a candidate in one seat, less an incumbent in that seat, the others incumbents;
- `on_others`: what that candidate's presence did to each incumbent beside it;
- `all_candidates`: every seat a candidate, less every seat an incumbent.

They are reported beside the verdict, which rests on the paired difference of the arena.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from babylon_rl.benchmark.arena import HeldOut
from babylon_rl.benchmark.rollouts import Play, play_here
from babylon_rl.benchmark.statistics import Interval, paired_interval
from babylon_rl.outcomes.perpetuals import SIDES, value_perpetual
from babylon_rl.policy.chat import Policy
from babylon_rl.simulation.market import DECISION_TICKS, MarketPath
from babylon_rl.simulation.play import RETURN_BOUND, Episode
from babylon_rl.simulation.trader import BANKROLL, Decision, Order, parse_decision

SEATS = 4
CROWD_WINDOWS = 256

IMPACT_VOLUME = 10_000.0
"""USD of user volume that would move the price by its whole self (`perp-price-impact-service.ts`)."""
IMPACT_LIMIT = 0.05

Choices = list[list[list[Decision]]]
"""Decisions of a policy, shape `(markets, seats, decisions)`."""


@dataclass(frozen=True)
class Crowd:
    """The three differences, each of returns on start equity per market, with its interval."""

    among_incumbents: Interval
    on_others: Interval
    all_candidates: Interval
    seats: int
    returns: dict[str, float]
    """Mean return per seat of each population: `incumbents`, `candidate`, `beside`, `candidates`."""

    def summary(self) -> dict[str, Any]:
        """Plain numbers for reports."""
        names = ("among_incumbents", "on_others", "all_candidates")
        found: dict[str, Any] = {"seats": self.seats, "returns": self.returns}
        for name in names:
            interval: Interval = getattr(self, name)
            found[name] = {"mean": interval.mean, "low": interval.low, "high": interval.high, "n": interval.n}
        return found


async def crowd(
    candidate: Policy,
    incumbent: Policy,
    material: HeldOut,
    seats: int = SEATS,
    impact: float = 1.0,
    play: Play = play_here,
) -> Crowd:
    """Plays the populations on the given markets; each policy answers `seats` times per decision.

    Args:
        impact: Factor on the game's own price impact; 0 makes everybody a taker of prices.
        play: Where the rollouts are played.
    """
    markets = [market for market in material.markets for _ in range(seats)]
    seeds = [seed * seats + seat for seed in material.seeds for seat in range(seats)]
    played = await play({"candidate": candidate, "incumbent": incumbent}, markets, seeds)
    first, second = (_choices(markets, played[name], seats) for name in ("candidate", "incumbent"))
    incumbents, candidates = _returns(material, second, impact), _returns(material, first, impact)
    one, beside = np.zeros(len(material.seeds)), np.zeros(len(material.seeds))
    for seat in range(seats):
        mixed = [
            [(mine if place == seat else others)[place] for place in range(seats)]
            for mine, others in zip(first, second, strict=True)
        ]
        played = _returns(material, mixed, impact)
        one += played[:, seat] / seats
        beside += np.delete(played, seat, axis=1).mean(axis=1) / seats if seats > 1 else 0.0
    alone = incumbents.mean(axis=1)
    return Crowd(
        among_incumbents=_interval(one - alone),
        on_others=_interval(beside - alone) if seats > 1 else _interval(np.zeros_like(alone)),
        all_candidates=_interval(candidates.mean(axis=1) - alone),
        seats=seats,
        returns={
            "incumbents": float(alone.mean()),
            "candidate": float(one.mean()),
            "beside": float(beside.mean()),
            "candidates": float(candidates.mean()),
        },
    )


def entry_prices(price: float, orders: Sequence[Order], impact: float = 1.0) -> list[float]:
    """The price that each order of one minute and one company is filled at, in the order they arrive.

    Source: `price *= 1 + netSentiment * min(volume / 10000, 0.05)` after each trade; the next tick erases it.
    """
    prices = []
    for order in orders:
        prices.append(price)
        price *= 1.0 + impact * SIDES[order.side] * min(order.size / IMPACT_VOLUME, IMPACT_LIMIT)
    return prices


def _choices(markets: Sequence[MarketPath], episodes: Sequence[Episode], seats: int) -> Choices:
    decided = [
        [parse_decision(answer.content, market.spec.tickers) for _, answer in episode.calls]
        for market, episode in zip(markets, episodes, strict=True)
    ]
    return [decided[first : first + seats] for first in range(0, len(decided), seats)]


def _returns(material: HeldOut, choices: Choices, impact: float) -> np.ndarray:
    """Returns of shape `(markets, seats)`."""
    rows = [
        _settle(market, seated, seed, impact)
        for market, seated, seed in zip(material.markets, choices, material.seeds, strict=True)
    ]
    return np.clip(np.array(rows) / BANKROLL, -RETURN_BOUND, RETURN_BOUND)


def _settle(market: MarketPath, seated: list[list[Decision]], seed: int, impact: float) -> list[float]:
    pnl = [0.0] * len(seated)
    rng = random.Random(seed)
    for decision, tick in enumerate(DECISION_TICKS):
        queue = rng.sample(range(len(seated)), len(seated))
        for number, ticker in enumerate(market.spec.tickers):
            placed = [
                (seat, order)
                for seat in queue
                if isinstance(order := seated[seat][decision], Order) and order.ticker == ticker
            ]
            prices = market.price_path(number, tick)
            fills = entry_prices(float(prices[0]), [order for _, order in placed], impact)
            for (seat, order), entry in zip(placed, fills, strict=True):
                pnl[seat] += value_perpetual(order.side, order.size, order.leverage, entry, prices[1:]).value
    return pnl


def _interval(differences: np.ndarray) -> Interval:
    return paired_interval(differences, lower=-2 * RETURN_BOUND, upper=2 * RETURN_BOUND)
