"""An agent's usual advantage, learned from earlier windows only, as part of its baseline.

Agents differ for reasons that are not this hour's decisions: a larger account, a bolder persona. What an
agent was above the others in earlier windows is subtracted from its advantage, shrunk towards zero by how
much of it may be luck (empirical Bayes, one-way random effects; Robbins 1956, Henderson's first method):

    effect = mean * tau^2 / (tau^2 + sigma^2 / n)

with n the agent's windows, sigma^2 the variance within agents and tau^2 the variance between them. A
baseline that does not depend on the window's own decisions leaves the gradient's mean as it is and takes away
variance. So a window counts only for those that begin after all of its orders have reached their horizon.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import msgspec
import numpy as np

from babylon_rl.scoring.groups import SCORED, Member, ScoredGroup
from babylon_rl.windows import window_range

MIN_WINDOWS = 6
"""Below this many earlier windows nothing is subtracted."""
FAR = timedelta(days=14)
"""What is older says little of an agent that has learned since."""


@dataclass(frozen=True)
class Earlier:
    """What one agent was above the others of its window, in the reward's unit."""

    window_id: str
    agent_id: str
    advantage: float


@dataclass
class _Agent:
    count: int = 0
    total: float = 0.0
    squares: float = 0.0


@dataclass
class _Effects:
    """Running sums over the windows that have been seen."""

    agents: dict[str, _Agent] = field(default_factory=lambda: defaultdict(_Agent))
    windows: int = 0

    def add(self, members: Iterable[Earlier]) -> None:
        self.windows += 1
        for member in members:
            agent = self.agents[member.agent_id]
            agent.count += 1
            agent.total += member.advantage
            agent.squares += member.advantage**2

    def shrunken(self) -> dict[str, float]:
        """Each agent's effect; empty without evidence that agents differ at all."""
        counts = np.array([agent.count for agent in self.agents.values()], dtype=float)
        total, k = counts.sum(), counts.size
        if self.windows < MIN_WINDOWS or k < 2 or total <= k:
            return {}
        sums = np.array([agent.total for agent in self.agents.values()])
        squares = np.array([agent.squares for agent in self.agents.values()])
        means = sums / counts
        within = max(0.0, float((squares - counts * means**2).sum()) / (total - k))
        between = float((counts * (means - sums.sum() / total) ** 2).sum()) / (k - 1)
        size = (total - float((counts**2).sum()) / total) / (k - 1)
        tau = (between - within) / size
        if tau <= 0:
            return {}
        weights = tau / (tau + within / counts)
        return dict(zip(self.agents, (weights * means).tolist(), strict=True))


def agent_effects(
    history: Iterable[Earlier], windows: Iterable[tuple[str, str | None]]
) -> dict[str, dict[str, float]]:
    """Each window's agent effects, from the windows whose orders had matured when it began.

    Args:
        history: Members of scored windows, in any order; later ones than a window have no influence on it.
        windows: Ids with the horizon at which their orders are paid (`1h`, `24h`, …).
    """
    past: dict[str, list[Earlier]] = defaultdict(list)
    for member in history:
        past[member.window_id].append(member)
    found = {}
    for window_id, horizon in windows:
        begin, _ = window_range(window_id)
        effects = _Effects()
        for earlier in sorted(past):
            if _matured(earlier, horizon) <= begin <= window_range(earlier)[0] + FAR:
                effects.add(past[earlier])
        found[window_id] = effects.shrunken()
    return found


def without_effects(
    groups: Sequence[ScoredGroup], history: Iterable[Earlier]
) -> tuple[list[ScoredGroup], dict[str, float]]:
    """Groups with the agents' effects taken out of their advantages, and figures on what that did.

    The advantages stay leave-one-out: an agent's effect counts against the mean effect of the others.
    """
    scored = [group for group in groups if group.status == SCORED]
    effects = agent_effects(history, [(group.window_id, group.horizon) for group in scored])
    changed = {group.window_id: _residual(group, effects[group.window_id]) for group in scored}
    before = np.array([member.advantage for group in scored for member in group.members])
    after = np.array([member.advantage for group in changed.values() for member in group.members])
    known = [effect for found in effects.values() for effect in found.values()]
    figures = {"baseline/windows_with_effects": float(sum(bool(found) for found in effects.values()))}
    if known:
        figures["baseline/agent_effect_rms"] = float(np.sqrt(np.mean(np.square(known))))
        figures["baseline/variance_removed"] = 1 - float(after.var() / before.var()) if before.var() else 0.0
    return [changed.get(group.window_id, group) for group in groups], figures


def _residual(group: ScoredGroup, effects: dict[str, float]) -> ScoredGroup:
    if not effects or len(group.members) < 2:
        return group
    own = np.array([effects.get(member.agent_id, 0.0) for member in group.members])
    shift = (own - own.mean()) * (own.size / (own.size - 1))
    members = [_less(member, float(part)) for member, part in zip(group.members, shift, strict=True)]
    return msgspec.structs.replace(group, members=members)


def _less(member: Member, part: float) -> Member:
    """The member without a part of its advantage; an hour's part is that of its decisions in equal shares."""
    decisions = [
        msgspec.structs.replace(one, advantage=one.advantage - part / len(member.decisions))
        for one in member.decisions
    ]
    return msgspec.structs.replace(member, advantage=member.advantage - part, decisions=decisions)


def _matured(window_id: str, horizon: str | None) -> datetime:
    """When the last order of a window has reached its horizon; resolutions may take the game's three days."""
    text = horizon or "1h"
    hours = int(text[:-1]) if text.endswith("h") and text[:-1].isdigit() else 72
    return window_range(window_id)[1] + timedelta(hours=hours)
