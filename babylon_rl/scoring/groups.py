"""Scored groups: the episodes of one window with their rewards and advantages, or the reason for none.

All agents of a window faced the same market, so the others' mean reward is the baseline of each one:

    advantage_i = reward_i - mean(reward_j, j != i)

Agents that no policy of ours played count in the baselines and are not trained.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from babylon_rl.records.steps import LlmCall, Step
from babylon_rl.records.trajectory import RecordedTrajectory
from babylon_rl.scoring.episodes import Episode
from babylon_rl.scoring.local import PNL, Named, Score, Scorer, ScoringError
from babylon_rl.scoring.reward_statistics import SMALLEST_SPREAD, correlation, spearman, variance_shares

SCORED, THIN, EMPTY, NO_SPREAD, IMMATURE = "scored", "thin", "empty", "no_spread", "immature"
UNJUDGED = "unjudged"
"""A judge or a reward function failed: to be repeated, and never trained."""


class RewardedDecision(msgspec.Struct, frozen=True):
    """One step of a member's hour."""

    reward: float
    advantage: float
    """Reward minus the mean reward of all decisions of the other members."""


class Member(msgspec.Struct, kw_only=True):
    """One agent of a scored window; see `Episode` for the fields they share."""

    agent_id: str
    reward: float
    advantage: float
    """Reward minus the mean reward of the other members."""
    trainable: bool
    """Whether the calls can be trained; otherwise the member only counts in the baselines."""
    components: dict[str, float]
    trajectory_ids: list[str]
    calls: list[LlmCall]
    policy_versions: list[str]
    attributed_pnl: float | None
    pnl_source: str
    start_equity: float | None
    actions: int
    invalid_actions: int
    trades: int
    wins: int
    losses: int
    unpriced_orders: int
    decisions: list[RewardedDecision] = msgspec.field(default_factory=list)
    """One per step, in order; empty if the scorer only rewards whole hours."""
    call_decisions: list[int] = msgspec.field(default_factory=list)
    """For each of `calls`, the place of its step in `decisions`; empty where these are."""

    def advantages_of_calls(self) -> list[float]:
        """The advantage of the decision that each call was made for, else the whole hour's."""
        if not self.call_decisions:
            return [self.advantage] * len(self.calls)
        return [self.decisions[place].advantage for place in self.call_decisions]


class ScoredGroup(msgspec.Struct, kw_only=True):
    """The verdict on one window."""

    window_id: str
    status: str
    """`scored`, or why there is nothing to train: `empty`, `thin`, `immature`, `no_spread`, `unjudged`."""
    reason: str
    """One line for people; empty when scored."""
    scorer: str
    scorer_version: str
    agents: int
    horizon: str | None = None
    members: list[Member] = msgspec.field(default_factory=list)
    """By agent id; only for `scored` and `no_spread`."""
    reward_mean: float | None = None
    reward_std: float | None = None
    """Population standard deviation."""
    pnl_mean: float | None = None
    """Mean attributed P&L in USD of the members whose P&L is known."""
    pnl_spearman: float | None = None
    """Rank correlation of reward and attributed P&L; None if one of them is constant."""
    variance_shares: dict[str, float] = msgspec.field(default_factory=dict)
    """Part of the reward's variance that each component makes; adds up to 1."""
    pnl_variance_share: float | None = None
    """Part that P&L makes: that of the component `pnl`, else the squared correlation with attributed P&L."""

    @property
    def trainable(self) -> list[Member]:
        """Members that enter the gradient."""
        return [member for member in self.members if member.trainable]


def score_window(
    episodes: Sequence[Episode], scorer: Scorer, min_agents: int, *, window_id: str | None = None
) -> ScoredGroup:
    """Scores one window; never raises for a bad window, which gets a status and a reason instead.

    Args:
        episodes: One per agent.
        scorer: What gives the rewards.
        min_agents: Distinct agents below which a window is thin.
        window_id: Needed only for a window without episodes.

    Raises:
        ScoringError: The scorer left an agent out or gave a reward that is no number.
    """
    refusal = refuse(episodes, scorer, min_agents, window_id=window_id)
    return refusal or group_of(episodes, scorer.score(episodes), scorer.name, scorer.version)


def refuse(
    episodes: Sequence[Episode], scorer: Named, min_agents: int, *, window_id: str | None = None
) -> ScoredGroup | None:
    """Returns the verdict on a window that cannot be scored (empty, thin, immature), else None."""
    agents = len({episode.agent_id for episode in episodes})
    status = reason = ""
    pending = sum(episode.pending_orders for episode in episodes)
    if not episodes:
        status, reason = EMPTY, "no readable trajectory"
    elif agents < min_agents:
        status, reason = THIN, f"{agents} of at least {min_agents} agents"
    elif pending:
        orders = sum(episode.trades for episode in episodes)
        horizon = episodes[0].horizon
        status, reason = IMMATURE, f"{pending} of {orders} orders have not reached their {horizon} horizon"
    if not status:
        return None
    found = window_id if window_id is not None else (episodes[0].window_id if episodes else None)
    if found is None:
        raise ScoringError("an empty window without its id", "Pass window_id.")
    return ScoredGroup(
        window_id=found,
        status=status,
        reason=reason,
        scorer=scorer.name,
        scorer_version=scorer.version,
        agents=agents,
        horizon=episodes[0].horizon if episodes else None,
    )


def group_of(
    episodes: Sequence[Episode], scores: Iterable[Score], scorer: str, scorer_version: str
) -> ScoredGroup:
    """Returns the group of at least two episodes that have scores.

    Raises:
        ScoringError: Scores and episodes are not of the same agents, or a reward is no finite number.
    """
    ordered = sorted(episodes, key=lambda episode: episode.agent_id)
    by_agent = _checked(ordered, scores)
    rewards = np.array([by_agent[episode.agent_id].reward for episode in ordered])
    spread = float(np.ptp(rewards))
    pnl = np.array([math.nan if e.attributed_pnl is None else e.attributed_pnl for e in ordered])
    known = np.isfinite(pnl)
    has_spread = spread > SMALLEST_SPREAD
    shares = variance_shares([by_agent[e.agent_id] for e in ordered]) if has_spread else {}
    pnl_share = shares.get(PNL)
    if pnl_share is None and has_spread:
        together = correlation(rewards[known], pnl[known])
        pnl_share = None if together is None else together**2
    return ScoredGroup(
        window_id=ordered[0].window_id,
        status=SCORED if has_spread else NO_SPREAD,
        reason="" if has_spread else f"all {len(ordered)} rewards are {rewards[0]:.6g}",
        scorer=scorer,
        scorer_version=scorer_version,
        agents=len(ordered),
        horizon=ordered[0].horizon,
        members=[
            _member(episode, by_agent[episode.agent_id], advantage, decisions)
            for episode, advantage, decisions in zip(
                ordered,
                leave_one_out(rewards),
                reward_decisions([by_agent[episode.agent_id].decisions for episode in ordered]),
                strict=True,
            )
        ],
        reward_mean=float(rewards.mean()),
        reward_std=float(rewards.std()),
        pnl_mean=float(pnl[known].mean()) if known.any() else None,
        pnl_spearman=spearman(rewards[known], pnl[known]) if has_spread else None,
        variance_shares=shares,
        pnl_variance_share=pnl_share,
    )


def with_calls(group: ScoredGroup, trajectories: Iterable[RecordedTrajectory]) -> ScoredGroup:
    """Returns a group that was scored from the lean view, with the calls that its members are trained on.

    Args:
        group: The group.
        trajectories: The whole view of the same window, in any order.
    """
    rows = {trajectory.trajectory_id: trajectory for trajectory in trajectories}
    members = []
    for member in group.members:
        steps = [step for trajectory_id in member.trajectory_ids for step in rows[trajectory_id].steps]
        calls = [call for step in steps for call in step.llm_calls]
        places = _places(steps) if member.decisions else []
        members.append(msgspec.structs.replace(member, calls=calls, call_decisions=places))
    return msgspec.structs.replace(group, members=members)


def leave_one_out(rewards: np.ndarray) -> np.ndarray:
    """Returns each reward minus the mean of the others, shape `(n,)`, n >= 2; zeros where all are equal."""
    if float(np.ptp(rewards)) <= SMALLEST_SPREAD:
        return np.zeros_like(rewards)
    n = rewards.size
    return (rewards - rewards.mean()) * (n / (n - 1))


def reward_decisions(rewards: Sequence[Sequence[float]]) -> list[list[RewardedDecision]]:
    """Returns each member's decisions with their advantages; nothing where a member has none.

    Args:
        rewards: Of every decision, by member; at least two members.
    """
    if not all(rewards):
        return [[] for _ in rewards]
    totals, counts = np.array([sum(own) for own in rewards]), np.array([len(own) for own in rewards])
    baselines = (totals.sum() - totals) / (counts.sum() - counts)
    return [
        [RewardedDecision(reward, float(reward - baseline)) for reward in own]
        for own, baseline in zip(rewards, baselines, strict=True)
    ]


def to_records(group: ScoredGroup) -> list[dict[str, Any]]:
    """Returns plain dicts for the artifact store: the verdict first, then one per member."""
    head = msgspec.to_builtins(group)
    members = head.pop("members")
    return [head, *members]


def from_records(records: Sequence[Mapping[str, Any]]) -> ScoredGroup:
    """The inverse of `to_records`."""
    head, *members = records
    return msgspec.convert({**head, "members": members}, ScoredGroup)


def _checked(episodes: Sequence[Episode], scores: Iterable[Score]) -> dict[str, Score]:
    by_agent = {score.agent_id: score for score in scores}
    agents = {episode.agent_id for episode in episodes}
    if by_agent.keys() != agents or len(agents) != len(episodes):
        odd = sorted(by_agent.keys() ^ agents)[:5]
        raise ScoringError(f"scores and episodes are of different agents: {odd}", "Score the window again.")
    for score in by_agent.values():
        if not math.isfinite(score.reward):
            raise ScoringError(f"reward {score.reward} of agent {score.agent_id}", "Score the window again.")
    return by_agent


def _member(episode: Episode, score: Score, advantage: float, decisions: list[RewardedDecision]) -> Member:
    return Member(
        agent_id=episode.agent_id,
        reward=score.reward,
        advantage=float(advantage),
        trainable=episode.trainable,
        components=dict(sorted(score.components.items())),
        trajectory_ids=episode.trajectory_ids,
        calls=episode.calls,
        policy_versions=episode.policy_versions,
        attributed_pnl=episode.attributed_pnl,
        pnl_source=episode.pnl_source,
        start_equity=episode.start_equity,
        actions=episode.actions,
        invalid_actions=episode.invalid_actions,
        trades=episode.trades,
        wins=episode.wins,
        losses=episode.losses,
        unpriced_orders=episode.unpriced_orders,
        decisions=decisions,
        call_decisions=_places(episode.steps) if decisions else [],
    )


def _places(steps: Iterable[Step]) -> list[int]:
    """For each call of the steps, in order, the place of its step."""
    return [place for place, step in enumerate(steps) for _ in step.llm_calls]
