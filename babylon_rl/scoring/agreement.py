"""How far two scorings of the same episodes agree: rank correlations, flips, spread."""

from collections.abc import Sequence

import numpy as np

TIE = 1e-9
"""Scores closer together than this are equal."""


def kendall_tau(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Returns Kendall's tau-b of two arrays of shape `(n,)`; None if one of them is constant.

    Ties count for neither side (M. G. Kendall, "The treatment of ties in ranking problems", 1945).
    """
    x, y = _signs(first), _signs(second)
    both = float(np.sum(x * y))
    scale = float(np.sqrt(np.sum(np.abs(x)) * np.sum(np.abs(y))))
    return both / scale if scale > 0 else None


def flip_rate(scorings: Sequence[Sequence[float]]) -> float | None:
    """Returns the share of pairs of episodes whose order is opposite in two of the scorings.

    Args:
        scorings: k arrays of shape `(n,)`. Every pair of arrays is compared; None for k < 2 or n < 2.
    """
    signs = [_signs(scores) for scores in scorings]
    compared = [
        float(np.mean(signs[i] * signs[j] < 0)) for i in range(len(signs)) for j in range(i) if signs[i].size
    ]
    return float(np.mean(compared)) if compared else None


def mean_spread(scorings: Sequence[Sequence[float]]) -> float | None:
    """Returns the distance from the lowest to the highest score of an episode, averaged over episodes."""
    if len(scorings) < 2 or not len(scorings[0]):
        return None
    return float(np.mean(np.ptp(np.array(scorings, float), axis=0)))


def mean_of(values: Sequence[float | None]) -> float | None:
    """Returns the mean of what is known."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _signs(values: Sequence[float]) -> np.ndarray:
    """Order of each pair (i < j), shape `(n (n - 1) / 2,)`: -1, 0 or 1."""
    array = np.asarray(values, float)
    upper = np.triu_indices(array.size, 1)
    differences = array[upper[0]] - array[upper[1]]
    return np.where(np.abs(differences) <= TIE, 0.0, np.sign(differences))
