"""Asset checks of batches, checkpoints and deployments. See `checks.py` for what severities mean."""

from typing import Any

import asyncpg
import dagster as dg

from babylon_rl.benchmark.gate import (
    INVALID_RATE_LIMIT,
    TOLERATED_INVALID_GROWTH,
    TOLERATED_INVALID_RATE,
)
from babylon_rl.orchestration.check_queries import checks_of, fetch, partition_keys
from babylon_rl.orchestration.partitions import daily
from babylon_rl.orchestration.reporting import Metadata, shown, table
from babylon_rl.orchestration.resources import ArtifactStoreResource, PostgresResource
from babylon_rl.training.batch import load_batch

_UNITS = """
SELECT DISTINCT ON (day) day, backend, status, version, error FROM rl.training_units
WHERE day IS NOT NULL AND ($1::text[] IS NULL OR day::text = ANY($1))
ORDER BY day DESC, (status = 'done') DESC, created_at DESC LIMIT 30
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
        metadata=shown(
            {
                "leaks/batches": len(batches),
                "leaks/count": len(leaks),
                "leaks": table(
                    ("window", "agent", "kind"),
                    [(leak.window_id, leak.agent_id, leak.kind) for leak in leaks],
                ),
            }
        ),
    )


def training_ended(context: dg.AssetCheckExecutionContext, postgres: PostgresResource) -> dg.AssetCheckResult:
    """Every training that was begun came to an end. ERROR: nobody knows whether a submission was taken, and
    its day waits for `babylon train resolve`. WARN: it failed, and the day's checkpoint is its parent; read
    the run, then re-execute it.
    """
    units = fetch(postgres, _UNITS, partition_keys(context, daily))
    lost = [unit for unit in units if unit["status"] in ("failed", "in_doubt")]
    in_doubt = sum(unit["status"] == "in_doubt" for unit in lost)
    return dg.AssetCheckResult(
        passed=not lost,
        severity=dg.AssetCheckSeverity.ERROR if in_doubt else dg.AssetCheckSeverity.WARN,
        metadata=shown(
            {
                "training/done": sum(unit["status"] == "done" for unit in units),
                "training/failed": len(lost) - in_doubt,
                "training/in_doubt": in_doubt,
                "days": table(
                    ("day", "backend", "status", "why"),
                    [(unit["day"], unit["backend"], unit["status"], unit["error"]) for unit in lost],
                ),
            }
        ),
    )


def invalid_actions(
    context: dg.AssetCheckExecutionContext, postgres: PostgresResource
) -> dg.AssetCheckResult:
    """The candidate still answers in the agreed form. WARN above 5 % and two points more than the incumbent;
    ERROR above 20 %: training has lost the format, look at entropy and learning rate.
    """
    rates = [
        (row["day"], row["version"], verdict["invalid_rate"], verdict["incumbent_invalid_rate"])
        for row in _verdicts(context, postgres)
        for verdict in [row["metrics"]["verdict"]]
    ]
    worse = [
        rate for rate in rates if rate[2] > max(TOLERATED_INVALID_RATE, rate[3] + TOLERATED_INVALID_GROWTH)
    ]
    lost = any(rate[2] > INVALID_RATE_LIMIT for rate in worse)
    return dg.AssetCheckResult(
        passed=not worse,
        severity=dg.AssetCheckSeverity.ERROR if lost else dg.AssetCheckSeverity.WARN,
        metadata=shown(
            {
                "gate/judged": len(rates),
                "actions/invalid_rate": max((rate[2] for rate in rates), default=None),
                "actions/incumbent_invalid_rate": max((rate[3] for rate in rates), default=None),
                "days": table(("day", "version", "invalid", "incumbent"), worse),
            }
        ),
    )


def candidate_beats_incumbent(
    context: dg.AssetCheckExecutionContext, postgres: PostgresResource
) -> dg.AssetCheckResult:
    """The day's candidate against its incumbent on held-out markets. WARN unless it was promoted: n, interval
    and minimum detectable effect say whether it is worse or the comparison too small.
    """
    verdicts = _verdicts(context, postgres)
    promoted = sum(v["verdict"] == "promoted" for v in verdicts)
    return dg.AssetCheckResult(
        passed=promoted == len(verdicts),
        severity=dg.AssetCheckSeverity.WARN,
        metadata=shown(
            {
                "gate/judged": len(verdicts),
                "gate/promoted": promoted,
                **(_numbers_of(verdicts[0]["metrics"]["verdict"]) if verdicts else {}),
                "days": table(
                    ("day", "version", "incumbent", "verdict", "why"),
                    [(v["day"], v["version"], v["incumbent"], v["verdict"], v["reason"]) for v in verdicts],
                ),
            }
        ),
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
        metadata=shown(
            {
                "deployments/active": len(active),
                "deployments/known": len(rows),
                "deployments": table(
                    ("version", "role", "percent", "status of the model"),
                    [(row["version"], row["role"], row["percentage"], row["status"]) for row in active],
                ),
            }
        ),
    )


def _numbers_of(verdict: dict[str, Any]) -> Metadata:
    difference = verdict["difference"]
    return {
        "gate/n": difference["n"],
        "gate/difference": difference["mean"],
        "gate/low": difference["low"],
        "gate/high": difference["high"],
        "gate/minimum_detectable_effect": verdict["minimum_detectable_effect"],
    }


def _verdicts(context: dg.AssetCheckExecutionContext, postgres: PostgresResource) -> list[asyncpg.Record]:
    return fetch(postgres, _VERDICTS, partition_keys(context, daily))


ALL = [
    no_leaks,
    checks_of("trained_checkpoint", training_ended),
    checks_of("checkpoint_benchmark", invalid_actions, candidate_beats_incumbent),
    checks_of("deployed_model", one_active_deployment),
]
