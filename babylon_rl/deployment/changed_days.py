"""Trained days that would be trained on something else now.

A day keeps the batch that it was trained on, so Dagster calls it fresh once it was materialized again.
"""

from dataclasses import dataclass

import asyncpg

# A group's scores are kept under its hash, so its first one says since when the window has this group.
_CHANGED_DAYS = """
SELECT trained.day::text AS day, trained.version, count(*) AS windows
  FROM rl.trained_days AS trained
  JOIN rl.training_units AS unit USING (unit_key)
  JOIN rl.window_state AS state ON state.window_id >= trained.day::text
                               AND state.window_id < (trained.day + 1)::text
 WHERE trained.version IS NOT NULL AND state.group_status = 'scored'
   AND (SELECT min(scored_at) FROM rl.scores AS score
         WHERE score.window_id = state.window_id
           AND score.group_sha256 = state.group_sha256) > unit.created_at
 GROUP BY 1, 2 ORDER BY 1
"""


@dataclass(frozen=True)
class ChangedDay:
    """A trained day, windows of which have another group now than when it was trained.

    Attributes:
        version: The checkpoint that it was trained to; it stays what it is.
        windows: How many windows were scored anew.
    """

    day: str
    version: str
    windows: int


async def changed_days(rl: asyncpg.Connection) -> list[ChangedDay]:
    """Returns every trained day whose windows would give another batch now, oldest first."""
    return [ChangedDay(**row) for row in await rl.fetch(_CHANGED_DAYS)]
