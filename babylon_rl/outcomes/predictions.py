"""Prediction-market outcomes of a window, from resolutions and the price history.

`Question.outcome` holds the answer from the market's creation; it is never read here. An outcome counts in
the window in which its market was resolved, about three days after its trades.
"""

import math
from collections.abc import Collection
from datetime import datetime

import asyncpg

from babylon_rl.outcomes.sides import probability
from babylon_rl.outcomes.window_outcomes import UNRESOLVED, PredictionOutcome, clip_flags

# Of "Market" m. Questions made by the game's set-up script share only their text with the market, and two
# markets may share a text: then it says nothing.
RESOLUTION_TIMES = """
       (SELECT min(h."createdAt") FROM "PredictionPriceHistory" h
         WHERE h."marketId" = m."id" AND h."eventType" = 'resolution') AS in_history,
       (SELECT min(p."resolvedAt") FROM "Position" p WHERE p."marketId" = m."id") AS in_positions,
       coalesce((SELECT q."updatedAt" FROM "Question" q WHERE q."status" = 'resolved' AND q."id" = m."id"),
                (SELECT min(q."updatedAt") FROM "Question" q
                  WHERE q."status" = 'resolved' AND q."text" = m."question"
                    AND NOT EXISTS (SELECT 1 FROM "Market" o
                                     WHERE o."question" = m."question" AND o."id" <> m."id"))) AS in_question
"""
# A resolution moves "updatedAt", so a resolved market with an older one was resolved before the window. The
# row of a resolution carries the market's last price, not 0 or 1, and is no quote of its own.
_MARKETS = f"""
SELECT m.*, quote."yesPrice" AS quoted, traded.volume
  FROM (SELECT m."id", m."question", m."resolved", m."resolution", m."createdAt", m."updatedAt",
               m."yesShares"::float8 AS yes, m."noShares"::float8 AS no, {RESOLUTION_TIMES}
          FROM "Market" m
         WHERE (m."createdAt" < $2 AND (NOT m."resolved" OR m."updatedAt" >= $1))
            OR m."id" = ANY($3::text[])) m
  LEFT JOIN LATERAL (
       SELECT h."yesPrice" FROM "PredictionPriceHistory" h
        WHERE h."marketId" = m."id" AND h."eventType" <> 'resolution' AND h."createdAt" < $2
          AND (m.in_history IS NULL OR h."createdAt" <= m.in_history) AND h."yesPrice" BETWEEN 0 AND 100
        ORDER BY h."createdAt" DESC, h."id" DESC LIMIT 1) quote ON true
  LEFT JOIN LATERAL (
       SELECT sum(t."amount") AS volume
         FROM (SELECT "amount" FROM "AgentTrade"
                WHERE "marketType" = 'prediction' AND "marketId" = m."id"
                  AND "executedAt" >= $1 AND "executedAt" < $2
               UNION ALL
               SELECT "amount" FROM "NPCTrade"
                WHERE "marketType" = 'prediction' AND "marketId" = m."id"
                  AND "executedAt" >= $1 AND "executedAt" < $2) t
        WHERE t."amount" > 0 AND t."amount" < 'Infinity') traded ON true
 ORDER BY m."id" COLLATE "C"
"""


async def derive_predictions(
    game: asyncpg.Connection, start: datetime, end: datetime, touched: Collection[str] = ()
) -> list[PredictionOutcome]:
    """Returns every market that was active in `[start, end)`, by id: resolved there, or UNRESOLVED.

    Args:
        game: Connection to the game's database; only reads.
        start: Aware start of the window.
        end: Aware end of the window.
        touched: Ids of markets that the window's agents named or traded; they are covered even where they
            were resolved earlier.
    """
    named = sorted(set(touched))
    rows = await game.fetch(_MARKETS, start, end, named)
    markets = [_outcome(row, start, end, row["id"] in set(named)) for row in rows]
    return [market for market in markets if market is not None]


def resolution_time(row: asyncpg.Record) -> tuple[datetime | None, str]:
    """Returns when a market was resolved and where that is written, of a row with `RESOLUTION_TIMES`.

    `Market.updatedAt` comes last, because later on-chain updates move it.
    """
    if not row["resolved"]:
        return None, ""
    for column, source in (
        ("in_history", "history"),
        ("in_positions", "positions"),
        ("in_question", "question"),
    ):
        if row[column] is not None:
            return row[column], source
    return row["updatedAt"], "market"


def _outcome(row: asyncpg.Record, start: datetime, end: datetime, touched: bool) -> PredictionOutcome | None:
    resolved_at, source = resolution_time(row)
    outcome, flags = UNRESOLVED, []
    if resolved_at is not None and resolved_at < start:
        if not touched:
            return None
        flags.append("resolved_before")
    if resolved_at is not None and resolved_at < end:
        flags.append(f"time_from:{source}")
        if row["resolution"] is None:
            flags.append("resolved_without_answer")
        else:
            outcome = "YES" if row["resolution"] else "NO"
    else:
        resolved_at = None
        if not row["resolved"] and row["in_question"] is not None and row["in_question"] < end:
            # The game stopped between closing the question and paying the market out.
            flags.append("question_closed_market_open")
    chance, source = _probability(row)
    if source != "history":
        flags.append(f"probability_from:{source}")
    volume = float(row["volume"] or 0.0)
    return PredictionOutcome(
        market_id=row["id"],
        question=row["question"],
        outcome=outcome,
        final_probability=chance,
        resolved_at=resolved_at,
        volume=volume,
        flags=flags + clip_flags({"finalProbability": chance, "volume": volume}),
    )


def _probability(row: asyncpg.Record) -> tuple[float, str]:
    """Probability of YES, which is `no / (yes + no)` of the shares in the pool."""
    quoted = None if row["quoted"] is None else probability(row["quoted"])
    if quoted is not None:
        return quoted, "history"
    yes, no = row["yes"], row["no"]
    if math.isfinite(yes + no) and yes >= 0 and no >= 0 and yes + no > 0:
        return no / (yes + no), "reserves"
    return 0.5, "nothing"
