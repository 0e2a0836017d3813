"""What partitions were made from, by the digests of each upstream asset: the lineage that goes to W&B."""

from collections.abc import Sequence

import asyncpg

Inputs = dict[str, dict[str, str]]
"""By partition: what it was made from, and the digest of that."""

_GROUPS = """
SELECT window_id, snapshot_sha256 AS trajectories, outcomes_sha256 AS outcomes
  FROM rl.window_state WHERE window_id = ANY($1::text[])
"""
_BATCH = """
SELECT window_id, group_sha256 FROM rl.window_state
 WHERE window_id = ANY($1::text[]) AND group_status = 'scored' AND group_sha256 IS NOT NULL
"""


async def inputs_of_groups(rl: asyncpg.Connection, window_ids: Sequence[str]) -> Inputs:
    """The snapshot and the outcomes behind each window's group, as far as they exist.

    The digest of `market_outcomes` covers this hash of the outcomes and the values of orders.
    """
    return {
        row["window_id"]: {name: row[name] for name in ("trajectories", "outcomes") if row[name]}
        for row in await rl.fetch(_GROUPS, list(window_ids))
    }


async def inputs_of_batch(rl: asyncpg.Connection, day: str, window_ids: Sequence[str]) -> Inputs:
    """The scored groups of a day's windows."""
    rows = await rl.fetch(_BATCH, list(window_ids))
    return {day: {row["window_id"]: row["group_sha256"] for row in rows}}
