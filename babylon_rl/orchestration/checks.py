"""Asset checks: the verdicts of `rl`, shown where an engineer looks for them.

Severity says whom to wake: ERROR means that what was made is broken or unsafe, WARN that the data are thin
or say little. No check carries the safety: a blocking check neither stops the later runs of a backfill nor
spares the rest of a range, so every consumer reads `rl.window_state` and its own inputs again.
"""

from collections import Counter
from typing import Any

import asyncpg
import dagster as dg

from babylon_rl.benchmark.gate import (
    INVALID_RATE_LIMIT,
    TOLERATED_INVALID_GROWTH,
    TOLERATED_INVALID_RATE,
)
from babylon_rl.orchestration import judge_checks
from babylon_rl.orchestration.check_queries import LAST_WINDOWS, checks_of, fetch, median, partition_keys
from babylon_rl.orchestration.partitions import daily, hourly
from babylon_rl.orchestration.reporting import markdown_table, numbers
from babylon_rl.orchestration.resources import ArtifactStoreResource, PostgresResource
from babylon_rl.training.batch import load_batch

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
_REASONS = """
SELECT reason, count(*) AS rows, min(trajectory_id) AS example, min(detail) AS detail
FROM rl.quarantine WHERE released_at IS NULL AND window_id = ANY($1)
GROUP BY reason ORDER BY rows DESC, reason
"""
_VERDICTS = """
SELECT DISTINCT ON (m.day) m.day, b.version, b.incumbent, b.verdict, b.reason, b.metrics
FROM rl.benchmarks b JOIN rl.models m USING (version)
WHERE b.purpose = 'gate' AND ($1::text[] IS NULL OR m.day::text = ANY($1))
ORDER BY m.day DESC, b.id DESC LIMIT 30
"""
_BATCHES = """
SELECT DISTINCT ON (day) day, uri FROM rl.training_batches
WHERE uri IS NOT NULL AND ($1::text[] IS NULL OR day::text = ANY($1))
ORDER BY day DESC, created_at DESC LIMIT 30
"""
_DEPLOYMENTS = """
SELECT d.version, d.role, d.percentage, d.ended_at, m.status FROM rl.deployments d
LEFT JOIN rl.models m USING (version) ORDER BY d.ended_at IS NOT NULL, d.id DESC LIMIT 100
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
        metadata={
            "rows/quarantined": bad,
            "rows/quarantine_rate": rate,
            "windows": markdown_table(
                ("window", "rows", "quarantined"),
                [(w["window_id"], w["rows"], w["quarantined"]) for w in windows if w["quarantined"]],
            ),
            "reasons": markdown_table(
                ("reason", "rows", "for example", "where"),
                [tuple(row) for row in fetch(postgres, _REASONS, [w["window_id"] for w in windows])],
            ),
        },
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
        metadata={
            "rows/found": rows,
            "rows/good_share": good / rows if rows else 1.0,
            "reasons": markdown_table(("reason", "rows"), reasons.most_common()),
            "windows": markdown_table(
                ("window", "rows", "above their bar", "mean score"),
                [(w["window_id"], w["found_rows"], w["good_rows"], w["quality"]) for w in poor],
            ),
        },
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
        metadata={
            "groups/scored": len(windows) - len(flat),
            "groups/not_trainable": len(flat),
            "windows": markdown_table(
                ("window", "status", "why", "agents", "reward std"),
                [
                    (w["window_id"], w["group_status"], w["group_reason"], w["agents"], w["reward_std"])
                    for w in flat
                ],
            ),
        },
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
        metadata={
            **numbers({"reward/pnl_variance_share": share, "reward/pnl_spearman": correlation}),
            "groups/measured": len(windows),
            "windows": markdown_table(
                ("window", "share of variance", "rank correlation"),
                [
                    (w["window_id"], w["pnl_variance_share"], w["pnl_spearman"])
                    for w in windows
                    if w["pnl_variance_share"] < PNL_VARIANCE_SHARE
                ],
            ),
        },
    )


@dg.asset_check(asset="training_batch")
def no_leaks(
    context: dg.AssetCheckExecutionContext, postgres: PostgresResource, store: ArtifactStoreResource
) -> dg.AssetCheckResult:
    """No trained message tells what its author could not have known. ERROR: something shows outcomes to the
    agents; the batch is `empty` and is not trained. Repair the source, then materialize the day's windows.
    """
    batches = fetch(postgres, _BATCHES, partition_keys(context, daily))
    leaks = [leak for row in batches for leak in load_batch(store.open(), row["uri"])[0].leaks]
    return dg.AssetCheckResult(
        passed=not leaks,
        severity=dg.AssetCheckSeverity.ERROR,
        metadata={
            "leaks/count": len(leaks),
            "leaks": markdown_table(
                ("window", "agent", "kind"), [(leak.window_id, leak.agent_id, leak.kind) for leak in leaks]
            ),
        },
    )


def invalid_actions(
    context: dg.AssetCheckExecutionContext, postgres: PostgresResource
) -> dg.AssetCheckResult:
    """The candidate still answers in the agreed form. WARN above 5 % and two points more than the incumbent;
    ERROR above 20 %: training has lost the format, look at entropy and learning rate.
    """
    worse, worst = [], 0.0
    for row in _verdicts(context, postgres):
        verdict = row["metrics"]["verdict"]
        candidate, incumbent = verdict["invalid_rate"], verdict["incumbent_invalid_rate"]
        if candidate > max(TOLERATED_INVALID_RATE, incumbent + TOLERATED_INVALID_GROWTH):
            worse.append((row["day"], row["version"], candidate, incumbent))
            worst = max(worst, candidate)
    return dg.AssetCheckResult(
        passed=not worse,
        severity=dg.AssetCheckSeverity.ERROR if worst > INVALID_RATE_LIMIT else dg.AssetCheckSeverity.WARN,
        metadata={
            "actions/invalid_rate": worst,
            "days": markdown_table(("day", "version", "invalid", "incumbent"), worse),
        },
    )


def candidate_beats_incumbent(
    context: dg.AssetCheckExecutionContext, postgres: PostgresResource
) -> dg.AssetCheckResult:
    """The day's candidate against its incumbent on held-out markets. WARN unless it was promoted: n, interval
    and minimum detectable effect say whether it is worse or the comparison too small.
    """
    verdicts = _verdicts(context, postgres)
    return dg.AssetCheckResult(
        passed=all(v["verdict"] == "promoted" for v in verdicts),
        severity=dg.AssetCheckSeverity.WARN,
        metadata={
            **(_numbers_of(verdicts[0]["metrics"]["verdict"]) if verdicts else {}),
            "days": markdown_table(
                ("day", "version", "incumbent", "verdict", "why"),
                [(v["day"], v["version"], v["incumbent"], v["verdict"], v["reason"]) for v in verdicts],
            ),
        },
    )


def one_active_deployment(
    context: dg.AssetCheckExecutionContext, postgres: PostgresResource
) -> dg.AssetCheckResult:
    """One active deployment of a model that is whole, once anything was deployed; before that the base model
    answers. ERROR: agents may lack a model; `babylon rollback` or `babylon deploy VERSION` repairs it.
    """
    rows = fetch(postgres, _DEPLOYMENTS)
    active = [row for row in rows if row["role"] == "active" and row["ended_at"] is None]
    return dg.AssetCheckResult(
        passed=not rows or (len(active) == 1 and active[0]["status"] == "deployed"),
        severity=dg.AssetCheckSeverity.ERROR,
        metadata={
            "deployments": markdown_table(
                ("version", "role", "percent", "status of the model"),
                [(row["version"], row["role"], row["percentage"], row["status"]) for row in active],
            )
        },
    )


ALL = [
    checks_of("trajectories", quarantine_rate, data_quality),
    checks_of("scored_groups", reward_spread, pnl_share_of_reward, *judge_checks.ALL),
    no_leaks,
    checks_of("checkpoint_benchmark", invalid_actions, candidate_beats_incumbent),
    checks_of("deployed_model", one_active_deployment),
]


def _windows(context: dg.AssetCheckExecutionContext, postgres: PostgresResource) -> list[asyncpg.Record]:
    keys = partition_keys(context, hourly)
    return fetch(postgres, _WINDOWS, keys, len(keys) if keys else LAST_WINDOWS)


def _numbers_of(verdict: dict[str, Any]) -> dict[str, float | int]:
    difference = verdict["difference"]
    return numbers(
        {
            "gate/n": difference["n"],
            "gate/difference": difference["mean"],
            "gate/low": difference["low"],
            "gate/high": difference["high"],
            "gate/minimum_detectable_effect": verdict["minimum_detectable_effect"],
        }
    )


def _verdicts(context: dg.AssetCheckExecutionContext, postgres: PostgresResource) -> list[asyncpg.Record]:
    return fetch(postgres, _VERDICTS, partition_keys(context, daily))
