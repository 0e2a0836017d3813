"""Differences of returns whose mean is known: shapes on paper, and those of the simulated market itself."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from babylon_rl.benchmark.arena import held_out
from babylon_rl.simulation.play import Rule, headline_rule, play_rule, random_rule

Array = NDArray[np.float64]
POPULATION = 400_000


def _liquidation(rng: np.random.Generator, probability: float, loss: float, gain: float, sd: float) -> Array:
    quiet = rng.normal(gain, sd, POPULATION)
    return np.where(rng.random(POPULATION) < probability, -loss, quiet)


def _heavy_tail(rng: np.random.Generator, probability: float, sd: float) -> Array:
    """Both sides may be liquidated, the candidate three times as often, with Pareto losses."""

    def side(centre: float, p: float) -> Array:
        loss = np.where(rng.random(POPULATION) < p, 0.1 + 0.1 * rng.pareto(1.5, POPULATION), 0.0)
        return np.clip(rng.normal(centre, sd, POPULATION) - loss, -1.0, 1.0)

    return side(0.03, probability) - side(0.0, probability / 3)


SHAPES: dict[str, Callable[[np.random.Generator], Array]] = {
    "normal, sd 0.05": lambda rng: rng.normal(0.0, 0.05, POPULATION),
    "normal, sd 0.3": lambda rng: rng.normal(0.0, 0.3, POPULATION),
    "skewed, sd 0.1": lambda rng: 0.1 * (1.0 - rng.exponential(1.0, POPULATION)),
    "skewed, sd 0.3": lambda rng: 0.3 * (1.0 - rng.exponential(1.0, POPULATION)),
    "liquidation 0.3 %": lambda rng: _liquidation(rng, 0.003, 1.5, 0.01, 0.05),
    "liquidation 1 %": lambda rng: _liquidation(rng, 0.01, 0.9, 0.02, 0.05),
    "liquidation 3 %": lambda rng: _liquidation(rng, 0.03, 0.5, 0.02, 0.1),
    "liquidation 5 %, wide": lambda rng: _liquidation(rng, 0.05, 1.0, 0.08, 0.2),
    "liquidation, heavy tail": lambda rng: _heavy_tail(rng, 0.06, 0.1),
}
LIQUIDATIONS = tuple(name for name in SHAPES if name.startswith("liquidation"))


def population(shape: str, rng: np.random.Generator, *, bound: float) -> Array:
    """A population of differences on [-bound, bound]; its own mean is the truth."""
    return np.clip(SHAPES[shape](rng), -bound, bound)


def differences(markets: int) -> dict[str, Array]:
    """Paired differences of traders on the gate's own markets."""
    material = held_out("benchmark of the gate", markets)
    others = [seed + 1 for seed in material.seeds]

    def returns(rule: Rule, seeds: list[int]) -> Array:
        return np.array([e.clipped_return for e in play_rule(rule, material.markets, seeds)])

    good, poor = returns(headline_rule, list(material.seeds)), returns(random_rule, others)
    return {
        "two random traders": returns(random_rule, list(material.seeds)) - poor,
        "headline against random": good - poor,
    }
