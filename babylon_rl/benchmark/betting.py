"""Betting against a mean: the process behind `statistics.betting_interval`.

Waudby-Smith and Ramdas (2023), "Estimating means of bounded random variables by betting", JRSS-B 86(1), with
the bets of Voráček and Orabona (2025), "STaR-Bets", arXiv:2505.22422.
"""

import hashlib
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Bets = Literal["star", "plug_in"]

_VARIANCE_PRIOR = 0.05
"""Weight-one prior of the second moment on the unit range; from 0.003 to 0.25 widths differ by under 5 %."""

_LARGEST_BET = 0.99
"""Share of the wealth that the worst possible value may take; 1 would let one such value end the game."""


def wealth_reaches(
    values_G_n: NDArray[np.float64], means_G: NDArray[np.float64], target: float, bets: Bets = "star"
) -> NDArray[np.bool_]:
    """Whether betting that the mean exceeds each of the means brings log wealth to the target.

    Args:
        values_G_n: Values on [0, 1], in random order; row g is judged against `means_G[g]`.
        means_G: Hypothesised means, in (0, 1].
        target: log(1 / level) of a one-sided test.
        bets: See `betting_interval`.

    Returns:
        shape (G,); true where "the mean is at most `means_G[g]`" is refuted at level exp(-target).
    """
    n = values_G_n.shape[1]
    largest = _LARGEST_BET / means_G
    log_wealth, reached = np.zeros_like(means_G), np.zeros(means_G.shape, dtype=bool)
    second_moment, running_mean = np.full_like(means_G, _VARIANCE_PRIOR), np.full_like(means_G, 0.5)
    for step in range(n):
        x = values_G_n[:, step]
        missing, remaining = (
            (np.maximum(target - log_wealth, 0.0), n - step) if bets == "star" else (target, n)
        )
        bet = np.minimum(np.sqrt(2.0 * missing / (remaining * second_moment / (step + 1.0))), largest)
        log_wealth += np.where(reached, 0.0, np.log1p(bet * (x - means_G)))
        reached |= log_wealth >= target
        if bets == "star":
            second_moment += (x - means_G) ** 2
        else:
            running_mean += (x - running_mean) / (step + 2.0)
            second_moment += (x - running_mean) ** 2
    return reached


def lower_end(unit: NDArray[np.float64], target: float, bets: Bets) -> float:
    """Largest mean below which every mean is refuted, to 1e-4 of the range, rounded down; 0 if none is."""
    low, high = 0.0, float(unit.mean())
    for points in (256, 64):
        means = np.linspace(low, high, points + 1)[1:]
        if high <= 0.0:
            return 0.0
        refuted = wealth_reaches(np.broadcast_to(unit, (points, unit.size)), means, target, bets)
        # With adaptive bets wealth need not fall steadily in m: take the first mean that stands, so that the
        # interval is the hull of all that do.
        first = points - 1 if refuted.all() else int(np.argmin(refuted))
        low, high = (float(means[first - 1]) if first else low), float(means[first])
    return low


def shuffled(ordered: NDArray[np.float64]) -> NDArray[np.float64]:
    """A permutation that follows from the values alone, so that equal data give equal ends."""
    seed = int.from_bytes(hashlib.sha256(ordered.tobytes()).digest()[:8], "big")
    return np.random.default_rng(seed).permutation(ordered)
