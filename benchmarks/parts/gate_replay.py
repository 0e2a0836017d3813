"""Decision replay put to the test: policies of known skill on days that were recorded in a real database."""

import asyncio
import shutil
import tempfile
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

import parts.repository  # noqa: F401
from babylon_rl.benchmark.replay import Replay
from babylon_rl.database.connection import Databases, connect
from babylon_rl.database.embedded import destroy_server, ensure_server
from babylon_rl.database.migrations import migrate
from babylon_rl.deployment import registry
from babylon_rl.deployment.replaying import held_out_decisions, replay
from babylon_rl.records.reader import refresh_window_rows
from babylon_rl.simulation.world import ensure_world, simulate_day
from babylon_rl_tests.benchmark.players import Skilled

INCUMBENT_SKILL = 0.3
STEPS = (0.1, 0.2, 0.4)
"""Skill that a better policy has more and a worse one less; 0.1 is a tenth of what can be had."""
DECISIONS = 1_000
AGENTS = 6


def replay_order(seeds: int, days: int) -> dict[str, Any]:
    """Area under the curve of the replay's difference as a sign of "better than the incumbent"."""
    home = Path(tempfile.mkdtemp(prefix="babylon-gate-"))
    home.chmod(0o711)
    try:
        server = ensure_server(home / "home")
        return asyncio.run(_replay(server.dsn("babylon"), seeds, days))
    finally:
        destroy_server(home / "home")
        shutil.rmtree(home, ignore_errors=True)


async def _replay(dsn: str, seeds: int, days: int) -> dict[str, Any]:
    await migrate(dsn, embedded=True)
    connection = await connect(dsn)
    db = Databases(game=connection, rl=connection)
    await registry.ensure_base(db.rl, base_model="known skill", storage_path="file:///none")
    world = await ensure_world(db.game, db.rl, seed=11, agents=AGENTS, start_day=date(2026, 10, 1))
    recorder = Skilled("v0.0.0", INCUMBENT_SKILL)
    for _ in range(days):
        await simulate_day(db.game, db.rl, recorder, world, world.next_day)
    await refresh_window_rows(db.game, db.rl)
    scores: list[tuple[bool, float]] = []
    found = wrong = decisions = 0
    for seed in range(seeds):
        for step in STEPS:
            for better in (True, False):
                skill = max(0.0, INCUMBENT_SKILL + (step if better else -step))
                # Below no skill at all there is folly: doing the opposite.
                folly = max(0.0, step - INCUMBENT_SKILL) if not better else 0.0
                result = await _one(db, Skilled(f"{seed}/{step}/{better}", skill, folly), seed)
                scores.append((better, result.difference.mean))
                decisions = result.decisions
                found += result.finding != "undecided"
                wrong += result.finding == ("worse" if better else "better")
    await connection.close()
    return {
        "replay_auc": _area(scores),
        "replay_scores": scores,
        "replay_decisions": decisions,
        "replay_found": found,
        "replay_wrong": wrong,
    }


async def _one(db: Databases, candidate: Skilled, seed: int) -> Replay:
    material = await held_out_decisions(db, ["v0.0.0"], limit=DECISIONS, salt=str(seed))
    return await replay(db, material, candidate, Skilled("v0.0.0", INCUMBENT_SKILL), store=False)


def _area(scores: list[tuple[bool, float]]) -> float:
    """Probability that a better policy's score exceeds a worse one's."""
    better = np.array([score for good, score in scores if good])[:, None]
    worse = np.array([score for good, score in scores if not good])[None, :]
    return float(((better > worse) + 0.5 * (better == worse)).mean())
