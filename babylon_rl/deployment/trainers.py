"""The trainer of a unit on the backend that was chosen, standing at the unit's parent."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from babylon_rl.deployment.errors import DeploymentError
from babylon_rl.deployment.registry import ModelRecord
from babylon_rl.deployment.storage import local_path
from babylon_rl.settings import Settings
from babylon_rl.training.embedded import EmbeddedBackend
from babylon_rl.training.embedded_trainer import EmbeddedTrainer
from babylon_rl.training.options import LocalTrainConfig, ServerlessTrainConfig
from babylon_rl.training.recipe import EmbeddedTrainConfig
from babylon_rl.training.serverless.service import TrainingService
from babylon_rl.training.serverless.trainer import Patience, ServerlessTrainer
from babylon_rl.training.trainer import Trainer
from babylon_rl.training.unit_recipe import Recipe


class ImpossibleParentError(DeploymentError):
    """The chosen backend cannot start from this parent."""


@dataclass(frozen=True)
class Ground:
    """What a trainer stands on.

    Attributes:
        lineage: The parent and its ancestors, down to the base model.
        output: Directory of the new checkpoint, on backends that write here.
        manifest: Provenance that the checkpoint carries.
        branch: Side branch, or None for the live chain.
        rejected: Every version that the registry rejected, to be rewound where that is allowed.
    """

    lineage: Sequence[ModelRecord]
    output: Path
    manifest: dict[str, Any]
    branch: str | None = None
    rejected: Sequence[ModelRecord] = field(default=())

    @property
    def parent(self) -> ModelRecord:
        return self.lineage[0]


def open_trainer(settings: Settings, recipe: Recipe, ground: Ground) -> Trainer:
    """Make the trainer; nothing happens before its first chunk.

    Raises:
        ImpossibleParentError: The backend cannot start from this parent.
        RemoteCheckpointError: The parent's checkpoint is not on this machine.
    """
    if isinstance(recipe.config, EmbeddedTrainConfig):
        return _embedded(settings, recipe.config, ground)
    if isinstance(recipe.config, LocalTrainConfig):
        from babylon_rl.training.local_gpu.trainer import open_local_trainer

        parent = None if ground.parent.is_base else local_path(ground.parent, settings)
        step = len(ground.lineage) - 1
        base = ground.parent.base_model
        return open_local_trainer(settings, recipe.config, base, parent, step, ground.output, ground.manifest)
    return _serverless(settings, recipe.config, ground)


def art_model(settings: Settings, base_model: str, name: str | None = None) -> Any:
    """ART's model, which reports nothing by itself."""
    from babylon_rl.training.art_import import import_art

    return import_art().TrainableModel(
        name=name or settings.model_name,
        project=settings.wandb_project,
        entity=settings.wandb_entity,
        base_model=base_model,
        report_metrics=[],
    )


def _embedded(settings: Settings, config: EmbeddedTrainConfig, ground: Ground) -> EmbeddedTrainer:
    parent = local_path(ground.parent, settings)
    backend = EmbeddedBackend(settings.home / "art", parent, step=len(ground.lineage) - 1, reference=parent)
    model = art_model(settings, ground.parent.base_model)
    return EmbeddedTrainer(backend, model, ground.output, config, ground.manifest)


def _serverless(settings: Settings, config: ServerlessTrainConfig, ground: Ground) -> ServerlessTrainer:
    assert settings.wandb_api_key is not None
    named, step = _remote_parent(settings, ground)
    service = TrainingService(
        art_model(settings, ground.parent.base_model, named),
        api_key=settings.wandb_api_key.get_secret_value(),
        base_url=settings.training_api_url,
        pause=settings.training_poll_seconds,
    )
    patience = Patience(
        poll=settings.training_poll_seconds,
        deadline=60 * settings.training_deadline_minutes,
        grace=settings.training_grace_seconds,
    )
    rewind = frozenset[int]()
    if settings.training_rewind:
        addresses = [_step(model.storage_path) for model in ground.rejected]
        rewind = frozenset(number for name, number in addresses if name == named)
    return ServerlessTrainer(service, config, patience, parent_step=step, rewind=rewind)


def _remote_parent(settings: Settings, ground: Ground) -> tuple[str, int]:
    """The model's name at the service, and its step that is the parent.

    A side branch is a model of its own there, because the service only trains from a model's newest step.
    """
    if ground.parent.is_base:
        suffix = f"-{_safe(ground.branch)}" if ground.branch else ""
        return f"{settings.model_name}{suffix}"[:64], 0
    name, step = _step(ground.parent.storage_path)
    if name and ground.branch == ground.parent.branch:
        return name, step
    raise ImpossibleParentError(
        f"W&B Training cannot start from {ground.parent.version} "
        f"({ground.parent.storage_path}): a side branch there starts from the base model",
        "Train the branch from v0.0.0, or use the embedded or the local backend.",
    )


def _step(storage_path: str | None) -> tuple[str, int]:
    """Model name and step of a W&B artifact's address; an empty name for any other address."""
    address = urlparse(storage_path or "")
    name, _, alias = address.path.rpartition("/")[2].partition(":step")
    if address.scheme != "wandb-artifact" or not alias.isdigit():
        return "", 0
    return name, int(alias)


def _safe(text: str) -> str:
    return "".join(c if c.isalnum() or c in "_.-" else "-" for c in text)
