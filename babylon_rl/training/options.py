"""What the settings ask of a training backend, and what it cannot do.

A hyperparameter that is unset leaves the backend its own default. One that is set and that the backend cannot
follow is refused, unless the value is what the backend does anyway: a training never quietly ignores what it
was told.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from pydantic import TypeAdapter, ValidationError

from babylon_rl.settings import Settings
from babylon_rl.training.errors import TrainingError, UnknownTrainingArgumentError
from babylon_rl.training.recipe import EmbeddedTrainConfig, Precision

BackendName = Literal["embedded", "local", "serverless"]

SERVERLESS_CHUNK_BYTES = 16 << 20
"""The service's limit is not published; ART sends one body per job."""


class UnsupportedOptionError(TrainingError):
    """Hyperparameters are set that the chosen backend cannot follow."""


@dataclass(frozen=True)
class ServerlessTrainConfig:
    """What W&B Training is told; everything else is the service's own choice. Part of a unit's identity."""

    learning_rate: float = 5e-6
    epsilon: float | None = None
    """Clipping of the importance ratio; None is ART's default (CISPO, 0 to 5)."""
    ppo: bool = False
    importance_sampling_level: str = "token"


@dataclass(frozen=True)
class LocalTrainConfig:
    """What ART's LocalBackend is told. Part of a unit's identity."""

    learning_rate: float = 5e-6
    epsilon: float | None = None
    kl_penalty_coef: float = 0.0
    lora_rank: int = 8
    lora_alpha: float = 16.0


@dataclass(frozen=True)
class CutRules:
    """How a batch becomes chunks; part of a unit's identity.

    Attributes:
        max_bytes: Largest chunk as JSON; None means no limit.
        windows: Windows per chunk; None means as many as fit.
    """

    max_bytes: int | None = None
    windows: int | None = None


@dataclass(frozen=True)
class _Option:
    """A hyperparameter: its field in each backend's configuration, and the value that changes nothing."""

    fields: dict[BackendName, str]
    neutral: Any = None
    because: str = "it has no such option"


_OPTIONS: dict[str, _Option] = {
    "learning_rate": _Option(
        {"embedded": "learning_rate", "local": "learning_rate", "serverless": "learning_rate"}
    ),
    "training_epsilon": _Option({"embedded": "epsilon", "local": "epsilon", "serverless": "epsilon"}),
    "importance_sampling": _Option(
        {
            "embedded": "importance_sampling",
            "serverless": "importance_sampling_level",
        },
        "token",
    ),
    "truncated_importance": _Option(
        {"embedded": "truncated_importance"},
        because="it would need log-probabilities of its parent before the first step",
    ),
    "negative_veto": _Option({"embedded": "negative_veto"}),
    "negative_spare": _Option({"embedded": "negative_spare"}, 1.0),
    "second_moment": _Option({"embedded": "second_moment"}),
    "scale_rewards": _Option({"embedded": "scale_rewards"}, False),
    "kl_penalty": _Option({"embedded": "kl_penalty", "local": "kl_penalty_coef"}, 0.0),
    "iterations_per_window": _Option({"embedded": "epochs"}, 1, "a job is one pass over its batch"),
    "batch_size": _Option({"embedded": "batch_size"}, because="ART packs sequences by itself"),
    "gradient_accumulation_steps": _Option(
        {"embedded": "gradient_accumulation_steps"}, 1, "ART packs sequences by itself"
    ),
    "warmup_steps": _Option({"embedded": "warmup_steps"}, 0),
    "max_grad_norm": _Option({"embedded": "max_grad_norm"}, because="it sets its own"),
    "gamma": _Option({}, 1.0, "an episode has one reward at its end and nothing is discounted"),
    "training_method": _Option({"embedded": "method"}, "lora", "it trains LoRA adapters only"),
    "lora_rank": _Option({"embedded": "lora_rank", "local": "lora_rank"}, because="the service sets it"),
    "lora_alpha": _Option({"embedded": "lora_alpha", "local": "lora_alpha"}, because="the service sets it"),
    "training_seed": _Option({"embedded": "seed"}, because="it cannot be seeded"),
    "training_precision": _Option({"embedded": "precision"}, "auto", "it computes in bfloat16"),
    "training_optimizer_state": _Option({"embedded": "optimizer_state"}, "fresh", "it keeps no moments"),
}
SHARED = ("checkpoint_frequency", "training_chunk_bytes")
"""Options of the cutting into chunks, which every backend follows."""

PER_RUN = (
    *("training_backend", "base_model", "min_agents_per_window", "min_actions_per_trajectory"),
    *("training_min_trajectories", "window_delay_minutes", "wandb_project", "wandb_entity", "gate_threshold"),
    *("target_trajectories", "max_dropout", "training_deadline_minutes"),
)
"""Settings that shape no gradient and that one run may still have of its own."""


def is_supported(name: str, value: object, backend: BackendName) -> bool:
    """Whether a backend does what this value of a hyperparameter says."""
    option = _OPTIONS[name]
    return backend in option.fields or value == option.neutral


def hyperparameters() -> tuple[str, ...]:
    """The names, as settings, of everything that shapes a training."""
    return (*_OPTIONS, *SHARED)


def with_options(settings: Settings, values: Mapping[str, Any]) -> Settings:
    """The settings with values of one run, each checked as its variable would be.

    Args:
        values: By the name of the setting, in lower case.

    Raises:
        UnknownTrainingArgumentError: One is no option of a training.
        UnsupportedOptionError: A value is out of range.
    """
    allowed = (*hyperparameters(), *PER_RUN)
    checked = {}
    for name, value in values.items():
        if name not in allowed:
            raise UnknownTrainingArgumentError(name, allowed, "chosen")
        field = Settings.model_fields[name]
        kind: Any = Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
        try:
            checked[name] = TypeAdapter(kind).validate_python(value)
        except ValidationError as error:
            what = error.errors(include_url=False)[0]["msg"]
            raise UnsupportedOptionError(f"{name}={value!r}: {what}", "Correct the value.") from None
    return settings.model_copy(update=checked)


def embedded_config(settings: Settings) -> EmbeddedTrainConfig:
    """The embedded backend's configuration under these settings.

    Raises:
        UnsupportedOptionError: They ask for what it cannot do.
    """
    given = _given(settings, "embedded")
    if given.get("method", "full") == "full":
        for name in ("lora_rank", "lora_alpha"):
            if name in given:
                raise UnsupportedOptionError(
                    f"{name.upper()} is set, but the method of training is full",
                    "Set TRAINING_METHOD=lora, or unset it.",
                )
    given["precision"] = _precision(given.get("precision", "auto"))
    return replace(EmbeddedTrainConfig(), **given)


def serverless_config(settings: Settings) -> ServerlessTrainConfig:
    """The serverless backend's configuration; a clipping of our own means PPO's.

    Raises:
        UnsupportedOptionError: The settings ask for what the service cannot do.
    """
    given = _given(settings, "serverless")
    return replace(ServerlessTrainConfig(), **given, ppo="epsilon" in given)


def local_config(settings: Settings) -> LocalTrainConfig:
    """The GPU backend's configuration.

    Raises:
        UnsupportedOptionError: The settings ask for what ART's LocalBackend cannot do.
    """
    return replace(LocalTrainConfig(), **_given(settings, "local"))


def cut_rules(settings: Settings, backend: BackendName) -> CutRules:
    """How a batch is cut into chunks."""
    limit = settings.training_chunk_bytes
    if limit is None and backend == "serverless":
        limit = SERVERLESS_CHUNK_BYTES
    return CutRules(limit, settings.checkpoint_frequency)


def _given(settings: Settings, backend: BackendName) -> dict[str, Any]:
    """The values that are set, by their field in the backend's configuration."""
    values = {name: getattr(settings, name) for name in _OPTIONS}
    given = {name: value for name, value in values.items() if value is not None}
    refused = [name for name, value in given.items() if not is_supported(name, value, backend)]
    if refused:
        reasons = "; ".join(
            f"{name.upper()}={given[name]}: {_OPTIONS[name].because}" for name in sorted(refused)
        )
        raise UnsupportedOptionError(
            f"The {backend} backend cannot follow {reasons}",
            "Unset them, or choose another TRAINING_BACKEND (embedded follows most).",
        )
    fields = {name: _OPTIONS[name].fields.get(backend) for name in given}
    return {field: given[name] for name, field in fields.items() if field is not None}


def _precision(asked: str) -> Precision:
    if asked == "auto":
        import torch

        return "bfloat16" if torch.cuda.is_available() else "float32"
    return "bfloat16" if asked == "bfloat16" else "float32"
