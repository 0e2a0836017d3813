"""Settings: every environment variable, typed, documented, with its default.

    settings = get_settings()
    settings.min_agents_per_window      # MIN_AGENTS_PER_WINDOW
    settings.home                       # BABYLON_HOME, absolute

Real environment variables beat the file `.env` in the project's folder; an empty one counts as unset, and
hides the file's. Values that are unknown, out of range or contradict each other are refused by name with a
`SettingsError`. Secrets are `SecretStr`: neither an error nor a printed `Settings` shows them. `DATABASE_URL`
and `TRAIN_RL_LOCAL` are all that a deployment has to set, and the embedded one needs neither.
"""

import difflib
import os
from collections.abc import Iterable
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from dotenv import dotenv_values
from pydantic import SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    DotEnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from babylon_rl.admin_fields import AdminFields
from babylon_rl.alert_fields import AlertFields
from babylon_rl.errors import BabylonError
from babylon_rl.fanout_fields import FanoutFields
from babylon_rl.judge_fields import JudgeFields
from babylon_rl.seed_fields import SeedFields
from babylon_rl.serving_fields import ServingFields
from babylon_rl.setting_fields import (
    BASE_MODELS,
    DeploymentFields,
    PlaceFields,
    ScoringFields,
    TrackingFields,
    TrainingFields,
    WindowFields,
)
from babylon_rl.training_fields import HyperparameterFields, TrainingRunFields

GROUPS: tuple[type[BaseSettings], ...] = (
    PlaceFields,
    WindowFields,
    ScoringFields,
    JudgeFields,
    TrainingFields,
    HyperparameterFields,
    TrainingRunFields,
    DeploymentFields,
    ServingFields,
    AdminFields,
    AlertFields,
    FanoutFields,
    TrackingFields,
    SeedFields,
)
"""The topics in the order of `.env.example`."""


class SettingsError(BabylonError):
    """A variable that is unknown, out of range, or contradicts another one."""


class Settings(
    PlaceFields,
    WindowFields,
    ScoringFields,
    JudgeFields,
    TrainingFields,
    HyperparameterFields,
    TrainingRunFields,
    DeploymentFields,
    ServingFields,
    AdminFields,
    AlertFields,
    FanoutFields,
    TrackingFields,
    SeedFields,
):
    """All settings of one process; immutable. Use `get_settings()` outside of tests."""

    model_config = SettingsConfigDict(
        env_ignore_empty=True, extra="ignore", frozen=True, protected_namespaces=()
    )

    def __init__(self, **values: Any) -> None:
        """Reads the environment and `.env`; `values` override both. `_env_file=None` leaves the file out.

        Raises:
            SettingsError: One message that names every variable at fault, without secret values.
        """
        env_file = values.setdefault("_env_file", project_folder() / ".env")
        _refuse_unknown([*os.environ, *(dotenv_values(env_file) if env_file else ())])
        try:
            super().__init__(**values)
        except ValidationError as error:
            # `from None`: the chained error would print the values of secrets.
            raise SettingsError(_explain(error), "See .env.example for what each variable means.") from None
        _refuse_contradictions(self)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Lets a variable that is set but empty hide the file's: `WANDB_API_KEY= make demo` means no key."""
        if isinstance(dotenv_settings, DotEnvSettingsSource):
            real = {name.lower() for name in os.environ}
            dotenv_settings.env_vars = {
                name: value for name, value in dotenv_settings.env_vars.items() if name.lower() not in real
            }
        return init_settings, env_settings, dotenv_settings

    @property
    def home(self) -> Path:
        """BABYLON_HOME as an absolute path; relative ones start at the project's folder."""
        return (project_folder() / self.babylon_home.expanduser()).resolve()

    @property
    def is_production(self) -> bool:
        return (self.babylon_env or self.node_env) == "production"

    @property
    def rl_model_enabled(self) -> bool:
        """Whether trained models may answer: USE_RL_MODEL, else everywhere but in production (seed 000)."""
        return not self.is_production if self.use_rl_model is None else self.use_rl_model

    @property
    def gateway_knows_agents(self) -> bool:
        """Whether callers can prove to be an agent: then nobody else is believed to be one."""
        return self.gateway_api_keys is not None or self.gateway_token_secret is not None

    @property
    def window_delay(self) -> timedelta:
        return timedelta(minutes=self.window_delay_minutes)

    @property
    def tracking_mode(self) -> Literal["online", "offline", "none"]:
        """WANDB_MODE with `auto` resolved."""
        if self.wandb_mode == "auto":
            return "offline" if self.wandb_api_key is None else "online"
        return "none" if self.wandb_mode == "disabled" else self.wandb_mode

    def base_model_for(self, backend: Literal["embedded", "local", "serverless"]) -> str:
        """BASE_MODEL, or the backend's default base model."""
        return self.base_model or BASE_MODELS[backend]

    def require_wandb(self, purpose: str) -> tuple[str, str]:
        """Returns (API key, entity) for something that cannot do without W&B.

        Raises:
            SettingsError: One is missing; `purpose`, such as "serverless training", begins the message.
        """
        if self.wandb_api_key is None or self.wandb_entity is None:
            missing = "WANDB_API_KEY" if self.wandb_api_key is None else "WANDB_ENTITY"
            raise SettingsError(
                f"{purpose} needs WANDB_API_KEY and WANDB_ENTITY, and {missing} is not set",
                "Set it, or choose a training backend and a WANDB_MODE that do without W&B.",
            )
        return self.wandb_api_key.get_secret_value(), self.wandb_entity

    def warnings(self) -> list[str]:
        """What is allowed but probably not meant, one line each."""
        found = []
        for name in sorted(self.model_fields_set):
            if (extra := field_extra(type(self).model_fields[name])).get("warn"):
                found.append(f"{name.upper()} is set: {extra['no_effect']}.")
        found += self.unusual()
        if self.is_production and self.rl_model_enabled and not self.rl_fallback_to_base:
            found.append("RL_FALLBACK_TO_BASE is false in production: a broken model leaves the agents mute.")
        return found

    def unusual(self) -> list[str]:
        """Hyperparameters that are probably not meant (the rules of the game's ConfigValidator)."""
        found = []
        if self.learning_rate is not None and not 1e-8 <= self.learning_rate <= 1e-3:
            found.append(f"LEARNING_RATE {self.learning_rate:g} is outside of the usual 1e-8 to 1e-3.")
        for name, most in (("batch_size", 64), ("kl_penalty", 1)):
            if (value := getattr(self, name)) is not None and value > most:
                found.append(f"{name.upper()} {value:g} is more than the usual {most}.")
        if self.gamma is not None and self.gamma != 1:
            found.append(f"GAMMA is {self.gamma:g}: no backend discounts, so training will refuse it.")
        return found


def field_extra(field: FieldInfo) -> dict[str, Any]:
    """The marks of a field without effect: `no_effect` (why) and `warn`; empty for the others."""
    return field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}


def project_folder() -> Path:
    """The folder with `workspace.yaml` at or above the working directory, else the working directory."""
    here = Path.cwd()
    return next((folder for folder in (here, *here.parents) if (folder / "workspace.yaml").is_file()), here)


@lru_cache(maxsize=1)
def get_settings() -> Settings:
    """The settings of this process, read once. `get_settings.cache_clear()` reads them anew."""
    return Settings()


def is_secret(field: FieldInfo) -> bool:
    """Whether a field's value must never be shown."""
    return "SecretStr" in str(field.annotation)


def render_example() -> str:
    """The text of `.env.example`: every variable, commented out, with its default and description."""
    lines = [
        "# Every variable of babylon_rl with its default. Copy to .env and uncomment what you change; real"
    ]
    lines += ["# environment variables beat .env. Written by `python -m babylon_rl.settings > .env.example`."]
    for group in GROUPS:
        lines += ["", "", f"# ---- {(group.__doc__ or '').strip()} ----"]
        for name in group.__annotations__:
            field = Settings.model_fields[name]
            lines += ["", f"# {field.description}"]
            if choices := _choices(field.annotation):
                lines += [f"# One of: {', '.join(choices)}"]
            lines += [f"#{name.upper()}={_as_text(field.default)}"]
    return "\n".join(lines) + "\n"


def _choices(annotation: object) -> list[str]:
    """The values of a Literal, also inside of `| None`; empty for other types and for a single value."""
    found = [str(value) for part in (annotation, *get_args(annotation)) for value in _literal_values(part)]
    return found if len(found) > 1 else []


def _literal_values(annotation: object) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) is Literal else ()


def _as_text(default: object) -> str:
    if default is None:
        return ""
    if isinstance(default, bool):
        return str(default).lower()
    return ",".join(map(str, default)) if isinstance(default, tuple) else str(default)


def _refuse_unknown(names: Iterable[str]) -> None:
    known = [name.upper() for name in Settings.model_fields]
    for name in names:
        if name.upper().startswith("BABYLON_") and name.upper() not in known:
            close = difflib.get_close_matches(name.upper(), known, n=1, cutoff=0.5)
            hint = f"Did you mean {close[0]}? " if close else ""
            raise SettingsError(
                f"{name} is not a variable of babylon_rl",
                f"{hint}.env.example lists all; remove or correct it.",
            )


def _refuse_contradictions(settings: Settings) -> None:
    if settings.train_rl_local is False and settings.training_backend in ("embedded", "local"):
        raise SettingsError(
            f"TRAIN_RL_LOCAL=false forbids what TRAINING_BACKEND={settings.training_backend} asks for",
            "Remove TRAIN_RL_LOCAL, or set TRAINING_BACKEND=serverless.",
        )
    if settings.training_backend == "serverless":
        settings.require_wandb("TRAINING_BACKEND=serverless")
    if settings.wandb_mode == "online":
        settings.require_wandb("WANDB_MODE=online")
    if settings.scorer == "function" and settings.reward_function is None:
        raise SettingsError(
            "SCORER=function needs REWARD_FUNCTION", "Set it to package.module:function, or choose another."
        )


def _explain(error: ValidationError) -> str:
    lines = []
    for detail in error.errors(include_url=False, include_context=False):
        name = str(detail["loc"][0]) if detail["loc"] else ""
        field = Settings.model_fields.get(name)
        shown = "" if field is None or is_secret(field) else f"={_raw(detail['input'])}"
        message = detail["msg"].removeprefix("Value error, ").removeprefix("Input ")
        lines.append(f"{name.upper()}{shown}: {message[0].lower()}{message[1:]}")
    return "; ".join(dict.fromkeys(lines))


def _raw(value: object) -> str:
    return "***" if isinstance(value, SecretStr) or "@" in str(value) else repr(value)  # a login


if __name__ == "__main__":
    print(render_example(), end="")
