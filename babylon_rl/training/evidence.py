"""What a batch needs besides its groups: who confirms calls, how old their policies are, earlier windows."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta

import asyncpg

from babylon_rl import windows
from babylon_rl.scoring.baselines import FAR, Earlier, without_effects
from babylon_rl.scoring.groups import SCORED, ScoredGroup
from babylon_rl.training.diagnostics import split_half
from babylon_rl.training.eligibility import Eligibility
from babylon_rl.training.joining import join_calls
from babylon_rl.training.selection import Selection, select

_LINE = """
SELECT version FROM rl.models
 WHERE branch IS NULL AND status IN ('ready', 'deployed', 'archived') AND verdict IS DISTINCT FROM 'rejected'
 ORDER BY day NULLS FIRST, created_at, version
"""
_EARLIER = """
SELECT score.window_id, score.agent_id, score.advantage FROM rl.scores AS score
  JOIN rl.window_state AS state USING (window_id, group_sha256)
 WHERE score.window_id >= $1 AND score.window_id < $2 AND state.group_status = 'scored'
   AND score.scorer = ANY($3::text[])
 ORDER BY score.window_id, score.agent_id
"""


@dataclass
class Evidence:
    """The groups as they are trained.

    Attributes:
        groups: With confirmed calls, selected members, and advantages without the agents' effects.
        found: Calls by who confirms them.
        dropped: Calls that are left out, by reason.
        behind: Live versions by how many newer ones there are; what is not in it has no known age.
        figures: Of the baseline, and of the advantages before it.
    """

    groups: list[ScoredGroup]
    found: dict[str, int]
    dropped: Counter[str]
    behind: dict[str, int] = field(default_factory=dict)
    figures: dict[str, float] = field(default_factory=dict)


async def gather(
    rl: asyncpg.Connection, groups: Sequence[ScoredGroup], takes: Eligibility, wanted: Selection | None
) -> Evidence:
    """Confirm, select and take the agents' effects out, in this order: baselines are made of what is left."""
    joined = await join_calls(rl, groups, unconfirmed=takes.unconfirmed == "train")
    kept, dropped = joined.groups, joined.dropped
    if wanted is not None:
        kept, left_out = select(kept, wanted)
        dropped = dropped + left_out
    line = [row["version"] for row in await rl.fetch(_LINE)]
    behind = {version: number for number, version in enumerate(reversed(line))}
    trained, figures = without_effects(kept, await _earlier(rl, kept))
    if (reliability := split_half([group for group in kept if group.status == SCORED])) is not None:
        figures["split_half"] = reliability
    return Evidence(trained, dict(sorted(joined.found.items())), dropped, behind, figures)


async def _earlier(rl: asyncpg.Connection, groups: Sequence[ScoredGroup]) -> list[Earlier]:
    scored = sorted((group for group in groups if group.status == SCORED), key=lambda g: g.window_id)
    if not scored:
        return []
    first = windows.window_id_at(windows.window_range(scored[0].window_id)[0] - FAR - timedelta(hours=1))
    scorers = sorted({group.scorer for group in scored})
    return [Earlier(*row) for row in await rl.fetch(_EARLIER, first, scored[-1].window_id, scorers)]
