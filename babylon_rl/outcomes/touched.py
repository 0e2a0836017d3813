"""What the agents of a window named or traded: the markets that its outcomes have to cover."""

import asyncpg

from babylon_rl import windows

_NAMED = """
SELECT agent_id, array_agg(DISTINCT name) FILTER (WHERE name IS NOT NULL) AS names
  FROM rl.window_rows LEFT JOIN LATERAL unnest(instruments) AS name ON true
 WHERE window_id = $1 AND (excluded IS NULL OR excluded = 'test_user')
 GROUP BY agent_id
"""
_TRADED = """
SELECT "marketId" AS name FROM "AgentTrade"
 WHERE "agentUserId" = ANY($1::text[]) AND "executedAt" >= $2 AND "executedAt" < $3 AND "marketId" IS NOT NULL
UNION
SELECT "ticker" FROM "AgentTrade"
 WHERE "agentUserId" = ANY($1::text[]) AND "executedAt" >= $2 AND "executedAt" < $3 AND "ticker" IS NOT NULL
UNION
SELECT "ticker" FROM "PerpPosition"
 WHERE "userId" = ANY($1::text[]) AND "openedAt" >= $2 AND "openedAt" < $3
UNION
SELECT "marketId" FROM "Position"
 WHERE "userId" = ANY($1::text[]) AND "createdAt" >= $2 AND "createdAt" < $3
"""


async def window_agents(rl: asyncpg.Connection, window_id: str) -> list[str]:
    """Returns the agents with rows in a window, test users included, sorted."""
    return sorted(row["agent_id"] for row in await rl.fetch(_NAMED, window_id))


async def touched_instruments(game: asyncpg.Connection, rl: asyncpg.Connection, window_id: str) -> list[str]:
    """Returns market ids and tickers, as they are spelled, that the agents of a window named or traded.

    Args:
        game: Connection to the game's database; only reads.
        rl: Connection to the database with schema `rl`; may be the same one.
        window_id: A canonical window id.
    """
    start, end = windows.window_range(window_id)
    rows = await rl.fetch(_NAMED, window_id)
    found = {name for row in rows for name in row["names"] or ()}
    traded = await game.fetch(_TRADED, [row["agent_id"] for row in rows], start, end)
    return sorted(found | {row["name"] for row in traded})
