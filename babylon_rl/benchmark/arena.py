"""The arena: candidate, incumbent and base play the same held-out markets, next to two rules.

The seeds of a comparison follow from a key that contains the candidate's content hash, so no market is met
twice and nobody chose it. Markets are independent of each other; a comparison is the mean of paired
differences of returns.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from babylon_rl.benchmark.rollouts import Play, play_here
from babylon_rl.benchmark.statistics import Interval, paired_interval, studentised_interval, wilson_interval
from babylon_rl.policy.chat import Policy
from babylon_rl.simulation.market import VAULT_REGIMES, MarketPath, MarketSpec, generate_market
from babylon_rl.simulation.play import (
    RETURN_BOUND,
    Episode,
    headline_rule,
    play_rule,
    random_rule,
)

GATE_WINDOWS = 1024
"""Held-out hours per comparison; each costs four chat completions per policy."""


@dataclass(frozen=True)
class HeldOut:
    """Independent one-hour markets that only one comparison uses."""

    key: str
    markets: Sequence[MarketPath]
    seeds: Sequence[int]


def held_out(key: str, windows: int = GATE_WINDOWS, *, vault: bool = False) -> HeldOut:
    """Draw the markets of a comparison; ``vault`` adds the regimes that no choice ever saw."""
    spec = MarketSpec(regimes=VAULT_REGIMES) if vault else MarketSpec()
    seeds = [_seed(f"{'vault' if vault else 'gate'}:{key}:{window}") for window in range(windows)]
    return HeldOut(key, [generate_market(spec, seed, hours=1) for seed in seeds], seeds)


@dataclass(frozen=True)
class Standing:
    """How one contestant did on a set of markets; arrays have one entry per market."""

    name: str
    returns: np.ndarray
    orders: np.ndarray
    wins: np.ndarray
    well_timed: np.ndarray
    invalid: np.ndarray
    decisions: int
    """Decisions in all markets together."""

    @property
    def invalid_rate(self) -> float:
        """Share of decisions that were no order."""
        return float(self.invalid.sum() / self.decisions)

    @property
    def win_rate(self) -> Interval:
        """Share of orders that made money."""
        return wilson_interval(int(self.wins.sum()), int(self.orders.sum()))

    def summary(self) -> dict[str, Any]:
        """Plain numbers for reports: return per market with its interval, rates, drawdown."""
        interval = (
            studentised_interval(self.returns, correct_skewness=False) if self.returns.size > 1 else None
        )
        return {
            "name": self.name,
            "return_mean": float(self.returns.mean()),
            "return_low": interval.low if interval else None,
            "return_high": interval.high if interval else None,
            "return_sd": float(self.returns.std()),
            "win_rate": self.win_rate.mean,
            "invalid_rate": self.invalid_rate,
            "orders": int(self.orders.sum()),
            "worst_return": float(self.returns.min()),
        }


async def contest(
    policies: Mapping[str, Policy], material: HeldOut, play: Play = play_here
) -> dict[str, Standing]:
    """Let every policy play every market, and ``hold``, ``random`` and ``oracle`` beside them.

    Args:
        play: where the rollouts are played; the standings are the same everywhere.
    """
    played = await play(policies, material.markets, material.seeds)
    standings = {name: _standing(name, episodes) for name, episodes in played.items()}
    for name, rule in (("random", random_rule), ("oracle", headline_rule)):
        standings[name] = _standing(name, play_rule(rule, material.markets, material.seeds))
    idle = [Episode(0.0, standings["random"].decisions // len(material.seeds), 0, 0, 0, 0)]
    standings["hold"] = _standing("hold", idle * len(material.seeds))
    return standings


def difference(candidate: Standing, other: Standing, alpha: float = 0.05) -> Interval:
    """Paired difference of returns per market, with an interval that is valid for any shape of losses."""
    return paired_interval(
        candidate.returns - other.returns, lower=-2 * RETURN_BOUND, upper=2 * RETURN_BOUND, alpha=alpha
    )


def rate_difference(
    candidate: Standing, other: Standing, counts: str, alpha: float = 0.05
) -> Interval | None:
    """Paired difference of a rate per market; None where no market can tell.

    Args:
        counts: ``wins`` or ``well_timed`` (per order, over markets in which both traded) or ``invalid`` (per
            decision).
    """
    if counts == "invalid":
        per_market = candidate.decisions / candidate.returns.size
        values = (candidate.invalid - other.invalid) / per_market
    else:
        both = (candidate.orders > 0) & (other.orders > 0)
        rates = [getattr(one, counts)[both] / one.orders[both] for one in (candidate, other)]
        values = rates[0] - rates[1]
    return paired_interval(values, lower=-1.0, upper=1.0, alpha=alpha) if values.size else None


def _standing(name: str, episodes: Sequence[Episode]) -> Standing:
    def column(attribute: str) -> np.ndarray:
        return np.array([getattr(episode, attribute) for episode in episodes], dtype=float)

    return Standing(
        name=name,
        returns=column("clipped_return"),
        orders=column("orders"),
        wins=column("wins"),
        well_timed=column("well_timed"),
        invalid=column("invalid"),
        decisions=sum(episode.decisions for episode in episodes),
    )


def _seed(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big")
