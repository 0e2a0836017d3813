"""Judging a candidate: candidate, incumbent and base on held-out markets, and the gate's verdict on the
result.

The markets follow from the candidate's own weights, so nobody chose them and no other candidate meets them.
The error that the gate may make is spent over all candidates that try to replace the same incumbent. The
vault is a second set of markets, with regimes that nothing was tuned on: no gate sees it, and its figures are
the ones to publish.
"""

import hashlib
import json
import logging
from dataclasses import asdict, dataclass
from typing import Any

import asyncpg

from babylon_rl.benchmark.arena import (
    GATE_WINDOWS,
    HeldOut,
    Standing,
    contest,
    difference,
    held_out,
    rate_difference,
)
from babylon_rl.benchmark.criteria import SuccessMetrics, success_criteria
from babylon_rl.benchmark.crowd import CROWD_WINDOWS, crowd
from babylon_rl.benchmark.explanation import explain
from babylon_rl.benchmark.gate import decide
from babylon_rl.benchmark.statistics import Interval, alpha_for
from babylon_rl.database.connection import Databases
from babylon_rl.deployment import registry
from babylon_rl.deployment.contestants import open_contestants
from babylon_rl.deployment.errors import ProjectionConflictError
from babylon_rl.deployment.projection import project_improvement, project_model
from babylon_rl.deployment.registry import ModelRecord
from babylon_rl.deployment.verdicts import (
    BenchmarkRecord,
    candidate_number,
    latest_benchmark,
    record_benchmark,
)
from babylon_rl.deployment.versions import BASE
from babylon_rl.settings import Settings, get_settings

log = logging.getLogger(__name__)

VAULT_WINDOWS = 1024

_ONE_AT_A_TIME = "SELECT pg_advisory_lock(hashtext('babylon_rl'), hashtext('gate'))"
_NEXT = "SELECT pg_advisory_unlock(hashtext('babylon_rl'), hashtext('gate'))"
_GROUPS_OF_DAY = """
SELECT count(*) FILTER (WHERE group_status IN ('scored', 'no_spread')) AS groups,
       count(*) FILTER (WHERE group_status = 'scored') AS ranked
  FROM rl.window_state WHERE left(window_id, 10) = $1
"""


@dataclass(frozen=True)
class VaultResult:
    """A model against the base model on the vault."""

    version: str
    gain: Interval
    standings: dict[str, dict[str, Any]]


async def judge(
    db: Databases, settings: Settings, version: str, windows: int = GATE_WINDOWS
) -> BenchmarkRecord:
    """Benchmark a candidate once and give it its verdict; a repetition returns the first result.

    Candidates are judged one after the other, so that no two of them spend the same share of the budget.

    Raises:
        UnknownVersionError: the version is not registered.
        CheckpointError: a checkpoint is unusable.
    """
    await db.rl.execute(_ONE_AT_A_TIME)
    try:
        return await _judge(db, settings, version, windows)
    finally:
        await db.rl.execute(_NEXT)


async def _judge(db: Databases, settings: Settings, version: str, windows: int) -> BenchmarkRecord:
    candidate = await registry.get(db.rl, version)
    if candidate.verdict is not None and (known := await latest_benchmark(db.rl, version)) is not None:
        return known
    base = await registry.get(db.rl, str(BASE))
    incumbent = await registry.active(db.rl) or base
    number = await candidate_number(db.rl, candidate.version, incumbent.version)
    alpha = alpha_for(number, settings.gate_alpha)
    material = held_out(content_key(candidate), windows)
    some = HeldOut(material.key, material.markets[:CROWD_WINDOWS], material.seeds[:CROWD_WINDOWS])
    async with open_contestants(settings, (candidate, incumbent, base)) as (engines, play):
        standings = await contest(engines, material, play)
        populations = await crowd(engines[candidate.version], engines[incumbent.version], some, play=play)
    one, other = standings[candidate.version], standings[incumbent.version]
    verdict = decide(
        difference(one, other, alpha),
        invalid_rate=one.invalid_rate,
        incumbent_invalid_rate=other.invalid_rate,
        incumbent=incumbent.version,
        over_base=difference(one, standings[base.version]),
        threshold=settings.gate_threshold,
    )
    together = populations.summary()
    explanation = explain(
        verdict,
        candidate=candidate.version,
        returns={name: float(standing.returns.mean()) for name, standing in standings.items()},
        seed_key=material.key,
        number=number,
        budget=settings.gate_alpha,
        crowd=together,
    )
    metrics = {
        "benchmark_score": float(one.returns.mean()),
        "accuracy": float(one.well_timed.sum() / max(1.0, one.orders.sum())),
        "avg_reward": float(one.returns.mean()),
        "verdict": verdict.to_dict(),
        "explanation": explanation,
        "candidate_number": number,
        "crowd": together,
        "standings": {name: standing.summary() for name, standing in standings.items()},
        "criteria": [
            asdict(criterion) for criterion in await _criteria(db, candidate, one, standings[base.version])
        ],
    }
    record = await record_benchmark(
        db.rl,
        version=candidate.version,
        incumbent=incumbent.version,
        purpose="gate",
        seed_key=material.key,
        windows=windows,
        metrics=metrics,
        verdict=verdict.decision,
        reason=verdict.reason,
    )
    if settings.project_to_game:
        await _project(db, candidate.version, verdict.difference.mean)
    return record


async def open_vault(db: Databases, version: str, windows: int = VAULT_WINDOWS) -> VaultResult:
    """Compare a model with the base model on the vault; nothing is decided on the result."""
    model = await registry.get(db.rl, version)
    base = await registry.get(db.rl, str(BASE))
    material = held_out(content_key(model), windows, vault=True)
    async with open_contestants(get_settings(), (model, base)) as (engines, play):
        standings = await contest(engines, material, play)
    gain = difference(standings[model.version], standings[base.version])
    summaries = {name: standing.summary() for name, standing in standings.items()}
    await record_benchmark(
        db.rl,
        version=model.version,
        incumbent=base.version,
        purpose="vault",
        seed_key=f"vault:{material.key}",
        windows=windows,
        metrics={"gain": asdict(gain), "standings": summaries},
    )
    return VaultResult(model.version, gain, summaries)


def content_key(model: ModelRecord) -> str:
    """Hash of a checkpoint's files; what its held-out markets follow from."""
    files = json.dumps(model.manifest.get("files", {}), sort_keys=True)
    return hashlib.sha256(f"{files}".encode()).hexdigest()


async def _project(db: Databases, version: str, improvement: float) -> None:
    """Show the game the verdict; it never decides anything, so a failure is only logged."""
    try:
        async with db.game.transaction():
            model = await registry.get(db.rl, version)
            await project_model(db.game, model)
            if model.batch_sha256 is not None:
                await project_improvement(db.game, model.batch_sha256, improvement)
    except (asyncpg.PostgresError, ProjectionConflictError, OSError) as problem:
        log.warning("the verdict on %s is not shown in the game's trained_models yet: %s", version, problem)


async def _criteria(db: Databases, candidate: ModelRecord, one: Standing, base: Standing) -> list:
    groups = await db.rl.fetchrow(_GROUPS_OF_DAY, str(candidate.day))
    return success_criteria(
        SuccessMetrics(
            groups=groups["groups"] if groups else 0,
            ranked_groups=groups["ranked"] if groups else 0,
            losses=candidate.metrics.get("losses", ()),
            gain=difference(one, base),
            base_return=float(base.returns.mean()),
            win_rate=rate_difference(one, base, "wins"),
            invalid_rate=rate_difference(one, base, "invalid"),
            timing=rate_difference(one, base, "well_timed"),
        )
    )
