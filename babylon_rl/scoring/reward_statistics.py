"""What a window's rewards are made of, and how they go with its P&L."""

from collections.abc import Sequence

import numpy as np

from babylon_rl.scoring.local import Score

SMALLEST_SPREAD = 1e-9
"""Rewards closer together than this differ by rounding only."""


def variance_shares(scores: Sequence[Score]) -> dict[str, float]:
    """Returns how much of the rewards' variance each component makes: `Cov(component, reward) / Var(reward)`.

    The shares add up to 1; a component that works against the others has a negative one. Empty if the
    components do not add up to the rewards.
    """
    rewards = np.array([score.reward for score in scores])
    names = sorted({name for score in scores for name in score.components})
    parts = np.array([[score.components.get(name, 0.0) for score in scores] for name in names])
    if not names or rewards.var() == 0 or not np.allclose(parts.sum(axis=0), rewards, atol=1e-9):
        return {}
    centred = rewards - rewards.mean()
    return {
        name: float(part @ centred / (centred @ centred)) for name, part in zip(names, parts, strict=True)
    }


def spearman(first: np.ndarray, second: np.ndarray) -> float | None:
    """Returns the rank correlation of two arrays of shape `(n,)`, ties at their mean; None if undefined."""
    return correlation(_ranks(first), _ranks(second))


def correlation(first: np.ndarray, second: np.ndarray) -> float | None:
    """Returns Pearson's correlation of two arrays of shape `(n,)`; None if one of them is constant."""
    if first.size < 2 or np.ptp(first) <= SMALLEST_SPREAD or np.ptp(second) <= SMALLEST_SPREAD:
        return None
    return float(np.corrcoef(first, second)[0, 1])


def _ranks(values: np.ndarray) -> np.ndarray:
    _, position, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[position]
