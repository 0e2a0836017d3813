"""What judging some windows will cost at most, told before anything is asked.

estimate = await estimate_cost(rl, ["2026-10-01T14:00"], settings)
estimate.windows, estimate.usd, estimate.basis
"""

from collections.abc import Sequence
from dataclasses import dataclass

import asyncpg

from babylon_rl.scoring.judge.address import judge_address
from babylon_rl.scoring.judge.rubric import load_rubric
from babylon_rl.scoring.scorers import JUDGED
from babylon_rl.settings import Settings

BYTES_PER_TOKEN = 4
ANSWER_TOKENS = 150
"""Tokens that a judge writes about one episode."""

# A verdict on the same content by the same judge and rubric is kept and costs nothing.
_UNPAID = """
SELECT r.window_id, r.agents, coalesce(b.bytes, 0) AS bytes
  FROM rl.recorded_windows r
  LEFT JOIN (SELECT window_id, sum(bytes) AS bytes FROM rl.window_rows
              WHERE excluded IS NULL AND window_id = ANY($1) GROUP BY window_id) b USING (window_id)
 WHERE r.window_id = ANY($1) AND r.agents >= $2
   AND NOT (r.taken IS NOT DISTINCT FROM r.fingerprint AND EXISTS (
            SELECT 1 FROM rl.judge_runs j
             WHERE j.window_id = r.window_id AND j.status = 'judged' AND j.judge_model = $3
               AND j.rubric_sha256 = $4))
"""
_PAID = """
SELECT sum(cost_usd) / nullif(sum(episodes), 0) AS usd, count(*) AS windows
  FROM rl.judge_runs WHERE judge_model = $1 AND status = 'judged' AND cached = 0 AND episodes > 0
"""


@dataclass(frozen=True)
class CostEstimate:
    """What a judge will be paid.

    Attributes:
        windows: Windows that a judge will be asked about.
        episodes: Their episodes.
        usd: Dollars; measured where this judge was paid before, else an upper bound.
        basis: Where the figure comes from, in words.
    """

    windows: int = 0
    episodes: int = 0
    usd: float = 0.0
    basis: str = "no judge: the scorer is local"


async def estimate_cost(
    rl: asyncpg.Connection, window_ids: Sequence[str], settings: Settings
) -> CostEstimate:
    """Estimates what scoring the windows with the judge of the settings costs; asks nobody.

    Raises:
        JudgeSetupError: The judge's address or price is not known.
    """
    if settings.scorer not in JUDGED:
        return CostEstimate()
    rubric = load_rubric(settings.judge_rubric).sha256
    rows = await rl.fetch(
        _UNPAID, list(window_ids), settings.min_agents_per_window, settings.judge_model, rubric
    )
    episodes = sum(row["agents"] for row in rows)
    if not rows:
        return CostEstimate(basis=f"{settings.judge_model} has judged them all, with this rubric")
    paid = await rl.fetchrow(_PAID, settings.judge_model)
    if paid is not None and paid["usd"] is not None and paid["windows"] >= 3:
        return CostEstimate(
            len(rows),
            episodes,
            episodes * paid["usd"],
            f"${paid['usd']:.4f} per episode, as {settings.judge_model} cost in {paid['windows']} windows",
        )
    price = judge_address(settings).price
    read = sum(
        min(row["bytes"] // BYTES_PER_TOKEN, row["agents"] * settings.judge_episode_tokens) for row in rows
    )
    usd = settings.judge_orders * price.cost(read, episodes * ANSWER_TOKENS)
    return CostEstimate(
        len(rows), episodes, usd, f"at most, from the size of the rows and {settings.judge_model}'s price"
    )
