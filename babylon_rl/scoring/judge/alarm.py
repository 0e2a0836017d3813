"""When a judge is doubted: its scores contradict the money, or a canary fooled it.

A doubt concerns the whole group. Dropping the one member that the judge likes more than its result would
delete good process with bad luck, and bias what is learned.
"""

import math
from collections.abc import Sequence

import numpy as np

from babylon_rl.scoring.episodes import Episode
from babylon_rl.scoring.local import DEFAULT_EQUITY
from babylon_rl.scoring.reward_statistics import SMALLEST_SPREAD, spearman

FEWEST = 3
"""Members with known P&L below which a rank correlation says nothing."""
AT_STAKE = 0.001
"""Range of the P&L, as a share of start equity, below which the group's results are the same."""
LARGEST_GAP = 0.8
"""Of the ranks of a group of at least `GAP_FROM`: one member this much higher than its P&L is a doubt."""
GAP_FROM = 5


def money_correlation(episodes: Sequence[Episode], scores: Sequence[float]) -> float | None:
    """Returns Spearman's correlation of scores and attributed P&L; None if it says nothing."""
    known = _known(episodes, scores)
    if len(known) < FEWEST or not _something_at_stake(episodes, [pnl for _, pnl in known]):
        return None
    return spearman(np.array([score for score, _ in known]), np.array([pnl for _, pnl in known]))


def disagreement(episodes: Sequence[Episode], scores: Sequence[float], least: float) -> str | None:
    """Returns why scores contradict the attributed P&L, or None.

    Args:
        episodes: Of one window.
        scores: Of the episodes, in their order.
        least: Rank correlation below which they do.
    """
    known = _known(episodes, scores)
    if len(known) < FEWEST or not _something_at_stake(episodes, [pnl for _, pnl in known]):
        return None
    if max(scores) - min(scores) <= SMALLEST_SPREAD:
        return "all scores are equal, and the results are not"
    correlation = money_correlation(episodes, scores)
    if correlation is not None and correlation < least:
        return f"rank correlation with P&L {correlation:.2f} is below {least:g}"
    if len(known) >= GAP_FROM:
        judged = _shares([score for score, _ in known])
        earned = _shares([pnl for _, pnl in known])
        gap = max(j - e for j, e in zip(judged, earned, strict=True))
        if gap >= LARGEST_GAP:
            return f"a member of the lowest P&L is among the highest scores (ranks {gap:.0%} apart)"
    return None


def _known(episodes: Sequence[Episode], scores: Sequence[float]) -> list[tuple[float, float]]:
    return [
        (score, episode.attributed_pnl)
        for episode, score in zip(episodes, scores, strict=True)
        if episode.attributed_pnl is not None and math.isfinite(episode.attributed_pnl)
    ]


def _something_at_stake(episodes: Sequence[Episode], pnl: Sequence[float]) -> bool:
    equities = [e.start_equity for e in episodes if e.start_equity and e.start_equity > 0]
    typical = float(np.median(equities)) if equities else DEFAULT_EQUITY
    return max(pnl) - min(pnl) >= AT_STAKE * typical


def _shares(values: Sequence[float]) -> list[float]:
    """Ranks from 0 (lowest) to 1 (highest); equal values share the middle of theirs."""
    array = np.asarray(values)
    below = np.array([np.sum(array < value) + (np.sum(array == value) - 1) / 2 for value in array])
    return list(below / (array.size - 1))
