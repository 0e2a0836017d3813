"""Asset checks of the judge; they pass where no judge was asked. See `checks.py` for what severities mean."""

from collections.abc import Sequence

import asyncpg
import dagster as dg

from babylon_rl.orchestration.check_queries import LAST_WINDOWS, Check, fetch, median, partition_keys
from babylon_rl.orchestration.partitions import hourly
from babylon_rl.orchestration.reporting import shown, table
from babylon_rl.orchestration.resources import PostgresResource

NEARLY_SPENT = 0.8
"""Share of the day's budget above which somebody should know."""
STANDS = "doubt stands"

_RUNS = """
SELECT DISTINCT ON (window_id) window_id, status, reason, method, judge_model, alarm, spearman, kendall,
       spread, flip_rate, canaries, canary_score, canary_failed, cost_usd
FROM rl.judge_runs WHERE $1::text[] IS NULL OR window_id = ANY($1)
ORDER BY window_id DESC, id DESC LIMIT $2
"""
_SPENT = """
SELECT judge_model, count(*) AS calls, count(*) FILTER (WHERE status <> 'ok') AS failed,
       coalesce(sum(cost_usd), 0)::float8 AS usd
FROM rl.judge_calls
WHERE called_at >= date_trunc('day', now() AT TIME ZONE 'UTC') AT TIME ZONE 'UTC'
GROUP BY judge_model ORDER BY usd DESC
"""


def judge_failures(context: dg.AssetCheckExecutionContext, postgres: PostgresResource) -> dg.AssetCheckResult:
    """Every window that a judge was asked about has its verdict. ERROR: some have none, or keep an older one;
    nothing was scored by default. Materialize them again: what was judged already costs nothing.
    """
    runs = _runs(context, postgres)
    failed = [run for run in runs if run["status"] == "failed"]
    return dg.AssetCheckResult(
        passed=not failed,
        severity=dg.AssetCheckSeverity.ERROR,
        metadata=shown(
            {
                "judge/windows": len(runs),
                "judge/failed": len(failed),
                "judge/failure_rate": len(failed) / len(runs) if runs else None,
                "windows": table(
                    ("window", "judge", "why"),
                    [(r["window_id"], r["judge_model"], r["reason"]) for r in failed],
                ),
            }
        ),
    )


def judge_agrees_with_money(
    context: dg.AssetCheckExecutionContext, postgres: PostgresResource
) -> dg.AssetCheckResult:
    """The judge's scores follow the realised P&L. WARN where a doubted verdict stands although it was judged
    again: `SCORER=ruler_with_heuristic_check` lets a local scorer take such groups over.
    """
    runs = [run for run in _runs(context, postgres) if run["status"] == "judged"]
    doubted = [run for run in runs if run["alarm"]]
    return dg.AssetCheckResult(
        passed=not any(run["method"] == STANDS for run in doubted),
        severity=dg.AssetCheckSeverity.WARN,
        metadata=shown(
            {
                "judge/spearman_pnl": median(_known(runs, "spearman")),
                "judge/kendall_pnl": median(_known(runs, "kendall")),
                "judge/order_spread": median(_known(runs, "spread")),
                "judge/flip_rate": median(_known(runs, "flip_rate")),
                "judge/doubted": len(doubted),
                "windows": table(
                    ("window", "doubt", "whose scores", "rank correlation"),
                    [(r["window_id"], r["alarm"], r["method"], r["spearman"]) for r in doubted],
                ),
            }
        ),
    )


def judge_canary(context: dg.AssetCheckExecutionContext, postgres: PostgresResource) -> dg.AssetCheckResult:
    """Made-up disasters among the episodes get the score they are worth. WARN: a judge was fooled and its
    group judged again; ERROR: its verdict stands. Try another JUDGE_MODEL, and `babylon judge compare`.
    """
    runs = [run for run in _runs(context, postgres) if run["canaries"]]
    fooled = [run for run in runs if run["canary_failed"]]
    stands = any(run["method"] == STANDS for run in fooled)
    return dg.AssetCheckResult(
        passed=not fooled,
        severity=dg.AssetCheckSeverity.ERROR if stands else dg.AssetCheckSeverity.WARN,
        metadata=shown(
            {
                "judge/canaries": sum(run["canaries"] for run in runs),
                "judge/canaries_failed": len(fooled),
                "windows": table(
                    ("window", "judge", "canary's score", "whose scores count"),
                    [(r["window_id"], r["judge_model"], r["canary_score"], r["method"]) for r in fooled],
                ),
            }
        ),
    )


def judge_budget(context: dg.AssetCheckExecutionContext, postgres: PostgresResource) -> dg.AssetCheckResult:
    """What judges cost today against JUDGE_DAILY_BUDGET_USD. WARN above 80 %: the next windows may stay
    unjudged until midnight UTC.
    """
    rows, budget = fetch(postgres, _SPENT), postgres.settings().judge_daily_budget_usd
    spent = sum(row["usd"] for row in rows)
    return dg.AssetCheckResult(
        passed=spent == 0 or spent <= NEARLY_SPENT * budget,
        severity=dg.AssetCheckSeverity.WARN,
        metadata=shown(
            {
                "judge/usd_today": spent,
                "judge/usd_budget": budget,
                "judges": table(
                    ("judge", "requests", "failed", "$"),
                    [(r["judge_model"], r["calls"], r["failed"], r["usd"]) for r in rows],
                ),
            }
        ),
    )


ALL: Sequence[Check] = [judge_failures, judge_agrees_with_money, judge_canary, judge_budget]


def _runs(context: dg.AssetCheckExecutionContext, postgres: PostgresResource) -> list[asyncpg.Record]:
    keys = partition_keys(context, hourly)
    return fetch(postgres, _RUNS, keys, len(keys) if keys else LAST_WINDOWS)


def _known(runs: list[asyncpg.Record], column: str) -> list[float]:
    return [run[column] for run in runs if run[column] is not None]
