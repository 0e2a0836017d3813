"""The recipe of a training unit: its backend's configuration and all else that the result depends on."""

import hashlib
import platform
from dataclasses import asdict, dataclass, fields
from functools import cache
from importlib.metadata import version as library_version
from pathlib import Path
from typing import Any

from babylon_rl import __version__
from babylon_rl.settings import Settings
from babylon_rl.training.options import (
    BackendName,
    CutRules,
    LocalTrainConfig,
    ServerlessTrainConfig,
    cut_rules,
    embedded_config,
    local_config,
    serverless_config,
)
from babylon_rl.training.recipe import EmbeddedTrainConfig

LIBRARIES = ("torch", "transformers", "openpipe-art", "tokenizers", "numpy")
"""Libraries whose versions can change a checkpoint's bytes."""
LORA_LIBRARIES = ("peft", "safetensors")

TrainConfig = EmbeddedTrainConfig | LocalTrainConfig | ServerlessTrainConfig

_CONFIGS: dict[str, type[TrainConfig]] = {
    "embedded": EmbeddedTrainConfig,
    "local": LocalTrainConfig,
    "serverless": ServerlessTrainConfig,
}
_BEFORE: dict[str, dict[str, Any]] = {"embedded": {"negative_spare": None}}
"""What units did that were trained before a field existed, where its default does something else."""


@dataclass(frozen=True)
class Recipe:
    """How a unit is trained, apart from its batch and its parent."""

    backend: BackendName
    config: TrainConfig
    cut: CutRules

    @classmethod
    def under(cls, settings: Settings, backend: BackendName) -> "Recipe":
        """The recipe that the settings ask for.

        Raises:
            UnsupportedOptionError: They ask for what the backend cannot do.
        """
        if backend == "embedded":
            config: TrainConfig = embedded_config(settings)
        else:
            config = local_config(settings) if backend == "local" else serverless_config(settings)
        return cls(backend, config, cut_rules(settings, backend))

    @classmethod
    def recorded(cls, identity: dict[str, Any]) -> "Recipe":
        """The recipe that a unit was trained with, from its ledger's or manifest's `config`."""
        backend = identity.get("backend", "embedded")
        kind = _CONFIGS[backend]
        known = {field.name for field in fields(kind)}
        values = {**_BEFORE.get(backend, {}), **identity}
        config = kind(**{name: value for name, value in values.items() if name in known})
        return cls(backend, config, CutRules(**identity.get("cut", {})))

    def identity(self) -> dict[str, Any]:
        """What the unit's key is made of, besides batch and parent."""
        return unit_config(self.config, self.backend, self.cut)


def unit_config(
    config: TrainConfig, backend: BackendName = "embedded", cut: CutRules | None = None
) -> dict[str, Any]:
    """Everything besides batch and parent that the checkpoint's bytes depend on."""
    named: tuple[str, ...] = LIBRARIES if backend == "embedded" else ("openpipe-art",)
    if isinstance(config, EmbeddedTrainConfig) and config.method == "lora":
        named += LORA_LIBRARIES
    versions = {name: library_version(name).partition("+")[0] for name in named}
    identity = {**asdict(config), "code": __version__, "python": platform.python_version(), **versions}
    if backend != "embedded":
        identity["backend"] = backend
    if cut is not None and cut != CutRules():
        identity["cut"] = asdict(cut)
    return identity


@cache
def code_sha256() -> str:
    """Hash over this package's source, for the manifest: the exact code, also between two versions."""
    root = Path(__file__).resolve().parents[1]
    digest = hashlib.sha256()
    for file in sorted(root.rglob("*.py")):
        digest.update(str(file.relative_to(root)).encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()
