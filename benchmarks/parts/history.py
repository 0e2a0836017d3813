"""A year for the orchestration's benchmark: days with recorded rows, and windows processed long ago."""

from collections.abc import Sequence
from datetime import datetime, timedelta

import asyncpg

from babylon_rl.windows import window_range, windows_between
from parts.corpus import AGENTS, add_agents, add_rows, steps_json

TICKERS = ("APEX", "BOLT", "CORE", "DUNE", "ECHO")
TEXTS = 64

_COMPANY = """
INSERT INTO "Organization" ("id", "name", "description", "type", "initialPrice", "updatedAt")
VALUES (lower($1), $1, '', 'company', 100, now()) ON CONFLICT DO NOTHING
"""
_PRICES = """
INSERT INTO "StockPrice" ("id", "organizationId", "price", "change", "changePercent", "timestamp")
SELECT md5(ticker || at), lower(ticker), 100 + 10 * sin(extract(epoch FROM at) / 7000 + ascii(ticker)),
       0.1, 0.1, at
  FROM unnest($1::text[]) AS ticker,
       generate_series($2::timestamp, $3::timestamp, interval '10 minutes') AS at
"""
_ORDERS = """
INSERT INTO "PerpPosition" ("id", "userId", "ticker", "organizationId", "side", "entryPrice", "currentPrice",
    "size", "leverage", "liquidationPrice", "unrealizedPnL", "unrealizedPnLPercent", "openedAt",
    "lastUpdated")
SELECT md5(hour::text || n), 'agent-' || lpad(n::text, 2, '0'), t.ticker, lower(t.ticker), s.side, 100, 100,
       200, 2, CASE s.side WHEN 'long' THEN 55 ELSE 145 END, 0, 0, at, at
  FROM generate_series($2::timestamp, $3::timestamp - interval '1 hour', interval '1 hour') AS hour,
       generate_series(0, $4::int - 1) AS n,
       LATERAL (SELECT hour + n * interval '2 minutes' AS at) a,
       LATERAL (SELECT ($1::text[])[1 + (n + extract(hour FROM hour)::int) % 5] AS ticker) t,
       LATERAL (SELECT CASE n % 2 WHEN 0 THEN 'long' ELSE 'short' END AS side) s
"""
# What the processing of a window leaves in schema rl, for windows that were never recorded here.
_ROWS = """
INSERT INTO rl.window_rows (trajectory_id, agent_id, window_id, start_time, created_at, fingerprint,
                            row_version, player, bytes, quality, quality_reasons, seen_at)
SELECT window_id || '-' || n, 'agent-' || lpad(n::text, 2, '0'), window_id, start, start,
       md5(window_id || n), '1', 'agent', 30000, 1.0, '{}', now()
  FROM unnest($1::text[]) AS window_id, generate_series(0, $2::int - 1) AS n,
       LATERAL (SELECT replace(window_id, 'T', ' ')::timestamp AS start) s
"""
_RECORDED = """
INSERT INTO rl.recorded_windows (window_id, rows, agents, good_rows, fingerprint, taken, taken_rows, taken_at,
                                 settled)
SELECT window_id, $2, $2, $2, md5(window_id), md5(window_id), $2, now(), true
  FROM unnest($1::text[]) AS window_id
"""
_STATES = """
INSERT INTO rl.window_state (window_id, rows, agents, episodes, snapshot_status, snapshot_sha256,
                             outcomes_status, outcomes_sha256, group_status, group_sha256, scorer,
                             reward_mean, reward_std, pnl_mean)
SELECT window_id, $2, $2, $2, 'frozen', md5(window_id), 'settled', md5(window_id), 'scored', md5(window_id),
       'heuristic', 0.01, 0.02, 3.5
  FROM unnest($1::text[]) AS window_id
"""
# The events of one processed window, repeated for another one: same sizes, same assets.
_EVENTS = """
INSERT INTO event_logs (run_id, event, dagster_event_type, timestamp, step_key, asset_key, partition)
SELECT e.run_id, replace(e.event, $1, w.window_id), e.dagster_event_type, e.timestamp, e.step_key,
       e.asset_key, w.window_id
  FROM event_logs AS e, unnest($2::text[]) AS w(window_id)
 WHERE e.partition = $1 AND e.dagster_event_type = 'ASSET_MATERIALIZATION'
"""


async def record_days(game: asyncpg.Connection, start: datetime, end: datetime) -> None:
    """Records each hour from `start` to `end`: twenty agents, 30 KB and an order each, and prices."""
    await game.execute("SET synchronous_commit = off")
    agents = await add_agents(game)
    await game.executemany(_COMPANY, [(ticker,) for ticker in TICKERS])
    await game.execute(_PRICES, TICKERS, start, end + timedelta(days=1))
    await game.execute(_ORDERS, TICKERS, start, end, AGENTS)
    texts = [steps_json(seed) for seed in range(TEXTS)]
    for number, window_id in enumerate(windows_between(start, end)):
        at = window_range(window_id)[0]
        starts = [at + timedelta(minutes=2 * agent) for agent in range(AGENTS)]
        await add_rows(
            game, f"hour-{number:04}", starts, agents, [texts[(number + a) % TEXTS] for a in range(AGENTS)]
        )
    await game.execute("VACUUM ANALYZE")


async def process_history(
    rl: asyncpg.Connection, dagster: asyncpg.Connection, window_ids: Sequence[str], like: str
) -> None:
    """Makes windows look processed, in `rl` and in Dagster's event log, as the window `like` was."""
    for connection in (rl, dagster):
        await connection.execute("SET synchronous_commit = off")
    windows = list(window_ids)
    await rl.execute(_ROWS, windows, AGENTS)
    await rl.execute(_RECORDED, windows, AGENTS)
    await rl.execute(_STATES, windows, AGENTS)
    await rl.execute("VACUUM ANALYZE")
    for start in range(0, len(windows), 1000):
        await dagster.execute(_EVENTS, like, windows[start : start + 1000])
    await dagster.execute("VACUUM ANALYZE")
