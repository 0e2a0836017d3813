"""Market outcomes: derived from the game's tables for a closed window, stored in `rl`, shown to the game.

touched = await touched_instruments(game, rl, "2026-10-01T14:00")
outcomes = await derive_outcomes(game, "2026-10-01T14:00", touched=touched)
await store_outcomes(rl, game, outcomes, project_to_game=True)
"""

from collections.abc import Collection
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta

import asyncpg

from babylon_rl import windows
from babylon_rl.errors import BabylonError
from babylon_rl.outcomes.predictions import derive_predictions
from babylon_rl.outcomes.stocks import derive_stocks, load_aliases, load_news
from babylon_rl.outcomes.touched import touched_instruments
from babylon_rl.outcomes.window_outcomes import (
    UNRESOLVED,
    WindowOutcomes,
    from_json,
    projected_rows,
    row_id_prefix,
)

__all__ = [
    "OpenWindowError",
    "WindowOutcomes",
    "derive_outcomes",
    "load_outcomes",
    "store_outcomes",
    "touched_instruments",
]

DELAY = timedelta(minutes=5)

_STORE = """
INSERT INTO rl.outcomes AS o (window_id, outcomes, sha256, derived_at)
VALUES ($1, $2::text::jsonb, $3, now())
ON CONFLICT (window_id) DO UPDATE
   SET outcomes = excluded.outcomes, sha256 = excluded.sha256, derived_at = excluded.derived_at
"""
_RESOLVE = """
INSERT INTO rl.market_resolutions (market_id, outcome, resolved_at, as_of) VALUES ($1, $2, $3, now())
ON CONFLICT (market_id, outcome, resolved_at) DO NOTHING
"""
_COLUMNS = (
    "stockTicker",
    "startPrice",
    "endPrice",
    "changePercent",
    "sentiment",
    "newsEvents",
    "predictionMarketId",
    "question",
    "outcome",
    "finalProbability",
    "volume",
)
_PROJECT = """
INSERT INTO "market_outcomes" AS m ("id", "windowId", {columns}) VALUES ($1, $2, {values})
ON CONFLICT ("id") DO UPDATE SET {updates} WHERE ({old}) IS DISTINCT FROM ({new})
""".format(
    columns=", ".join(f'"{column}"' for column in _COLUMNS),
    # jsonb has no text input of its own in every driver set-up, text has.
    values=", ".join(
        f"${i}::text::jsonb" if column == "newsEvents" else f"${i}" for i, column in enumerate(_COLUMNS, 3)
    ),
    updates=", ".join(f'"{column}" = excluded."{column}"' for column in _COLUMNS),
    old=", ".join(f'm."{column}"' for column in _COLUMNS),
    new=", ".join(f'excluded."{column}"' for column in _COLUMNS),
)


class OpenWindowError(BabylonError):
    """Outcomes of a window that is not over yet."""


async def derive_outcomes(
    game: asyncpg.Connection,
    window_id: str,
    *,
    now: datetime | None = None,
    delay: timedelta = DELAY,
    touched: Collection[str] = (),
) -> WindowOutcomes:
    """Derives what stocks and prediction markets did in a window, and its news.

    The same rows always give the same outcomes, with the same hash.

    Args:
        game: Connection to the game's database; only reads.
        window_id: A canonical window id.
        now: Aware time at which the window has to be over; by default, the clock's.
        delay: How long the window has to be over, for late commits.
        touched: What the window's agents named or traded, as they spell it: all of it is covered, in
            `unknown` if in no other way.

    Raises:
        UnknownWindowError: `window_id` is not a window id.
        OpenWindowError: The window is not over. Freezing it would lose the rest of it.
    """
    start, end = windows.window_range(window_id)
    if not windows.is_complete(window_id, now or datetime.now(UTC), delay):
        raise OpenWindowError(
            f"the window {window_id} is not over",
            f"Its outcomes can be derived after {end + delay:%Y-%m-%d %H:%M} UTC.",
        )
    # One view of the game, so that a resolution and its price history are either both there or both not.
    snapshot = game.transaction(isolation="repeatable_read", readonly=True)
    async with nullcontext() if game.is_in_transaction() else snapshot:
        aliases = await load_aliases(game)
        news = await load_news(game, aliases, start, end)
        stocks = await derive_stocks(game, aliases, news, start, end)
        names = sorted({name for name in touched if aliases.resolve(name) is None})
        predictions = await derive_predictions(game, start, end, names)
        known = {text for market in predictions for text in (market.market_id, market.question)}
        return WindowOutcomes(
            window_id=window_id,
            stocks=stocks,
            predictions=predictions,
            news=news,
            unknown=[name for name in names if name not in known],
        )


async def store_outcomes(
    rl: asyncpg.Connection, game: asyncpg.Connection, outcomes: WindowOutcomes, project_to_game: bool
) -> str:
    """Stores outcomes in `rl.outcomes` and their resolutions in `rl.market_resolutions`; returns their hash.

    With `project_to_game` the game's table `market_outcomes` then shows the same, rounded and clipped to its
    columns, in one transaction of its own. Repeating it changes nothing; rows of other writers are left
    alone.
    """
    resolved = [
        (market.market_id, market.outcome, market.resolved_at)
        for market in outcomes.predictions
        if market.outcome != UNRESOLVED
    ]
    async with rl.transaction():
        await rl.execute(_STORE, outcomes.window_id, outcomes.to_json(), outcomes.sha256)
        await rl.executemany(_RESOLVE, resolved)
    if project_to_game:
        await _project(game, outcomes)
    return outcomes.sha256


async def load_outcomes(rl: asyncpg.Connection, window_id: str) -> WindowOutcomes | None:
    """Returns the stored outcomes of a window, or None."""
    stored = await rl.fetchval("SELECT outcomes::text FROM rl.outcomes WHERE window_id = $1", window_id)
    return None if stored is None else from_json(stored)


async def _project(game: asyncpg.Connection, outcomes: WindowOutcomes) -> None:
    rows = projected_rows(outcomes)
    prefix = row_id_prefix(outcomes.window_id)
    async with game.transaction():
        # Two runs of one window wait for each other instead of deadlocking on its rows.
        await game.execute("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", prefix)
        await game.execute(
            'DELETE FROM "market_outcomes" WHERE "windowId" = $1 AND starts_with("id", $2)'
            ' AND "id" <> ALL($3::text[])',
            outcomes.window_id,
            prefix,
            [row["id"] for row in rows],
        )
        await game.executemany(
            _PROJECT,
            [(row["id"], outcomes.window_id, *(row.get(column) for column in _COLUMNS)) for row in rows],
        )
