"""What is to be trained: batch, parent, backend and recipe, and the provenance that the result carries."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any

from babylon_rl.deployment.lineage import ParentChoice
from babylon_rl.deployment.registry import ModelRecord
from babylon_rl.training.backends import BackendChoice
from babylon_rl.training.batch import TrainingBatch
from babylon_rl.training.conversion import TrainableEpisode
from babylon_rl.training.unit_recipe import Recipe, code_sha256
from babylon_rl.training.units import TrainingUnit


@dataclass(frozen=True)
class UnitJob:
    """What is to be trained, from what, where and how.

    Attributes:
        day: Of the live chain's unit; None for a side branch.
        branch: Name of the side branch; None for the live chain.
    """

    batch: TrainingBatch
    episodes: Sequence[TrainableEpisode] = field(repr=False)
    parent: ParentChoice
    choice: BackendChoice
    recipe: Recipe
    day: date | None = None
    branch: str | None = None

    @property
    def name(self) -> str:
        """What people call it: the day, or the branch."""
        return self.branch or self.batch.day

    @property
    def unit(self) -> TrainingUnit:
        """The unit of the ledger that it is."""
        return TrainingUnit(
            batch_sha256=self.batch.sha256,
            parent_version=self.parent.model.version,
            config=self.recipe.identity(),
            backend=self.choice.name,
            day=self.day,
            backend_reason=self.choice.reason,
        )


def provenance(job: UnitJob, unit_key: str, lineage: Sequence[ModelRecord]) -> dict[str, Any]:
    """What the checkpoint's manifest says of its origin; nothing in it depends on when it was trained."""
    parent, batch = job.parent, job.batch
    return {
        "base_model": parent.model.base_model,
        "parent": parent.model.version,
        "parent_reason": parent.reason,
        "parent_files": parent.model.manifest.get("files", {}),
        "day": batch.day,
        "branch": job.branch,
        "batch_sha256": batch.sha256,
        "batch_uri": batch.uri,
        "unit_key": unit_key,
        "backend": job.choice.name,
        "backend_reason": job.choice.reason,
        "config": job.recipe.identity(),
        "code_sha256": code_sha256(),
        "data_policies": batch.policy_versions,
        "data_lag": data_lag(batch, [model.version for model in lineage]),
    }


def left_out(job: UnitJob) -> dict[str, float]:
    """Calls that the unit does not train by reason, who confirms those it does, and what of it is residual.

    A trainer's own counts, also called `dropped/…`, are of calls of the batch, these are not.
    """
    batch = job.batch
    found = {f"dropped/{reason}": float(calls) for reason, calls in batch.dropped.items()}
    found |= {f"confirmed/{how}": float(calls) for how, calls in batch.confirmed.items()}
    if batch.residuals:
        found |= {f"residual/{name}": float(batch.residuals[name]) for name in ("groups", "episodes", "usd")}
    if job.choice.name != "embedded":
        calls = (call for episode in job.episodes for call in episode.calls)
        found["dropped/text_only"] = float(sum(not call.logprobs for call in calls))
    return found


def data_lag(batch: TrainingBatch, lineage: Sequence[str]) -> int | None:
    """Training steps between the oldest policy that played the batch and the parent; None if unrelated."""
    versions = list(lineage)
    distances = [versions.index(v) if v in versions else None for v in batch.policy_versions]
    known = [distance for distance in distances if distance is not None]
    return max(known) if known and len(known) == len(distances) else None
