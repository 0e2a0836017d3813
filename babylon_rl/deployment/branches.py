"""Side branches: windows trained beside the live chain, and never the parent of a day.

`babylon train --mode single --window` trains one window on a branch of its own; `--mode continuous` adds one
step after another to the branch `continuous`. What a branch trained is known, so no window is trained twice.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import asyncpg

from babylon_rl import windows
from babylon_rl.database.connection import Databases
from babylon_rl.deployment import registry
from babylon_rl.deployment.candidates import ensure_base, project_training
from babylon_rl.deployment.lineage import ParentChoice, newest_not_rejected
from babylon_rl.deployment.registry import USABLE, ModelRecord
from babylon_rl.deployment.unit_jobs import UnitJob
from babylon_rl.deployment.unit_training import REPEATED, Track, train_unit
from babylon_rl.deployment.versions import BASE
from babylon_rl.records.store import ArtifactStore
from babylon_rl.scoring.groups import ScoredGroup, from_records
from babylon_rl.settings import Settings
from babylon_rl.training.backends import BackendChoice, choose_backend
from babylon_rl.training.batch import READY, BatchRules, TrainingBatch, build_side_batch, load_batch
from babylon_rl.training.eligibility import eligibility
from babylon_rl.training.embedded import Progress
from babylon_rl.training.options import BackendName
from babylon_rl.training.selection import Selection
from babylon_rl.training.stages import Stage, reached
from babylon_rl.training.unit_recipe import Recipe

CONTINUOUS = "continuous"
NO_DATA = "no data"
SIDE_RULES = BatchRules(min_groups=1, min_episodes=2)

_UNTRAINED = """
SELECT state.window_id FROM rl.window_state AS state
 WHERE state.group_status = 'scored' AND state.window_id >= $1 AND state.agents >= $2
   AND NOT EXISTS (SELECT FROM rl.trained_windows AS trained WHERE trained.window_id = state.window_id)
 ORDER BY state.window_id
"""
_NEWEST = "SELECT max(window_id) FROM rl.window_state WHERE group_status IS NOT NULL"
_OF_BRANCH = """
SELECT version FROM rl.trained_windows WHERE branch = $1 AND window_id = ANY($2::text[])
 GROUP BY version HAVING count(*) = cardinality($2::text[])
"""
_GROUPS = (
    "SELECT window_id, group_uri FROM rl.window_state WHERE window_id = ANY($1) AND group_uri IS NOT NULL"
)


@dataclass(frozen=True)
class BranchTraining:
    """What became of some windows.

    Attributes:
        status: `trained`, `trained before` or `no data`.
        model: The new checkpoint; without data its parent.
        batch: None where the windows were trained before.
    """

    branch: str
    windows: Sequence[str]
    status: str
    model: ModelRecord
    parent: ParentChoice | None
    reason: str
    batch: TrainingBatch | None
    metrics: dict[str, Any]
    choice: BackendChoice | None = None


def side_rules(settings: Settings) -> BatchRules:
    """What a side branch needs: two episodes, of calls that the settings take."""
    return replace(SIDE_RULES, takes=eligibility(settings), credit=settings.training_credit)


def branch_of(window_id: str) -> str:
    """The branch of a window that is trained alone."""
    return f"window-{window_id}"


async def untrained_windows(
    rl: asyncpg.Connection, *, lookback_hours: int | None = None, min_agents: int = 2
) -> list[str]:
    """Scored windows that neither the live chain nor a branch has trained, oldest first.

    Args:
        lookback_hours: How far back from the newest resolved window; None for all.
    """
    newest = await rl.fetchval(_NEWEST)
    if newest is None:
        return []
    first = ""
    if lookback_hours is not None:
        start, _ = windows.window_range(newest)
        first = windows.window_id_at(start - timedelta(hours=lookback_hours - 1))
    return [row["window_id"] for row in await rl.fetch(_UNTRAINED, first, min_agents)]


async def scored_groups(
    rl: asyncpg.Connection, store: ArtifactStore, window_ids: Sequence[str]
) -> list[ScoredGroup]:
    """The groups of windows, in order, for people to look at."""
    rows = {row["window_id"]: row["group_uri"] for row in await rl.fetch(_GROUPS, list(window_ids))}
    return [from_records(store.get(rows[name])) for name in window_ids if name in rows]


async def train_windows(
    db: Databases,
    store: ArtifactStore,
    settings: Settings,
    branch: str,
    window_ids: Sequence[str],
    selection: Selection | None = None,
    on_step: Progress | None = None,
    track: Track | None = None,
) -> BranchTraining:
    """Train scored windows as one step of a side branch.

    Windows that this branch has trained together before are not trained again.

    Raises:
        BackendNotAvailableError: The settings ask for a backend that cannot run here.
        UnsupportedOptionError: They ask for what the backend cannot do.
        UnitBusyError: The same windows are being trained elsewhere.
        UnitInDoubtError: An operator must say whether they were trained.
    """
    before = await db.rl.fetchval(_OF_BRANCH, branch, list(window_ids))
    if before is not None:
        model = await registry.get(db.rl, before)
        return BranchTraining(branch, window_ids, REPEATED, model, None, "", None, model.metrics)
    choice = choose_backend(settings)
    reached(Stage.BACKEND_CHOSEN)
    await ensure_base(db.rl, settings, backend=choice.name)
    parent = await branch_parent(db.rl, branch, choice.name)
    name = window_ids[0] if len(window_ids) == 1 else f"{window_ids[0]} to {window_ids[-1]}"
    batch = await build_side_batch(db.rl, store, name, window_ids, side_rules(settings), selection)
    if batch.status != READY:
        return BranchTraining(branch, window_ids, NO_DATA, parent.model, parent, batch.reason, batch, {})
    _, episodes = load_batch(store, batch.uri)
    reached(Stage.BATCH_LOADED)
    job = UnitJob(batch, episodes, parent, choice, Recipe.under(settings, choice.name), branch=branch)
    status, model = await train_unit(db, settings, job, on_step, track)
    if settings.project_to_game:
        await project_training(db, model, batch, store)
    return BranchTraining(
        branch, window_ids, status, model, parent, parent.reason, batch, model.metrics, choice
    )


async def branch_parent(rl: asyncpg.Connection, branch: str, backend: BackendName) -> ParentChoice:
    """Where a branch goes on: at its own newest checkpoint, else where the live chain stands.

    At W&B Training a new branch starts from the base model, because the service trains a model's newest step
    only, and the live chain's is not to be touched.
    """
    own = [m for m in await registry.list_models(rl) if m.branch == branch and m.status in USABLE]
    if own:
        return ParentChoice(own[0], f"newest checkpoint of the branch {branch}")
    live = None if backend == "serverless" else await newest_not_rejected(rl)
    if live is not None:
        return ParentChoice(live, f"the branch {branch} leaves the live chain here")
    return ParentChoice(await registry.get(rl, str(BASE)), f"the branch {branch} starts from the base model")
