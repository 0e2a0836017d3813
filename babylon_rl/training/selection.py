"""Which episodes of scored windows are trained: enough agents, enough actions, not more than are wanted.

The seeds' flags. What is left out is counted with its reason. Advantages stay those of the whole group,
except where an agent is to leave no trace: then they are computed anew without it.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import msgspec
import numpy as np

from babylon_rl.scoring.dropout import MOST, dropout_rate, kept_agents, lot
from babylon_rl.scoring.groups import SCORED, Member, ScoredGroup, leave_one_out, reward_decisions

FEW_AGENTS, FEW_ACTIONS, DROPPED_OUT, FORGOTTEN = "few_agents", "few_actions", "dropout", "without_agent"
OVER_CAP = "batch_size"


@dataclass(frozen=True)
class Selection:
    """What to train of the given windows; the default is everything.

    Attributes:
        min_agents: Distinct agents that a window needs.
        min_actions: Actions that an agent's hour needs.
        target: Episodes wanted in all; where there are more, each window loses the same share.
        max_dropout: That share at most.
        cap: Episodes that there may be at most, whatever else was wanted; drawn by window and agent id.
        without_agents: Agents whose rewards and episodes must not matter.
    """

    min_agents: int = 2
    min_actions: int = 0
    target: int | None = None
    max_dropout: float = MOST
    cap: int | None = None
    without_agents: tuple[str, ...] = ()


def select(groups: Iterable[ScoredGroup], selection: Selection) -> tuple[list[ScoredGroup], Counter[str]]:
    """The groups that are left, and the calls that were left out by reason."""
    dropped: Counter[str] = Counter()
    kept = [_without(group, selection.without_agents, dropped) for group in groups]
    enough = []
    for group in kept:
        if group.agents < selection.min_agents:
            dropped[FEW_AGENTS] += _calls(group.members)
            continue
        active = [member for member in group.members if member.actions >= selection.min_actions]
        dropped[FEW_ACTIONS] += _calls(group.members) - _calls(active)
        enough.append(msgspec.structs.replace(group, members=active))
    available = sum(len(group.trainable) for group in enough)
    rate = dropout_rate(available, selection.target, selection.max_dropout)
    thinned = [_thin(group, rate, dropped) for group in enough]
    if selection.cap is not None:
        thinned = _cap(thinned, selection.cap, dropped)
    return thinned, +dropped


def _without(group: ScoredGroup, agents: tuple[str, ...], dropped: Counter[str]) -> ScoredGroup:
    """A group as if some agents had never played; one that is left without a spread trains nothing."""
    members = [member for member in group.members if member.agent_id not in agents]
    if len(members) == len(group.members):
        return group
    dropped[FORGOTTEN] += _calls(group.members) - _calls(members)
    if len(members) < 2:
        return msgspec.structs.replace(group, members=[], agents=len(members), status="thin")
    advantages = leave_one_out(np.array([member.reward for member in members]))
    decisions = reward_decisions([[one.reward for one in member.decisions] for member in members])
    renewed = [
        msgspec.structs.replace(member, advantage=float(advantage), decisions=own)
        for member, advantage, own in zip(members, advantages, decisions, strict=True)
    ]
    return msgspec.structs.replace(
        group, members=renewed, agents=group.agents - len(group.members) + len(members)
    )


def _thin(group: ScoredGroup, rate: float, dropped: Counter[str]) -> ScoredGroup:
    if rate == 0 or group.status != SCORED:
        return group
    trainable = [member.agent_id for member in group.trainable]
    gone = set(trainable) - set(kept_agents(group.window_id, trainable, rate))
    members = [member for member in group.members if member.agent_id not in gone]
    dropped[DROPPED_OUT] += _calls(group.members) - _calls(members)
    return msgspec.structs.replace(group, members=members)


def _cap(groups: list[ScoredGroup], cap: int, dropped: Counter[str]) -> list[ScoredGroup]:
    """The same share of every group's episodes; where that would leave fewer than two, fewer groups."""
    sizes = {group.window_id: len(group.trainable) for group in groups if group.status == SCORED}
    sizes = {window_id: size for window_id, size in sizes.items() if size}
    total = sum(sizes.values())
    if total <= cap:
        return groups
    allowed = dict.fromkeys(sizes, 0)
    left = cap
    # Two each first, in an order that a repetition repeats, then the rest in proportion.
    for window_id in sorted(sizes, key=lot):
        allowed[window_id] = min(2, sizes[window_id], left)
        left -= allowed[window_id]
    share = left / max(1, total - sum(allowed.values()))
    for window_id in allowed:
        allowed[window_id] += int((sizes[window_id] - allowed[window_id]) * share + 1e-9)
    kept = []
    for group in groups:
        if group.window_id not in sizes:
            kept.append(group)
            continue
        trainable = sorted((m.agent_id for m in group.trainable), key=lambda a: lot(group.window_id, a))
        gone = set(trainable[allowed[group.window_id] :])
        members = [member for member in group.members if member.agent_id not in gone]
        dropped[OVER_CAP] += _calls(group.members) - _calls(members)
        kept.append(msgspec.structs.replace(group, members=members))
    return kept


def _calls(members: Iterable[Member]) -> int:
    return sum(len(member.calls) for member in members)
