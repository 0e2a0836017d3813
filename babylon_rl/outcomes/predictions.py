"""Prediction-market outcomes of a window, from resolutions and the price history.

`Question.outcome` holds the answer from the market's creation; it is never read here. An outcome counts in
the window in which its market was resolved, about three days after its trades.
"""

import math
from datetime import datetime

import asyncpg

from babylon_rl.outcomes.window_outcomes import UNRESOLVED, PredictionOutcome, clip_flags

# A resolution moves "updatedAt", so a resolved market with an older one was resolved before the window. The
# row of a resolution carries the market's last price, not 0 or 1, and is no quote of its own. Questions made
# by the game's set-up script share only their text with the market.
_MARKETS = """
SELECT m."id", m."question", m."resolved", m."resolution", m."updatedAt",
       m."yesShares"::float8 AS yes, m."noShares"::float8 AS no,
       (SELECT min(h."createdAt") FROM "PredictionPriceHistory" h
         WHERE h."marketId" = m."id" AND h."eventType" = 'resolution') AS in_history,
       (SELECT min(p."resolvedAt") FROM "Position" p WHERE p."marketId" = m."id") AS in_positions,
       (SELECT min(q."updatedAt") FROM "Question" q
         WHERE q."status" = 'resolved' AND (q."id" = m."id" OR q."text" = m."question")) AS in_question,
       quote."yesPrice" AS quoted
  FROM "Market" m
  LEFT JOIN LATERAL (
       SELECT h."yesPrice" FROM "PredictionPriceHistory" h
        WHERE h."marketId" = m."id" AND h."eventType" <> 'resolution' AND h."createdAt" < $2
          AND h."yesPrice" BETWEEN 0 AND 1
        ORDER BY h."createdAt" DESC, h."id" DESC LIMIT 1) quote ON true
 WHERE m."createdAt" < $2 AND (NOT m."resolved" OR m."updatedAt" >= $1)
 ORDER BY m."id"
"""


async def derive_predictions(
    game: asyncpg.Connection, start: datetime, end: datetime
) -> list[PredictionOutcome]:
    """Returns every market that was active in `[start, end)`, by id: resolved there, or UNRESOLVED."""
    markets = [_outcome(row, start, end) for row in await game.fetch(_MARKETS, start, end)]
    return [market for market in markets if market is not None]


def _outcome(row: asyncpg.Record, start: datetime, end: datetime) -> PredictionOutcome | None:
    resolved_at, source = _resolution_time(row)
    if resolved_at is not None and resolved_at < start:
        return None
    outcome, flags = UNRESOLVED, []
    if resolved_at is not None and resolved_at < end:
        flags.append(f"time_from:{source}")
        if row["resolution"] is None:
            flags.append("resolved_without_answer")
        else:
            outcome = "YES" if row["resolution"] else "NO"
    else:
        resolved_at = None
    probability, source = _probability(row)
    if source != "history":
        flags.append(f"probability_from:{source}")
    return PredictionOutcome(
        market_id=row["id"],
        question=row["question"],
        outcome=outcome,
        final_probability=probability,
        resolved_at=resolved_at,
        flags=flags + clip_flags({"finalProbability": probability}),
    )


def _resolution_time(row: asyncpg.Record) -> tuple[datetime | None, str]:
    """When the market was resolved; `Market.updatedAt` comes last because on-chain updates move it later."""
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


def _probability(row: asyncpg.Record) -> tuple[float, str]:
    """Probability of YES, which is `no / (yes + no)` of the shares in the pool."""
    if row["quoted"] is not None:
        return row["quoted"], "history"
    yes, no = row["yes"], row["no"]
    if math.isfinite(yes + no) and yes >= 0 and no >= 0 and yes + no > 0:
        return no / (yes + no), "reserves"
    return 0.5, "nothing"
