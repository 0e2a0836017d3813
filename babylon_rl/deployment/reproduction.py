"""Training a version again: to the same bytes, or as a branch without an agent.

`reproduce` repeats a version from its manifest, beside everything else, and compares the files. `retrain`
makes a branch: the version and what it grew from, from the first one that the agent had part in, each on the
batch that its windows give without the agent.
"""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from babylon_rl.database.connection import Databases
from babylon_rl.deployment import registry
from babylon_rl.deployment.branches import side_rules
from babylon_rl.deployment.errors import DeploymentError
from babylon_rl.deployment.lineage import ParentChoice, ancestors
from babylon_rl.deployment.registry import ModelRecord
from babylon_rl.deployment.storage import local_path
from babylon_rl.deployment.trainers import art_model
from babylon_rl.deployment.unit_jobs import UnitJob
from babylon_rl.deployment.unit_training import Track, train_unit
from babylon_rl.policy.checkpoints import read_manifest
from babylon_rl.records.store import ArtifactStore
from babylon_rl.settings import Settings
from babylon_rl.training.backends import choose_backend
from babylon_rl.training.batch import READY, build_side_batch, load_batch
from babylon_rl.training.chunks import cut
from babylon_rl.training.conversion import to_art_groups, tokenizer_for
from babylon_rl.training.embedded import EmbeddedBackend, Progress
from babylon_rl.training.embedded_trainer import identity
from babylon_rl.training.errors import EmptyBatchError
from babylon_rl.training.recipe import EmbeddedTrainConfig
from babylon_rl.training.selection import Selection
from babylon_rl.training.unit_recipe import Recipe, code_sha256

_WINDOWS = "SELECT window_id FROM rl.trained_windows WHERE unit_key = $1 ORDER BY window_id"


class NotReproducibleError(DeploymentError):
    """A version cannot be trained again as it was."""


@dataclass(frozen=True)
class Reproduction:
    """A version beside its repetition.

    Attributes:
        differing: Files whose bytes differ; none means that the repetition is the same.
        changed: What differs in code, libraries or machine, as (name, then, now).
    """

    version: str
    differing: Sequence[str]
    changed: Sequence[tuple[str, str, str]]

    @property
    def same(self) -> bool:
        return not self.differing


@dataclass(frozen=True)
class Retrained:
    """One version of the branch and what it stands for."""

    original: str
    model: ModelRecord | None
    """None where nothing was left to train."""
    reason: str


async def reproduce(
    db: Databases,
    store: ArtifactStore,
    settings: Settings,
    version: str,
    on_step: Progress | None = None,
) -> Reproduction:
    """Train a version again from its manifest and compare; nothing is registered and nothing is kept.

    Raises:
        UnknownVersionError: It is not registered.
        NotReproducibleError: It is the base model, was trained elsewhere, or its batch is no longer whole.
        ArtifactError: Its batch is missing or altered.
        CheckpointError: Its parent is unusable.
    """
    model = await registry.get(db.rl, version)
    manifest, recipe = model.manifest, _recipe(model)
    config = recipe.config
    if not isinstance(config, EmbeddedTrainConfig):
        raise NotReproducibleError(
            f"{model.version} was trained by the backend {recipe.backend}, which gives other bytes each time",
            "`babylon retrain` makes a branch from the same batch.",
        )
    _, episodes = load_batch(store, str(manifest["batch_uri"]))
    lineage = await ancestors(db.rl, str(model.parent_version))
    with tempfile.TemporaryDirectory(prefix="babylon-reproduce-", dir=_scratch(settings)) as folder:
        parent = local_path(lineage[0], settings)
        backend = EmbeddedBackend(Path(folder) / "art", parent, step=len(lineage) - 1, reference=parent)
        network = art_model(settings, model.base_model)
        output = parent
        for chunk in cut(episodes, recipe.cut):
            target = Path(folder) / f"chunk{chunk.index}"
            try:
                await backend.train(
                    network,
                    to_art_groups(chunk.episodes, tokenizer_for(chunk.episodes, backend.checkpoint)),
                    output=target,
                    config=config,
                    manifest={"base_model": model.base_model, **identity(chunk)},
                    on_step=on_step,
                )
                output = target
            except EmptyBatchError:
                if chunk.of == 1:
                    raise
        found = read_manifest(output)
    expected = manifest["files"]
    names = sorted({*expected, *found["files"]})
    differing = [name for name in names if expected.get(name) != found["files"].get(name)]
    return Reproduction(model.version, differing, _changes(manifest, recipe, found))


async def retrain(
    db: Databases,
    store: ArtifactStore,
    settings: Settings,
    version: str,
    *,
    without_agent: str | None = None,
    on_step: Progress | None = None,
    track: Track | None = None,
) -> list[Retrained]:
    """Train a version again as a branch beside the live chain, optionally as if an agent had never played.

    Without an agent to leave out only the version itself is trained again, on what its windows give now and
    under the present settings. With one, so is everything it grew from since the agent first had part in it.

    Raises:
        UnknownVersionError: The version is not registered.
        NotReproducibleError: It is the base model.
        ImpossibleParentError: The backend cannot start from the parent.
    """
    model = await registry.get(db.rl, version)
    lineage = [found for found in await ancestors(db.rl, model.version) if not found.is_base]
    if not lineage:
        raise NotReproducibleError("the base model is not trained from data", "Name a trained version.")
    chain = [model]
    if without_agent is not None:
        touched = [number for number, found in enumerate(lineage) if _has(store, found, without_agent)]
        if not touched:
            return []
        chain = lineage[: max(touched) + 1][::-1]
    branch = f"retrain-{model.version}" + (f"-without-{without_agent}" if without_agent else "")
    choice = choose_backend(settings)
    parent = await registry.get(db.rl, str(chain[0].parent_version))
    results: list[Retrained] = []
    for original in chain:
        windows = [row["window_id"] for row in await db.rl.fetch(_WINDOWS, original.unit_key)]
        selection = Selection(without_agents=(without_agent,) if without_agent else ())
        batch = await build_side_batch(db.rl, store, branch, windows, side_rules(settings), selection)
        if batch.status != READY:
            results.append(Retrained(original.version, None, batch.reason))
            continue
        _, episodes = load_batch(store, batch.uri)
        why = f"{original.version} again" + (f" without {without_agent}" if without_agent else "")
        chosen = ParentChoice(parent, why)
        job = UnitJob(batch, episodes, chosen, choice, Recipe.under(settings, choice.name), branch=branch)
        _, parent = await train_unit(db, settings, job, on_step, track)
        results.append(Retrained(original.version, parent, chosen.reason))
    return results


def _has(store: ArtifactStore, model: ModelRecord, agent_id: str) -> bool:
    """Whether an agent's calls are in the batch that a version was trained on.

    A version whose batch has lost a forgotten agent's part counts as touched: nobody can look any more.
    """
    if model.manifest.get("reproducible") is False:
        return True
    _, *records = store.get(str(model.manifest["batch_uri"]))
    return any(record["agent_id"] == agent_id for record in records)


def _recipe(model: ModelRecord) -> Recipe:
    if model.is_base or not model.manifest.get("config") or not model.manifest.get("batch_uri"):
        raise NotReproducibleError(
            f"{model.version} was not trained from a batch", "Name a trained version (`babylon models`)."
        )
    if model.manifest.get("reproducible") is False:
        because = model.manifest.get("not_reproducible_because", "its manifest says so")
        raise NotReproducibleError(
            f"{model.version} is not reproducible: {because}",
            "`babylon retrain` makes a branch from what is left.",
        )
    return Recipe.recorded(model.manifest["config"])


def _changes(
    manifest: Mapping[str, Any], recipe: Recipe, found: Mapping[str, Any]
) -> list[tuple[str, str, str]]:
    """What is not as it was when the version was trained."""
    then, now = manifest["config"], recipe.identity()
    pairs = [(name, then.get(name), now[name]) for name in now]
    pairs += [
        ("source code", str(manifest.get("code_sha256"))[:12], code_sha256()[:12]),
        ("device", manifest.get("device"), found.get("device")),
    ]
    return [(name, str(before), str(after)) for name, before, after in pairs if before != after]


def _scratch(settings: Settings) -> Path:
    folder = settings.home / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    return folder
