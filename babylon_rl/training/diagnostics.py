"""What a day's rewards are worth as a signal, before anything is trained on them.

variance shares   how much of the rewards' variance each component makes, averaged over the windows
pnl_spearman      rank correlation of reward and attributed P&L, averaged over the windows
split_half        do agents that did well in the odd windows do well in the even ones? Correlation of
                  their mean advantages, stepped up by Spearman and Brown; about zero when all agents are
                  one policy, whose differences are luck
effective         episodes that carry the gradient: (sum |A|)^2 / sum A^2
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from babylon_rl.scoring.groups import SCORED, ScoredGroup


@dataclass(frozen=True)
class SignalRules:
    """Below these a day is not trained; None asks for nothing."""

    min_effective: float | None = None
    """Effective episodes."""
    min_split_half: float | None = None
    """Split-half reliability of the advantages."""
    min_pnl_spearman: float | None = None
    """Mean rank correlation of reward and attributed P&L."""


def diagnose(groups: Sequence[ScoredGroup], episodes: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The figures of a day; what cannot be computed is left out.

    Args:
        groups: The day's windows.
        episodes: The batch's records.
    """
    scored = [group for group in groups if group.status == SCORED]
    found = {"effective_episodes": effective([float(episode["advantage"]) for episode in episodes])}
    ranks = [group.pnl_spearman for group in scored if group.pnl_spearman is not None]
    if ranks:
        found["pnl_spearman"] = float(np.mean(ranks))
    for name in sorted({name for group in scored for name in group.variance_shares}):
        shares = [group.variance_shares[name] for group in scored if name in group.variance_shares]
        found[f"variance_share/{name}"] = float(np.mean(shares))
    if (reliability := split_half(scored)) is not None:
        found["split_half"] = reliability
    return found


def refusal(found: Mapping[str, float], rules: SignalRules) -> str:
    """Why a day's signal does not suffice; empty when it does."""
    wanted = (
        ("effective_episodes", rules.min_effective, "effective episodes"),
        ("split_half", rules.min_split_half, "split-half reliability of the advantages"),
        ("pnl_spearman", rules.min_pnl_spearman, "rank correlation of reward and P&L"),
    )
    for name, least, words in wanted:
        if least is None:
            continue
        if name not in found:
            return f"the {words} cannot be computed, and at least {least:g} is asked for"
        if found[name] < least:
            return f"{words}: {found[name]:.3g} of at least {least:g}"
    return ""


def effective(advantages: Sequence[float]) -> float:
    """Kish's effective number of episodes with these advantages."""
    sizes = np.abs(np.array(advantages, dtype=float))
    return float(sizes.sum() ** 2 / (sizes**2).sum()) if sizes.any() else 0.0


def split_half(groups: Sequence[ScoredGroup]) -> float | None:
    """Reliability of agents' mean advantages; None below three agents in both halves or without spread."""
    halves: list[dict[str, list[float]]] = [{}, {}]
    for number, group in enumerate(sorted(groups, key=lambda group: group.window_id)):
        for member in group.members:
            halves[number % 2].setdefault(member.agent_id, []).append(member.advantage)
    agents = sorted(halves[0].keys() & halves[1].keys())
    if len(agents) < 3:
        return None
    odd, even = (np.array([np.mean(half[agent]) for agent in agents]) for half in halves)
    if np.ptp(odd) == 0 or np.ptp(even) == 0:
        return None
    correlation = float(np.corrcoef(odd, even)[0, 1])
    # Stepping up a negative correlation would leave [-1, 1].
    return 2 * correlation / (1 + correlation) if correlation > 0 else correlation
