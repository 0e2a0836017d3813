"""What a batch needs besides its groups: who confirms calls, how old their policies are, earlier windows."""

from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import repeat

import asyncpg
import numpy as np

from babylon_rl import windows
from babylon_rl.scoring.baselines import FAR, Earlier, without_effects
from babylon_rl.scoring.groups import SCORED, ScoredGroup, leave_one_out
from babylon_rl.training.diagnostics import split_half
from babylon_rl.training.eligibility import Eligibility
from babylon_rl.training.joining import join_calls
from babylon_rl.training.rescoring import rescore
from babylon_rl.training.selection import Selection, select

_LINE = """
SELECT version FROM rl.models
 WHERE branch IS NULL AND status IN ('ready', 'deployed', 'archived') AND verdict IS DISTINCT FROM 'rejected'
 ORDER BY day NULLS FIRST, created_at, version
"""
_EARLIER = """
SELECT score.window_id, score.agent_id, score.reward FROM rl.scores AS score
  JOIN rl.window_state AS state USING (window_id, group_sha256)
 WHERE score.window_id >= $1 AND score.window_id < $2 AND state.group_status = 'scored'
   AND score.scorer = ANY($3::text[])
"""


@dataclass
class Evidence:
    """The groups as they are trained.

    Attributes:
        groups: With confirmed calls, selected members, and advantages without the agents' effects.
        found: Calls by who confirms them.
        dropped: Calls that are left out, by reason.
        without_logprobs: Calls that came without log-probabilities by what became of them.
        behind: Live versions by how many newer ones there are; what is not in it has no known age.
        figures: Of the baseline, and of the advantages before it.
    """

    groups: list[ScoredGroup]
    found: dict[str, int]
    dropped: Counter[str]
    without_logprobs: dict[str, int]
    behind: dict[str, int] = field(default_factory=dict)
    figures: dict[str, float] = field(default_factory=dict)


async def gather(
    rl: asyncpg.Connection, groups: Sequence[ScoredGroup], takes: Eligibility, wanted: Selection | None
) -> Evidence:
    """Confirm, score again, select and take the agents' effects out.

    In this order: the selection counts who can be trained, and baselines are made of what is left.
    """
    joined = await join_calls(rl, groups, unconfirmed=takes.unconfirmed == "train")
    kept, without = await rescore(rl, joined.groups)
    dropped = joined.dropped
    if wanted is not None:
        kept, left_out = select(kept, wanted)
        dropped = dropped + left_out
    line = [row["version"] for row in await rl.fetch(_LINE)]
    behind = {version: number for number, version in enumerate(reversed(line))}
    forgotten = () if wanted is None else wanted.without_agents
    trained, figures = without_effects(kept, await earlier_windows(rl, kept, forgotten))
    if (reliability := split_half([group for group in kept if group.status == SCORED])) is not None:
        figures["split_half"] = reliability
    found, rescored = dict(sorted(joined.found.items())), dict(sorted(without.items()))
    return Evidence(trained, found, dropped, rescored, behind, figures)


async def earlier_windows(
    rl: asyncpg.Connection, groups: Sequence[ScoredGroup], without: Collection[str] = ()
) -> list[Earlier]:
    """What agents were above the others in the windows before some groups, as if some had never played.

    Advantages are made of the rewards that are left, as an agent's own reward is in the others' baselines.
    That of a forgotten agent is gone already.
    """
    scored = sorted((group for group in groups if group.status == SCORED), key=lambda g: g.window_id)
    if not scored:
        return []
    first = windows.window_id_at(windows.window_range(scored[0].window_id)[0] - FAR - timedelta(hours=1))
    scorers = sorted({group.scorer for group in scored})
    rewards: dict[str, dict[str, float]] = defaultdict(dict)
    for window_id, agent_id, reward in await rl.fetch(_EARLIER, first, scored[-1].window_id, scorers):
        if agent_id not in without:
            rewards[window_id][agent_id] = reward
    found = []
    for window_id, members in sorted(rewards.items()):
        if len(members) > 1:
            agents = sorted(members)
            advantages = leave_one_out(np.array([members[agent] for agent in agents]))
            found += map(Earlier, repeat(window_id), agents, advantages.tolist())
    return found
