"""Stock outcomes and news of a window, from recorded prices, world events and articles."""

import math
from collections import Counter
from datetime import datetime

import asyncpg

from babylon_rl.outcomes.tickers import TickerAliases, engine_ticker
from babylon_rl.outcomes.window_outcomes import News, StockOutcome, clip_flags, sentiment

# `price` beyond zero and infinity: NaN sorts above infinity in PostgreSQL. Rows of one millisecond go by id.
_PRICES = """
SELECT o."id", o."name", o."initialPrice" AS initial, before."price" AS before, first."price" AS first,
       last."price" AS last,
       (SELECT count(*) FROM "StockPrice" p
         WHERE p."organizationId" = o."id" AND p."timestamp" > $1 AND p."timestamp" < $2 AND p."change" <> 0
       ) AS moves
  FROM "Organization" o
  LEFT JOIN LATERAL (
       SELECT p."price" FROM "StockPrice" p
        WHERE p."organizationId" = o."id" AND p."timestamp" <= $1 AND p."price" > 0 AND p."price" < 'Infinity'
        ORDER BY p."timestamp" DESC, p."id" DESC LIMIT 1) before ON true
  LEFT JOIN LATERAL (
       SELECT p."price" FROM "StockPrice" p
        WHERE p."organizationId" = o."id" AND p."timestamp" > $1 AND p."timestamp" < $2
          AND p."price" > 0 AND p."price" < 'Infinity'
        ORDER BY p."timestamp", p."id" LIMIT 1) first ON true
  LEFT JOIN LATERAL (
       SELECT p."price" FROM "StockPrice" p
        WHERE p."organizationId" = o."id" AND p."timestamp" > $1 AND p."timestamp" < $2
          AND p."price" > 0 AND p."price" < 'Infinity'
        ORDER BY p."timestamp" DESC, p."id" DESC LIMIT 1) last ON true
 WHERE o."type" = 'company'
 ORDER BY o."id"
"""
_VOLUMES = """
SELECT "organizationId", "ticker", sum("size") AS volume
  FROM (SELECT "organizationId", "ticker", "size" FROM "PerpPosition"
         WHERE "openedAt" >= $1 AND "openedAt" < $2
        UNION ALL
        SELECT "organizationId", "ticker", "size" FROM "PerpPosition"
         WHERE "closedAt" >= $1 AND "closedAt" < $2
        UNION ALL
        SELECT "ticker", "ticker", "amount" FROM "NPCTrade"
         WHERE "marketType" = 'perp' AND "ticker" IS NOT NULL
           AND "executedAt" >= $1 AND "executedAt" < $2) traded
 WHERE "size" > 0 AND "size" < 'Infinity'
 GROUP BY "organizationId", "ticker"
 ORDER BY "organizationId", "ticker"
"""
_EVENTS = """
SELECT "timestamp", "description" AS text, "actors"
  FROM "WorldEvent"
 WHERE "visibility" = 'public' AND "timestamp" >= $1 AND "timestamp" < $2
 ORDER BY "timestamp", "id"
"""
_ARTICLES = """
SELECT "timestamp", coalesce(nullif("articleTitle", ''), "content") AS text
  FROM "Post"
 WHERE "type" = 'article' AND "deletedAt" IS NULL AND "timestamp" >= $1 AND "timestamp" < $2
 ORDER BY "timestamp", "id"
"""


async def load_aliases(game: asyncpg.Connection) -> TickerAliases:
    """Returns the spellings of all companies."""
    rows = await game.fetch(
        """SELECT "id", "name" FROM "Organization" WHERE "type" = 'company' ORDER BY "id" """
    )
    return TickerAliases([(row["id"], row["name"]) for row in rows])


async def load_news(
    game: asyncpg.Connection, aliases: TickerAliases, start: datetime, end: datetime
) -> list[News]:
    """Returns public events and articles of `[start, end)` in time order, with the companies they name."""
    news = [
        _news("event", row, aliases, {aliases.resolve(actor) for actor in row["actors"] or []})
        for row in await game.fetch(_EVENTS, start, end)
    ]
    news += [_news("article", row, aliases, set()) for row in await game.fetch(_ARTICLES, start, end)]
    return sorted(news, key=lambda item: item.published_at)


async def derive_stocks(
    game: asyncpg.Connection, aliases: TickerAliases, news: list[News], start: datetime, end: datetime
) -> list[StockOutcome]:
    """Returns the outcome of every company in `[start, end)`, by organization id."""
    rows = await game.fetch(_PRICES, start, end)
    sharing = Counter(engine_ticker(row["id"]) for row in rows)
    volumes: Counter[str | None] = Counter()
    for row in await game.fetch(_VOLUMES, start, end):
        volumes[aliases.resolve(row["organizationId"]) or aliases.resolve(row["ticker"])] += row["volume"]
    return [
        _stock(row, volumes[row["id"]], news, shared=sharing[engine_ticker(row["id"])] > 1) for row in rows
    ]


def _stock(row: asyncpg.Record, volume: float, news: list[News], *, shared: bool) -> StockOutcome:
    start_price, flags = _start_price(row)
    end_price = row["last"] if row["last"] is not None else start_price
    change = None
    if start_price is not None and end_price is not None:
        change = (end_price - start_price) / start_price * 100
    if shared:
        flags.append("ticker_shared")
    columns = {"startPrice": start_price, "endPrice": end_price, "changePercent": change, "volume": volume}
    return StockOutcome(
        ticker=engine_ticker(row["id"]),
        organization_id=row["id"],
        name=row["name"],
        start_price=start_price,
        end_price=end_price,
        change_percent=change if change is not None and math.isfinite(change) else None,
        sentiment=sentiment(change),
        moves=row["moves"],
        volume=float(volume),
        news=[item.text for item in news if row["id"] in item.organizations],
        flags=flags + clip_flags(columns),
    )


def _start_price(row: asyncpg.Record) -> tuple[float | None, list[str]]:
    if row["before"] is not None:
        return row["before"], []
    initial = row["initial"]
    if initial is not None and 0 < initial < float("inf"):
        return initial, ["start_is_initial"]
    if row["first"] is not None:
        return row["first"], ["start_is_first_inside"]
    return None, ["no_prices"]


def _news(kind: str, row: asyncpg.Record, aliases: TickerAliases, named: set[str | None]) -> News:
    organizations = {name for name in named if name is not None} | set(aliases.mentioned(row["text"]))
    return News(
        kind=kind, published_at=row["timestamp"], text=row["text"], organizations=sorted(organizations)
    )
