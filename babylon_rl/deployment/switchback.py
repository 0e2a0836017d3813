"""A switchback, analysed pairwise per agent: what an agent did with the candidate against itself without.

In a pair of adjacent blocks an agent that played one with each version gives the difference of its two means.
Its own persistent edge cancels in it; what the market gave everybody cancels against the mean difference of
the other agents. Which block was whose is a fair coin of the assignment's, so with two equal models every
contrast has mean zero given all that happened before, whatever agents carry over in their books and however
they move the prices: a martingale difference, which is what `sequential` asks for.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from babylon_rl.deployment.assignment import arms

Floats = NDArray[np.float64]


def signs(draws: Floats, percentage: Floats | float) -> NDArray[np.int8]:
    """1 where the candidate plays the first block of the pair, -1 where the second, 0 where both or neither.

    Args:
        draws: `assignment.draw` of agents and pairs, any shape.
        percentage: The candidate's share, of a shape that fits.
    """
    both: Any = arms(draws, percentage)  # type: ignore[arg-type]
    return both[..., 0].astype(np.int8) - both[..., 1].astype(np.int8)


def contrasts(first: Floats, second: Floats, signs: NDArray[np.int8]) -> tuple[Floats, Floats]:
    """The candidate's mean difference to the incumbent in each pair of blocks, and the agents behind it.

    Each agent's difference between its blocks is taken relative to the mean of the other agents' (leave one
    out, so that the mean stays unbiased), then signed by who played which block.

    Args:
        first: An agent's mean per window in the pair's first block, shape (..., agents, pairs); nan: missing.
        second: The same for the second block.
        signs: As `signs` gives them.

    Returns:
        (differences, agents), each of shape (..., pairs); agents is 0, and the difference 0, for a pair that
        says nothing.
    """
    difference = first - second
    used = np.isfinite(difference) & (signs != 0)
    difference = np.where(used, difference, 0.0)
    agents = used.sum(axis=-2).astype(np.float64)
    total = difference.sum(axis=-2, keepdims=True)
    others = np.maximum(agents - 1.0, 1.0)[..., None, :]
    relative = np.where(used, difference - (total - difference) / others, 0.0)
    contrast = (relative * signs).sum(axis=-2) / np.maximum(agents, 1.0)
    # Where all agents of a pair switched the same way their common shock is all there is to see.
    one_way = np.abs(np.where(used, signs, 0).sum(axis=-2)) == agents
    agents = np.where(one_way & (agents > 1), 0.0, agents)
    return np.where(agents > 0, contrast, 0.0), agents


def block_means(values: Floats, block_windows: int) -> tuple[Floats, Floats]:
    """Means per window of the two blocks of each whole pair.

    Args:
        values: shape (..., agents, windows), from the experiment's first window on; nan: not measured.

    Returns:
        (first, second), each of shape (..., agents, pairs); nan for a block without a measured window.
    """
    pairs = values.shape[-1] // (2 * block_windows)
    shaped = values[..., : pairs * 2 * block_windows].reshape(*values.shape[:-1], pairs, 2, block_windows)
    measured = np.isfinite(shaped)
    count = measured.sum(axis=-1)
    total = np.where(measured, shaped, 0.0).sum(axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = np.where(count > 0, total / count, np.nan)
    return mean[..., 0], mean[..., 1]
