"""A day in pictures and tables: drawn once for the day, not for each of its windows."""

from dataclasses import dataclass

import asyncpg

from babylon_rl.orchestration.charts import histogram_markdown

SHOWN = 5

_EPISODES = """
SELECT s.window_id, s.agent_id, s.reward, s.advantage
  FROM rl.scores s JOIN rl.window_state w
    ON w.window_id = s.window_id AND w.group_sha256 = s.group_sha256
 WHERE s.window_id BETWEEN $1 AND $2 ORDER BY s.reward DESC, s.window_id, s.agent_id
"""
_WINDOWS = """
SELECT window_id, group_status, episodes, reward_mean, pnl_mean FROM rl.window_state
 WHERE window_id BETWEEN $1 AND $2 ORDER BY window_id
"""


@dataclass(frozen=True)
class DayReport:
    """What a person looks for first.

    Attributes:
        best: Window, agent, reward and advantage of the best episodes, best first.
        worst: The same of the worst ones, worst first.
        windows: Window, status, episodes, mean reward and mean P&L in dollars.
        rewards: A picture of the episodes' rewards, as markdown.
        pnl: A picture of the windows' mean P&L in dollars, as markdown.
    """

    best: list[tuple]
    worst: list[tuple]
    windows: list[tuple]
    rewards: str
    pnl: str


async def report_day(rl: asyncpg.Connection, day: str) -> DayReport:
    """Reads the scored windows of a day."""
    first, last = f"{day}T00:00", f"{day}T23:00"
    episodes = [tuple(row) for row in await rl.fetch(_EPISODES, first, last)]
    windows = [tuple(row) for row in await rl.fetch(_WINDOWS, first, last)]
    return DayReport(
        best=episodes[:SHOWN],
        worst=episodes[: -SHOWN - 1 : -1],
        windows=windows,
        rewards=histogram_markdown([reward for _, _, reward, _ in episodes], "Reward per episode"),
        pnl=histogram_markdown([row[-1] for row in windows if row[-1] is not None], "Mean P&L per window, $"),
    )
