"""Asymptotic confidence sequences: intervals that hold at every look at once, so that peeking costs nothing.

Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas (2024), "Time-uniform central limit theory and asymptotic
confidence sequences", Annals of Statistics 52(6), doi 10.1214/24-AOS2408: theorem 2.2, and its Lindeberg form
for martingale differences, which the contrasts of a randomised switchback are. At the look for which it is
tuned the band is about 1.55 times as wide as a fixed-sample interval.
"""

import math
from statistics import NormalDist

import msgspec
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

TUNED_FOR = 60
"""Number of values at which the band is narrowest; from half to four times that it is within 15 % of it."""

FIRST_LOOK = 20
"""Values before the first decision: what is asymptotic needs some, and the spread has to be known."""


class Band(msgspec.Struct, frozen=True):
    """A confidence sequence at its newest look."""

    n: int
    """Values seen: pairs of blocks."""
    mean: float | None = None
    """Weighted mean difference, in the metric's unit."""
    low: float | None = None
    """None while there are fewer values than `FIRST_LOOK`, or no spread."""
    high: float | None = None
    detectable: float | None = None
    """Smallest true difference that a band of this n and spread finds with a power of 80 %."""

    @property
    def decided(self) -> int:
        """1 where the difference is above zero, -1 where below, 0 while that is open."""
        if self.low is None or self.high is None:
            return 0
        return int(self.low > 0) - int(self.high < 0)


def tuning(n: int, alpha: float) -> float:
    """The parameter rho that makes the band narrowest at n values (the paper's appendix on tuning)."""
    log = -2.0 * math.log(alpha)
    return math.sqrt((log + math.log(log + 1.0)) / n)


def margins(n: NDArray[np.float64], alpha: float, tuned_for: int = TUNED_FOR) -> Floats:
    """Half the width of the band after n values of unit variance: shape of `n`."""
    rho2 = tuning(tuned_for, alpha) ** 2
    grown = n * rho2 + 1.0
    return np.sqrt(2.0 * grown / (n * n * rho2) * np.log(np.sqrt(grown) / alpha))


def bands_over_time(
    values: Floats, weights: Floats, alpha: float = 0.05, *, first_look: int = FIRST_LOOK
) -> tuple[Floats, Floats, Floats]:
    """Running weighted means with their bands.

    The means of all looks lie within their bands together with probability 1 - alpha, for values whose
    expectation given the past is constant and whose spread settles.

    Args:
        values: shape (..., n), in time order.
        weights: Known before the values are (numbers of agents), shape of `values`; 0 skips a value.
        alpha: Error level of both ends together.
        first_look: Looks with fewer values have infinite bands.

    Returns:
        (mean, low, high), each of the shape of `values`; nan and infinite before the first value.
    """
    used = weights > 0
    n = np.cumsum(used, axis=-1).astype(np.float64)
    scaled = np.where(used, values * weights, 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = np.cumsum(scaled, axis=-1) / n
        squares = np.cumsum(scaled * scaled, axis=-1) / n
        variance = np.maximum(squares - mean * mean, 0.0) * n / (n - 1.0)
        typical = np.cumsum(np.where(used, weights, 0.0), axis=-1) / n
        margin = np.sqrt(variance) * margins(n, alpha)
        known = (n >= first_look) & (variance > 0)
        margin = np.where(known, margin, np.inf) / typical
        centre = mean / typical
    return centre, centre - margin, centre + margin


def band(values: Floats, weights: Floats, alpha: float = 0.05, *, first_look: int = FIRST_LOOK) -> Band:
    """The newest band of one sequence, shape (n,)."""
    used = weights > 0
    n = int(used.sum())
    if n == 0:
        return Band(0)
    mean, low, high = (
        float(part[-1]) for part in bands_over_time(values, weights, alpha, first_look=first_look)
    )
    if not math.isfinite(low):
        return Band(n, mean)
    margin = mean - low
    error = margin / float(margins(np.array([n], dtype=np.float64), alpha)[0]) / math.sqrt(n)
    return Band(n, mean, low, high, margin + NormalDist().inv_cdf(0.8) * error)
