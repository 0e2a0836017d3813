"""Asset checks: the verdicts of `rl`, shown where an engineer looks for them.

Severity says whom to wake: ERROR means that what was made is broken or unsafe, WARN that the data are thin
or say little. No check carries the safety: a blocking check neither stops the later runs of a backfill nor
spares the rest of a range, so every consumer reads `rl.window_state` and its own inputs again.
"""

from collections import Counter

import asyncpg
import dagster as dg

from babylon_rl.orchestration import judge_checks, model_checks
from babylon_rl.orchestration.assets.trajectories import REASONS
from babylon_rl.orchestration.check_queries import LAST_WINDOWS, checks_of, fetch, median, partition_keys
from babylon_rl.orchestration.partitions import hourly
from babylon_rl.orchestration.reporting import shown, table
from babylon_rl.orchestration.resources import PostgresResource
from babylon_rl.scoring.frozen import SETTLED

QUARANTINE_ERROR_RATE = 0.05
"""Above this share of unreadable rows the recorder has probably changed its format."""
PNL_VARIANCE_SHARE = 0.25
"""Below this share of its variance, the reward mostly pays something else than earning money."""

_WINDOWS = """
SELECT s.window_id, s.rows, s.agents, s.episodes, s.group_status, s.group_reason, s.reward_mean, s.reward_std,
       s.pnl_mean, s.pnl_spearman, s.pnl_variance_share, coalesce(q.rows, 0) AS quarantined,
       r.quality, r.quality_reasons, r.good_rows, r.rows + r.unreadable AS found_rows
FROM rl.window_state s
LEFT JOIN rl.recorded_windows r USING (window_id)
LEFT JOIN (
    SELECT window_id, count(*) AS rows FROM rl.quarantine WHERE released_at IS NULL GROUP BY window_id
) q USING (window_id)
WHERE $1::text[] IS NULL OR s.window_id = ANY($1)
ORDER BY s.window_id DESC LIMIT $2
"""
_OUTCOMES = """
SELECT s.window_id, coalesce(s.outcomes_status, 'not derived') AS outcomes_status,
       coalesce(v.orders, 0) AS orders, coalesce(v.unpriced, 0) AS unpriced
FROM rl.window_state s
LEFT JOIN LATERAL (
    SELECT count(*) AS orders, count(*) FILTER (WHERE matured AND value IS NULL) AS unpriced
    FROM rl.order_value o WHERE o.window_id = s.window_id AND o.horizon = '1h'
) v ON true
WHERE $1::text[] IS NULL OR s.window_id = ANY($1)
ORDER BY s.window_id DESC LIMIT $2
"""
_REASONS = """
SELECT reason, count(*) AS rows, min(trajectory_id) AS example, min(detail) AS detail
FROM rl.quarantine WHERE released_at IS NULL AND window_id = ANY($1)
GROUP BY reason ORDER BY rows DESC, reason
"""


def quarantine_rate(
    context: dg.AssetCheckExecutionContext, postgres: PostgresResource
) -> dg.AssetCheckResult:
    """Unreadable rows are quarantined, not lost. WARN for any; ERROR above 5 %: the recorder's format has
    probably changed. `rl.quarantine` names row and reason.
    """
    windows = _windows(context, postgres)
    bad = sum(w["quarantined"] for w in windows)
    rows = sum(w["rows"] or 0 for w in windows) + bad
    rate = bad / rows if rows else 0.0
    return dg.AssetCheckResult(
        passed=bad == 0,
        severity=dg.AssetCheckSeverity.ERROR if rate > QUARANTINE_ERROR_RATE else dg.AssetCheckSeverity.WARN,
        metadata=shown(
            {
                "rows/quarantined": bad,
                "rows/quarantine_rate": rate,
                "windows": table(
                    ("window", "rows", "quarantined"),
                    [(w["window_id"], w["rows"], w["quarantined"]) for w in windows if w["quarantined"]],
                ),
                "reasons": table(
                    REASONS,
                    [tuple(row) for row in fetch(postgres, _REASONS, [w["window_id"] for w in windows])],
                ),
            }
        ),
    )


def data_quality(context: dg.AssetCheckExecutionContext, postgres: PostgresResource) -> dg.AssetCheckResult:
    """Steps, LLM calls, long prompts, look-ups, outcomes of actions: each row has a score. WARN where fewer
    rows of a window than DATA_QUALITY_THRESHOLD are above their bar; `rl.window_rows` has score and reasons.
    """
    windows = [w for w in _windows(context, postgres) if w["found_rows"]]
    threshold = postgres.settings().data_quality_threshold
    poor = [w for w in windows if w["good_rows"] / w["found_rows"] < threshold]
    reasons = Counter()
    for window in windows:
        reasons.update(window["quality_reasons"])
    rows = sum(w["found_rows"] for w in windows)
    good = sum(w["good_rows"] for w in windows)
    return dg.AssetCheckResult(
        passed=not poor,
        severity=dg.AssetCheckSeverity.WARN,
        metadata=shown(
            {
                "rows/found": rows,
                "rows/good_share": good / rows if rows else None,
                "rows/good_share_wanted": threshold,
                "reasons": table(("reason", "rows"), reasons.most_common()),
                "windows": table(
                    ("window", "rows", "above their bar", "mean score"),
                    [(w["window_id"], w["found_rows"], w["good_rows"], w["quality"]) for w in poor],
                ),
            }
        ),
    )


def outcomes_settled(
    context: dg.AssetCheckExecutionContext, postgres: PostgresResource
) -> dg.AssetCheckResult:
    """The outcomes of each window are settled, and every order that is old enough has a value. WARN: a window
    is still open and says until when, or its prices have holes; repeat `market_outcomes` later, or look for
    the missing rows of `StockPrice`.
    """
    keys = partition_keys(context, hourly)
    windows = fetch(postgres, _OUTCOMES, keys, len(keys) if keys else LAST_WINDOWS)
    wanting = [w for w in windows if w["outcomes_status"] != SETTLED or w["unpriced"]]
    return dg.AssetCheckResult(
        passed=not wanting,
        severity=dg.AssetCheckSeverity.WARN,
        metadata=shown(
            {
                "windows/settled": sum(w["outcomes_status"] == SETTLED for w in windows),
                "windows/open": sum(w["outcomes_status"] != SETTLED for w in windows),
                "orders/count": sum(w["orders"] for w in windows),
                "orders/unpriced": sum(w["unpriced"] for w in windows),
                "windows": table(
                    ("window", "outcomes", "orders", "old enough, without value"),
                    [(w["window_id"], w["outcomes_status"], w["orders"], w["unpriced"]) for w in wanting],
                ),
            }
        ),
    )


def reward_spread(context: dg.AssetCheckExecutionContext, postgres: PostgresResource) -> dg.AssetCheckResult:
    """A group whose members all earn the same carries no gradient. WARN: such windows are reported and not
    trained.
    """
    windows = _windows(context, postgres)
    flat = [w for w in windows if w["group_status"] != "scored"]
    return dg.AssetCheckResult(
        passed=not flat,
        severity=dg.AssetCheckSeverity.WARN,
        metadata=shown(
            {
                "groups/scored": len(windows) - len(flat),
                "groups/not_trainable": len(flat),
                "windows": table(
                    ("window", "status", "why", "agents", "reward std"),
                    [
                        (w["window_id"], w["group_status"], w["group_reason"], w["agents"], w["reward_std"])
                        for w in flat
                    ],
                ),
            }
        ),
    )


def pnl_share_of_reward(
    context: dg.AssetCheckExecutionContext, postgres: PostgresResource
) -> dg.AssetCheckResult:
    """How much of the reward's variance is money earned. WARN below 25 % (median over windows): it then
    mostly pays something else; see SCORER.
    """
    windows = [w for w in _windows(context, postgres) if w["pnl_variance_share"] is not None]
    share = median([w["pnl_variance_share"] for w in windows])
    correlation = median([w["pnl_spearman"] for w in windows if w["pnl_spearman"] is not None])
    return dg.AssetCheckResult(
        passed=share is None or share >= PNL_VARIANCE_SHARE,
        severity=dg.AssetCheckSeverity.WARN,
        metadata=shown(
            {
                "reward/pnl_variance_share": share,
                "reward/pnl_spearman": correlation,
                "groups/measured": len(windows),
                "windows": table(
                    ("window", "share of variance", "rank correlation"),
                    [
                        (w["window_id"], w["pnl_variance_share"], w["pnl_spearman"])
                        for w in windows
                        if w["pnl_variance_share"] < PNL_VARIANCE_SHARE
                    ],
                ),
            }
        ),
    )


ALL = [
    checks_of("trajectories", quarantine_rate, data_quality),
    checks_of("market_outcomes", outcomes_settled),
    checks_of("scored_groups", reward_spread, pnl_share_of_reward, *judge_checks.ALL),
    *model_checks.ALL,
]


def _windows(context: dg.AssetCheckExecutionContext, postgres: PostgresResource) -> list[asyncpg.Record]:
    keys = partition_keys(context, hourly)
    return fetch(postgres, _WINDOWS, keys, len(keys) if keys else LAST_WINDOWS)
