"""The recorded path of a prediction market: its reserves over time, and how it was resolved."""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from datetime import datetime

import asyncpg
import msgspec

from babylon_rl.outcomes.cpmm import Pool, moved
from babylon_rl.outcomes.predictions import RESOLUTION_TIMES, resolution_time

_EVENTS = """
SELECT "marketId", "createdAt", "yesShares"::float8 AS yes, "noShares"::float8 AS no
  FROM "PredictionPriceHistory"
 WHERE "marketId" = ANY($1::text[]) AND "eventType" <> 'resolution'
 ORDER BY "marketId", "createdAt", "id"
"""
_MARKETS = f"""
SELECT m."id", m."createdAt", m."updatedAt", m."resolved", m."resolution",
       m."yesShares"::float8 AS yes, m."noShares"::float8 AS no, {RESOLUTION_TIMES}
  FROM "Market" m WHERE m."id" = ANY($1::text[])
"""


class PoolPath(msgspec.Struct):
    """Reserves of one market, each valid from its time until the next one's."""

    times: list[datetime]
    pools: list[Pool]
    resolved_at: datetime | None = None
    answer: bool | None = None
    """What the market was resolved to; None while it is open, or where the game lost the answer."""

    def at(self, moment: datetime) -> Pool | None:
        """Returns the reserves at a moment, after everything that happened until then."""
        last = bisect_right(self.times, moment)
        return self.pools[last - 1] if last else None

    def carry(self, own: Pool, after: datetime, until: datetime) -> Pool:
        """Returns what a pool with an order of ours in it becomes through the trades in `(after, until]`."""
        first, last = bisect_right(self.times, after), bisect_right(self.times, until)
        for index in range(max(first, 1), last):
            own = moved(own, self.pools[index - 1], self.pools[index])
        return own

    def resolved_by(self, moment: datetime) -> bool:
        """Whether the market had its answer at a moment."""
        return self.answer is not None and self.resolved_at is not None and self.resolved_at <= moment


async def load_pool_paths(game: asyncpg.Connection, markets: Iterable[str]) -> dict[str, PoolPath]:
    """Returns the recorded path of every market that exists, by id.

    A market that was never traded has its present reserves from the beginning. Before its first trade a
    market had equal reserves with the product of the first recorded ones: that is how the game makes them.
    Trades that the game writes without a history row show in the market's present reserves.
    """
    ids = sorted(set(markets))
    rows = await game.fetch(_MARKETS, ids)
    events: dict[str, list[tuple[datetime, Pool]]] = {row["id"]: [] for row in rows}
    for event in await game.fetch(_EVENTS, ids):
        pool = Pool(event["yes"], event["no"])
        if pool.is_liquid:
            events[event["marketId"]].append((event["createdAt"], pool))
    return {row["id"]: _path(row, events[row["id"]]) for row in rows}


def _path(market: asyncpg.Record, events: Sequence[tuple[datetime, Pool]]) -> PoolPath:
    present, path = Pool(market["yes"], market["no"]), list(events)
    if not path and present.is_liquid:
        path = [(market["createdAt"], present)]
    elif path:
        if market["createdAt"] < path[0][0]:
            reserve = path[0][1].product ** 0.5
            path.insert(0, (market["createdAt"], Pool(reserve, reserve)))
        if present.is_liquid and not market["resolved"] and market["updatedAt"] > path[-1][0]:
            path.append((market["updatedAt"], present))
    resolved_at, _ = resolution_time(market)
    return PoolPath(
        times=[moment for moment, _ in path],
        pools=[pool for _, pool in path],
        resolved_at=resolved_at,
        answer=market["resolution"] if resolved_at is not None else None,
    )
