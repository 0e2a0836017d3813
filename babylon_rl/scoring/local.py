"""Scorers that need no model: a reward for each episode of one window.

A reward is the sum of its components, so that the share of its variance that each one makes can be told.
"""

import math
from collections.abc import Sequence
from typing import Protocol

import msgspec
import numpy as np

from babylon_rl.errors import BabylonError
from babylon_rl.scoring.episodes import Episode

PNL = "pnl"
"""Name of the component that pays profit and loss."""

DEFAULT_EQUITY = 1000.0
"""USD that the game gives an agent to begin with."""


class ScoringError(BabylonError):
    """A scorer that was set up, or that answered, in a way that gives no rewards."""


class Score(msgspec.Struct, frozen=True):
    """One agent's reward in a window."""

    agent_id: str
    reward: float
    components: dict[str, float]
    """Parts that add up to the reward; a judge that has no such parts leaves them out."""
    decisions: list[float] = []
    """What each of the episode's decisions is rewarded with by itself; empty if nothing tells."""


class Named(Protocol):
    """What is stored with every group of a scorer."""

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> str:
        """Changes whenever the same episodes could get other rewards."""
        ...


class Scorer(Named, Protocol):
    """Rewards all episodes of a window together, because a reward may compare them.

    What has to be awaited, or needs more than the episodes, is a `window_scorer.WindowScorer`.
    """

    def score(self, episodes: Sequence[Episode]) -> list[Score]:
        """Returns one score per episode, in any order."""
        ...


class HeuristicScorer:
    """The seeds' heuristic: P&L, win rate and activity, each between 0 and 1, weighted.

    `0.5 clip((pnl + 1000) / 2000, 0, 1) + 0.3 win rate + 0.2 min(1, actions / 20) - penalty * invalid share`.
    The win rate is 0.5 without a decided trade. Invalid answers are no activity.

    On an account of 1,000 $ the P&L moves this reward very little: see `ScoredGroup.pnl_variance_share`.

    Args:
        weights: Of P&L, win rate and activity.
        pnl_scale: USD at which the P&L part is full, and negated empty.
        activity_scale: Actions at which the activity part is full.
        invalid_penalty: Taken off when all actions are invalid; less in proportion.
    """

    name = "heuristic"

    def __init__(
        self,
        weights: tuple[float, float, float] = (0.5, 0.3, 0.2),
        pnl_scale: float = 1000.0,
        activity_scale: float = 20,
        invalid_penalty: float = 0.1,
    ) -> None:
        _require_positive("pnl_scale", pnl_scale)
        _require_positive("activity_scale", activity_scale)
        self.weights, self.pnl_scale, self.activity_scale = weights, pnl_scale, activity_scale
        self.invalid_penalty = invalid_penalty

    @property
    def version(self) -> str:
        weights = "/".join(f"{weight:g}" for weight in self.weights)
        return f"1:{weights}:{self.pnl_scale:g}:{self.activity_scale:g}:{self.invalid_penalty:g}"

    def score(self, episodes: Sequence[Episode]) -> list[Score]:
        """Returns one score per episode; an unknown P&L counts as zero."""
        return [self._score(episode) for episode in episodes]

    def _score(self, episode: Episode) -> Score:
        pnl = episode.attributed_pnl or 0.0
        decided = episode.wins + episode.losses
        valid = episode.actions - episode.invalid_actions
        parts = (
            min(1.0, max(0.0, (pnl + self.pnl_scale) / (2 * self.pnl_scale))),
            episode.wins / decided if decided else 0.5,
            min(1.0, valid / self.activity_scale),
        )
        components = {
            name: weight * part
            for name, weight, part in zip((PNL, "win_rate", "activity"), self.weights, parts, strict=True)
        }
        return _sum(episode, components | {"invalid": -self.invalid_penalty * episode.invalid_share})


class PnlScorer:
    """Return on start equity, winsorised within the window: `return - penalty * invalid share`.

    Args:
        invalid_penalty: Taken off when all actions are invalid; less in proportion.
        winsor: Share of the window's returns on each side that is pulled in to the quantile there, so that
        one
            liquidation or windfall does not rule the group. Narrowed as long as it would make all returns
            equal.

    Every decision has a reward of its own beside its episode's: the return of the orders that it opened, and
    of those that it closed early against holding them, within ±1; an invalid one costs the penalty.
    """

    name = "pnl"

    def __init__(self, invalid_penalty: float = 0.1, winsor: float = 0.05) -> None:
        if not 0 <= winsor < 0.5:
            raise ScoringError(f"winsor = {winsor}", "It is a share of each side: from 0 to below 0.5.")
        self.invalid_penalty, self.winsor = invalid_penalty, winsor

    @property
    def version(self) -> str:
        return f"1:{self.winsor:g}:{self.invalid_penalty:g}"

    def score(self, episodes: Sequence[Episode]) -> list[Score]:
        """Returns one score per episode; an unknown P&L counts as zero."""
        returns = winsorise(window_returns(episodes), self.winsor)
        parts = [
            {PNL: float(part), "invalid": -self.invalid_penalty * episode.invalid_share}
            for episode, part in zip(episodes, returns, strict=True)
        ]
        return [
            Score(episode.agent_id, math.fsum(components.values()), components, decisions)
            for episode, components, decisions in zip(episodes, parts, self._decisions(episodes), strict=True)
        ]

    def _decisions(self, episodes: Sequence[Episode]) -> list[list[float]]:
        """Rewards of the decisions of each episode; none at all where an episode's orders were not valued."""
        counts = [len(episode.decisions) for episode in episodes]
        if not all(counts):
            return [[] for _ in episodes]
        equities = np.repeat(start_equities(episodes), counts)
        made = [decision for episode in episodes for decision in episode.decisions]
        returns = np.clip(np.array([decision.pnl for decision in made]) / equities, -1.0, 1.0)
        invalid = np.array([decision.invalid for decision in made])
        # Not winsorised: the few large orders among many small ones are what there is to learn.
        rewards = returns - self.invalid_penalty * invalid
        return [part.tolist() for part in np.split(rewards, np.cumsum(counts)[:-1])]


def recorded_scorer(name: str, version: str) -> Scorer | None:
    """Returns the scorer that gave rewards under this name and version; None if that was no local one."""
    _, *values = version.split(":")
    try:
        if name == PnlScorer.name:
            winsor, penalty = map(float, values)
            scorer: Scorer = PnlScorer(penalty, winsor)
        elif name == HeuristicScorer.name:
            weights, *numbers = values
            pnl, wins, activity = map(float, weights.split("/"))
            scorer = HeuristicScorer((pnl, wins, activity), *map(float, numbers))
        else:
            return None
    except (ValueError, TypeError, ScoringError):
        return None
    return scorer if scorer.version == version else None


def window_returns(episodes: Sequence[Episode]) -> np.ndarray:
    """Attributed P&L over start equity, clipped to [-1, 1], shape `(episodes,)`."""
    pnl = np.array([episode.attributed_pnl or 0.0 for episode in episodes])
    return np.clip(pnl / start_equities(episodes), -1.0, 1.0)


def start_equities(episodes: Sequence[Episode]) -> np.ndarray:
    """USD of each agent at its first step, all positive, shape `(episodes,)`.

    Where it is unknown or not positive, the median of the others stands for it, or what the game gives a new
    agent.
    """
    equities = [
        equity if (equity := episode.start_equity) is not None and equity > 0 else math.nan
        for episode in episodes
    ]
    known = [equity for equity in equities if math.isfinite(equity)]
    typical = float(np.median(known)) if known else DEFAULT_EQUITY
    return np.nan_to_num(np.array(equities), nan=typical, posinf=typical)


def winsorise(values: np.ndarray, share: float) -> np.ndarray:
    """Pulls the outer `share` of each side in to the quantiles there; unequal values never become all equal.

    Args:
        values: Shape `(n,)`, finite.
        share: Between 0 and 0.5.
    """
    if values.size == 0 or values.min() == values.max():
        return values
    while share > 1e-6:
        low, high = np.quantile(values, [share, 1 - share])
        if low < high:
            return np.clip(values, low, high)
        share /= 2  # nearly all values are equal: one trader among many who held
    return values


def _sum(episode: Episode, components: dict[str, float]) -> Score:
    return Score(episode.agent_id, math.fsum(components.values()), components)


def _require_positive(name: str, number: float) -> None:
    if not (math.isfinite(number) and number > 0):
        raise ScoringError(f"{name} = {number}", "It must be a positive number.")
