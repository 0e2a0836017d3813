"""The old configuration files: `training_config.yaml` and `rl-pipeline.yaml`.

    file = read_config(Path("training_config.yaml"))
    file.for_backend("serverless").values       # {"learning_rate": 1e-06, ...}, by the name of the setting

Every key of the two files is known: it becomes a setting, or is named with the reason why it has no effect.
Any other key is refused by its full name. The checks of the game's ConfigValidator apply, all at once.
"""

import difflib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from babylon_rl.training.config_keys import FILES, Key
from babylon_rl.training.errors import TrainingError
from babylon_rl.training.options import BackendName, hyperparameters, is_supported


class ConfigFileError(TrainingError):
    """A configuration file that cannot be followed; names every key at fault."""


@dataclass(frozen=True)
class ConfigFile:
    """What a file says.

    Attributes:
        values: By the name of the setting, in lower case.
        shipped: Settings whose value is the one that the file was shipped with: a default, not a wish.
        notices: Lines for a person: what has no effect, and why.
        warnings: What is allowed but probably not meant.
    """

    values: dict[str, Any]
    shipped: frozenset[str]
    notices: tuple[str, ...]
    warnings: tuple[str, ...]

    def for_backend(self, backend: BackendName) -> "ConfigFile":
        """Without the shipped defaults that this backend cannot follow; each is named in the notices."""
        optional = set(hyperparameters()) & self.shipped
        dropped = [
            name
            for name, value in self.values.items()
            if name in optional and not _follows(name, value, backend)
        ]
        notices = [
            f"{name.upper()}={self.values[name]}: a default that backend {backend} cannot follow; dropped."
            for name in dropped
        ]
        kept = {name: value for name, value in self.values.items() if name not in dropped}
        return replace(self, values=kept, notices=(*self.notices, *notices))


def read_config(path: Path) -> ConfigFile:
    """Read one of the two files; which one it is follows from its sections.

    Raises:
        ConfigFileError: It is missing, no YAML, neither of the two, or has unknown keys or impossible values.
    """
    sections = _load(path)
    keys = _keys_of(path, sections)
    environment = _environment(sections)
    values: dict[str, Any] = {}
    shipped, notices, errors, warnings = set(), [], [], []
    for name, value in _leaves(sections):
        key = _find(keys, name, path)
        if name.startswith("environment.") and name.split(".")[1] != environment:
            continue
        if isinstance(value, str) and not isinstance(key.default, str | None):
            value = _number(value)
        errors += key.errors(name, value)
        warnings += key.warnings(name, value)
        if key.setting is None:
            notices.append(f"{name}: {key.reason}.")
        elif value is not None:
            values[key.setting] = value
            if value == key.default:
                shipped.add(key.setting)
    if errors:
        raise ConfigFileError(f"{path.name}: {'; '.join(errors)}", "Correct the file and try again.")
    return ConfigFile(values, frozenset(shipped), tuple(notices), tuple(warnings))


def _follows(name: str, value: object, backend: BackendName) -> bool:
    return name == "checkpoint_frequency" or is_supported(name, value, backend)


def _load(path: Path) -> dict[str, Any]:
    import yaml

    try:
        sections = yaml.safe_load(path.read_text())
    except OSError as problem:
        reason = problem.strerror or str(problem)
        raise ConfigFileError(f"{path} cannot be read: {reason}", "Check --config.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as problem:
        text = " ".join(str(problem).split())
        raise ConfigFileError(f"{path} is no YAML: {text}", "Correct the file and try again.") from None
    if not isinstance(sections, dict):
        raise ConfigFileError(f"{path} has no sections", "See training_config.yaml or rl-pipeline.yaml.")
    return sections


def _keys_of(path: Path, sections: Mapping[str, Any]) -> Mapping[str, Key]:
    """The keys of the file that shares most sections with this one."""
    shared = {
        name: len({key.partition(".")[0] for key in keys} & {str(section) for section in sections})
        for name, keys in FILES.items()
    }
    best = max(shared, key=lambda name: (shared[name], name == path.name))
    if not shared[best]:
        known = " or ".join(FILES)
        raise ConfigFileError(
            f"{path} is neither {known}: no section {', '.join(map(str, sections)) or '(none)'} is known",
            "Pass one of the two, or set the variables of .env.example.",
        )
    return FILES[best]


def _environment(sections: Mapping[str, Any]) -> str:
    """Which environment of training_config.yaml counts: the one that is enabled, `local` if both are."""
    environments = sections.get("environment") or {}
    enabled = [
        name
        for name, values in environments.items()
        if isinstance(values, dict) and values.get("enabled", False)
    ]
    return "local" if "local" in enabled or not enabled else enabled[0]


def _leaves(sections: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in sections.items():
        path = f"{prefix}{name}"
        if isinstance(value, dict):
            yield from _leaves(value, f"{path}.")
        else:
            yield path, value


def _find(keys: Mapping[str, Key], name: str, path: Path) -> Key:
    found = keys.get(name)
    if found is None:
        close = difflib.get_close_matches(name, keys, n=1, cutoff=0.6)
        hint = (
            f"Did you mean {close[0]}?" if close else "Remove it, or see docs/training.md for what is known."
        )
        raise ConfigFileError(f"{path.name} has the unknown key {name}", hint)
    return found


def _number(text: str) -> object:
    """YAML 1.1 reads `1e-6`, without a dot, as text."""
    try:
        value = float(text)
    except ValueError:
        return text
    return value if math.isfinite(value) else text
