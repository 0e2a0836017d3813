"""Which calls of scored groups are trained, as they are stored, and whether one of them tells too much."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from babylon_rl.outcomes.window_outcomes import WindowOutcomes
from babylon_rl.scoring.groups import SCORED, ScoredGroup
from babylon_rl.training.batch_records import call_record, member_record
from babylon_rl.training.eligibility import Eligibility, why_not
from babylon_rl.training.leaks import Leak, scan


@dataclass
class Chosen:
    """Episodes with the calls that are trained; the others are counted."""

    episodes: list[dict[str, Any]] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)
    versions: Counter[str] = field(default_factory=Counter)

    @property
    def groups(self) -> set[str]:
        """The groups that the episodes are of."""
        return {episode["window_id"] for episode in self.episodes}

    @property
    def calls(self) -> int:
        """Calls that are trained."""
        return sum(len(episode["calls"]) for episode in self.episodes)

    def __add__(self, other: "Chosen") -> "Chosen":
        return Chosen(
            self.episodes + other.episodes, self.dropped + other.dropped, self.versions + other.versions
        )


def choose(
    groups: Iterable[ScoredGroup], takes: Eligibility, behind: Mapping[str, int], *, by_decision: bool = False
) -> Chosen:
    """The calls that may be trained.

    Args:
        behind: Live versions by how many newer ones there are.
        by_decision: Whether a call is paid for the decision that it was made for, where that has a reward.
    """
    chosen = Chosen()
    for group in groups:
        if group.status != SCORED:
            continue
        for member in group.members:
            calls = []
            decided = by_decision and bool(member.call_decisions)
            for call, advantage in zip(member.calls, member.advantages_of_calls(), strict=True):
                paid = advantage if decided else member.advantage
                if reason := why_not(call, paid, takes, behind):
                    chosen.dropped[reason] += 1
                else:
                    chosen.versions[str(call.policy_version or call.model)] += 1
                    calls.append(call_record(call, paid if decided else None))
            if calls:
                chosen.episodes.append(member_record(group.window_id, member, calls))
    return chosen


def leaks_of(
    group: str, outcomes: WindowOutcomes | None, episodes: Sequence[Mapping[str, Any]]
) -> list[Leak]:
    """What the episodes of one group tell of its outcomes."""
    found = []
    for episode in episodes:
        if episode["window_id"] == group:
            conversations = (call["messages"] for call in episode["calls"])
            found += scan(group, episode["agent_id"], conversations, outcomes)
    return found
