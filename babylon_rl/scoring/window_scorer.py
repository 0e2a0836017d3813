"""The interface of everything that rewards a window, and the scorers that need nothing else.

    async with open_scorer(settings, connect) as scorer:       # scorers.py chooses
        scored = await scorer.score(WindowToScore(window_id, episodes, outcomes))
        scored.group                                           # rewards, advantages, or why there are none

A scorer never raises for what a window holds; a window that could not be judged gets the status `unjudged`.
"""

from collections.abc import Sequence
from typing import Protocol

import msgspec

from babylon_rl.outcomes.window_outcomes import WindowOutcomes
from babylon_rl.scoring.episodes import Episode
from babylon_rl.scoring.groups import ScoredGroup, score_window
from babylon_rl.scoring.local import Scorer


class WindowToScore(msgspec.Struct, frozen=True):
    """One window before it is scored."""

    window_id: str
    episodes: Sequence[Episode]
    """One per agent."""
    outcomes: WindowOutcomes | None
    """The ground truth; None if it was not derived, and then a judge does not judge."""


class Judgment(msgspec.Struct, kw_only=True):
    """What a judge said of one member."""

    agent_id: str
    trajectory_ids: list[str]
    score: float
    """From 0 to 1; the member's reward."""
    normalized_score: float
    """From 0 for the lowest of the group to 1 for the highest; 0.5 where all are equal."""
    rank: int
    """1 is best; equals share the better rank."""
    components: dict[str, float]
    """The judge's ratings by criterion; they explain the score and are no part of it."""
    spread: float | None
    """Distance between lowest and highest score over the orders; None for a single one."""
    reasoning: str
    """In the judge's words: may quote the ground truth, so it stays in schema rl."""


class JudgeRun(msgspec.Struct, kw_only=True):
    """One judging of a window, as `rl.judge_runs` keeps it."""

    window_id: str
    scorer: str
    judge_model: str
    rubric: str
    rubric_sha256: str
    method: str | None = None
    """`ruler`, `another order`, `second judge`, `doubt stands`, or `local …`: whose scores these are."""
    status: str = "failed"
    reason: str = ""
    passing: bool = False
    """Whether a failure may be over after a while; not stored."""
    episodes: int = 0
    dropped: int = 0
    orders: int = 0
    spread: float | None = None
    flip_rate: float | None = None
    canaries: int = 0
    canary_score: float | None = None
    """The highest one."""
    canary_failed: bool = False
    alarm: str | None = None
    """Why the first verdict was doubted."""
    spearman: float | None = None
    """Rank correlation of the final scores and attributed P&L."""
    kendall: float | None = None
    calls: int = 0
    cached: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float = 0.0
    seconds: float = 0.0


class ScoredWindow(msgspec.Struct):
    """A window's group, and how it was judged if it was."""

    group: ScoredGroup
    run: JudgeRun | None = None
    judgments: list[Judgment] = msgspec.field(default_factory=list)
    seconds: float = 0.0
    """Wall time from its stored rows to its rewards; a judge's is in it."""

    @property
    def method(self) -> str:
        """Whose scores these are, in a word."""
        return self.run.method if self.run is not None and self.run.method else self.group.scorer


class WindowScorer(Protocol):
    """Rewards the members of one window; safe to call for several windows at the same time."""

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> str:
        """Changes whenever the same window could get other rewards."""
        ...

    async def score(self, window: WindowToScore) -> ScoredWindow:
        """Returns the scored group.

        Raises:
            ScoringError: The scorer is set up in a way that cannot score any window.
        """
        ...


class LocalWindowScorer:
    """A local scorer behind the interface; it looks at nothing but the episodes.

    Args:
        scorer: Gives the rewards.
        min_agents: Distinct agents below which a window is thin.
    """

    def __init__(self, scorer: Scorer, min_agents: int) -> None:
        self._scorer, self._min_agents = scorer, min_agents

    @property
    def name(self) -> str:
        return self._scorer.name

    @property
    def version(self) -> str:
        return self._scorer.version

    async def score(self, window: WindowToScore) -> ScoredWindow:
        group = score_window(window.episodes, self._scorer, self._min_agents, window_id=window.window_id)
        return ScoredWindow(group)
