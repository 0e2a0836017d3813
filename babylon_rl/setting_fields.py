"""The environment variables that babylon_rl acts on, one class per topic.

Each field is the environment variable of the same name in capitals. Its description says what it does, with
units, and is what `.env.example` shows. `settings.Settings` joins the topics, reads the environment and
refuses contradictions. Variables of the seed documents that have no effect here are in `seed_fields.py`.
"""

from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr
from pydantic_settings import BaseSettings, NoDecode

from babylon_rl.windows import normalize_window_id

BASE_MODELS = {
    "embedded": "babylon-tiny",
    "local": "Qwen/Qwen2.5-0.5B-Instruct",
    "serverless": "OpenPipe/Qwen3-14B-Instruct",
}
"""Each training backend's base model where BASE_MODEL is not set; `babylon-tiny` is built on first use."""


def _database_url(secret: SecretStr) -> SecretStr:
    if secret.get_secret_value().partition("://")[0] not in ("postgresql", "postgres"):
        raise ValueError("must be a PostgreSQL address that begins with postgresql://")
    return secret


def _http_url(text: str) -> str:
    if not text.startswith(("http://", "https://")):
        raise ValueError("must be an address that begins with http:// or https://")
    return text.rstrip("/")


def _page_url(text: str) -> str:
    address = urlsplit(_http_url(text))
    if not address.hostname or address.port == 0:  # a port that is none raises by itself
        raise ValueError("must name a host, as in https://babylon.example.org")
    if address.username or address.password or address.query or address.fragment:
        raise ValueError("must be an address without login, ? and #: it is shown to whoever opens a page")
    return _http_url(text)


def _window_id(text: str) -> str:
    canonical = normalize_window_id(text)
    if canonical is None:
        raise ValueError("must be a window id such as 2026-10-01T14:00")
    return canonical


def _comma_separated(value: object) -> object:
    return value.split(",") if isinstance(value, str) else value


def _upper(value: object) -> object:
    return value.upper() if isinstance(value, str) else value


def _names(value: object) -> object:
    return tuple(filter(None, map(str.strip, value.split(",")))) if isinstance(value, str) else value


def _shares(weights: tuple[float, float, float]) -> tuple[float, float, float]:
    if min(weights) < 0 or abs(sum(weights) - 1.0) > 1e-6:
        raise ValueError("must be three shares, none negative, that add up to 1")
    return weights


DatabaseUrl = Annotated[SecretStr, AfterValidator(_database_url)]
HttpUrl = Annotated[str, AfterValidator(_http_url)]
PageUrl = Annotated[str, AfterValidator(_page_url)]
WindowId = Annotated[str, AfterValidator(_window_id)]
Weights = Annotated[
    tuple[float, float, float], NoDecode, BeforeValidator(_comma_separated), AfterValidator(_shares)
]
LogLevel = Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR"], BeforeValidator(_upper)]
Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_names)]
Version = Annotated[str, Field(pattern=r"^(latest|v\d+\.\d+\.\d+)$")]
# W&B accepts more, but `:` and `/` would break artifact addresses.
WandbName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]


class PlaceFields(BaseSettings):
    """Databases, files, and what kind of installation this is"""

    database_url: DatabaseUrl | None = Field(
        None,
        description="The game's PostgreSQL. Unset: an embedded server under BABYLON_HOME, started on demand.",
    )
    train_rl_local: bool | None = Field(
        None,
        description="false forbids training on this machine (backends embedded, local); unset allows it.",
    )
    rl_database_url: DatabaseUrl | None = Field(
        None, description="PostgreSQL of the pipeline's schema `rl`. Unset: the game's database."
    )
    dagster_pg: DatabaseUrl | None = Field(
        None,
        description="PostgreSQL of Dagster's own storage. Unset: database `dagster` of the embedded server.",
    )
    test_database_url: DatabaseUrl | None = Field(
        None,
        description="A server on which the tests may create databases. Unset: an embedded one of their own.",
    )
    babylon_home: Path = Field(
        Path(".babylon"),
        description="Folder of everything written here; relative paths start at the project's folder.",
    )
    babylon_env: Literal["development", "test", "staging", "production"] | None = Field(
        None, description="Kind of installation. Unset: NODE_ENV decides; production turns USE_RL_MODEL off."
    )
    node_env: str | None = Field(
        None, description="The game's own name for BABYLON_ENV, used where that is unset."
    )
    babylon_require_all: bool = Field(
        False, description="true makes tests fail, not skip, where a tool that they need is missing."
    )
    artifact_url: str | None = Field(
        None,
        description="Where snapshots are stored (file:// addresses). Unset: BABYLON_HOME/artifacts.",
    )
    storage_roots: Names = Field(
        (),
        description="Places for archives and exports besides BABYLON_HOME/archives and /exports, "
        "comma-separated: folders, s3://bucket/prefix, gs://…, az://….",
    )
    logs_dir: Path | None = Field(
        None, description="Folder of app.log, one JSON object per line. Unset: BABYLON_HOME/logs."
    )
    log_level: LogLevel = Field("INFO", description="Least level of what app.log takes.")
    project_to_game: bool = Field(
        True, description="Also write results into the game's tables (outcomes, rewards, batches, models)."
    )
    worker_id: int = Field(
        0, ge=0, le=1023, description="This process's number in snowflake ids, different for each recorder."
    )


class WindowFields(BaseSettings):
    """Windows: which hours exist and when they count"""

    first_partition: WindowId = Field(
        "2026-10-01T00:00", description="First window of the Dagster partitions."
    )
    window_delay_minutes: float = Field(
        5.0, ge=0, description="Minutes after its end at which a window is complete (late commits)."
    )
    thin_window_deadline_minutes: float = Field(
        60.0, ge=0, description="Minutes after which a window with too few agents is processed as it is."
    )
    min_agents_per_window: int = Field(
        3, ge=2, description="Distinct agents that a window needs to be scored (one GRPO group)."
    )
    data_quality_threshold: float = Field(
        0.95,
        ge=0,
        le=1,
        description="Share of a window's rows that have to be above their bar of data quality; below it the "
        "window waits for repairs until its deadline.",
    )
    include_test_agents: bool = Field(False, description="Also read the trajectories of users marked isTest.")
    backfill_hours: int = Field(
        24, ge=1, description="Hours that `babylon outcomes sync` goes back by default."
    )
    window_duration_hours: int = Field(
        1, ge=1, le=1, description="Length of a window in hours. Windows are hours: another value is refused."
    )


class ScoringFields(BaseSettings):
    """Scoring: from an agent's episode to its reward"""

    scorer: Literal["pnl", "heuristic", "ruler", "ruler_with_heuristic_check", "function"] = Field(
        "pnl",
        description="pnl: in-group return on start equity. heuristic: the seeds' P&L, win rate, activity. "
        "ruler…: a judge, see docs/judge.md. function: REWARD_FUNCTION.",
    )
    reward_function: str | None = Field(
        None,
        pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$",
        description="package.module:function that rewards a window's episodes, for SCORER=function.",
    )
    heuristic_weights: Weights = Field(
        (0.5, 0.3, 0.2), description="Shares of P&L, win rate and activity in the heuristic score; sum 1."
    )
    heuristic_pnl_scale: float = Field(
        1000.0,
        gt=0,
        description="Dollars of P&L at which the heuristic's P&L part is full (and, negated, empty).",
    )
    heuristic_activity_scale: int = Field(
        20, ge=1, description="Actions in a window at which the heuristic's activity part is full."
    )
    invalid_action_penalty: float = Field(
        0.25,
        ge=0,
        description="Reward taken off an episode all of whose actions are invalid; less in proportion.",
    )
    training_horizon: Literal["1h", "24h"] = Field(
        "1h", description="Time after an order at which its value is taken for the reward."
    )


class TrainingFields(BaseSettings):
    """Training: backend, base model, readiness"""

    training_backend: Literal["auto", "embedded", "local", "serverless"] = Field(
        "auto",
        description="Where training runs: in this process, on a GPU here, or at W&B. auto chooses.",
    )
    base_model: str | None = Field(
        None, min_length=1, description="Model that training starts from. Unset: the default of the backend."
    )
    learning_rate: float | None = Field(
        None, gt=0, description="Step size of the optimizer. Unset: the default of the backend."
    )
    training_min_trajectories: int = Field(
        100, ge=1, description="Episodes that a day needs before it is trained (ready)."
    )
    training_min_groups: int = Field(
        10, ge=1, description="Scored groups that a day needs before it is trained."
    )


class DeploymentFields(BaseSettings):
    """Gate, deployment and inference"""

    gate_threshold: float = Field(
        0.0, description="Return on start equity by which a candidate must beat the incumbent to be promoted."
    )
    gate_alpha: float = Field(
        0.05, gt=0, lt=1, description="Error probability that the gate may spend over all candidates."
    )
    deployment_strategy: Literal["immediate", "gradual", "replace", "blue-green", "canary"] = Field(
        "immediate",
        description="How `deployed_model` releases a promoted checkpoint: to everybody, or measured against "
        "the active one (DEPLOYMENT_SCHEDULE). The old names mean immediate, immediate and gradual.",
    )
    deployment_schedule: str = Field(
        "10:24,50",
        description="Shares in percent and their hours for strategy gradual; a share of 100 promotes.",
    )
    use_rl_model: bool | None = Field(
        None, description="Master switch of trained models. Unset: on, but off in production."
    )
    rl_model_version: Version = Field(
        "latest", description="Version to serve: v1.2.3, or latest for the deployed."
    )
    rl_fallback_to_base: bool = Field(
        True, description="Answer with the base model where the trained one fails."
    )
    rl_rollout_percentage: float = Field(
        100.0,
        ge=0,
        le=100,
        description="Percent of agents that get a trained model at all; the others get the base (sticky).",
    )
    port: int = Field(8000, ge=0, le=65535, description="Port of `babylon serve`; 0 takes a free one.")
    gateway_public_url: PageUrl | None = Field(
        None,
        description="Where agents reach the gateway, without /v1, for links. Unset: 127.0.0.1 and PORT.",
    )

    @property
    def gateway_address(self) -> str:
        """The gateway as people and agents call it, without a slash at the end."""
        return self.gateway_public_url or f"http://127.0.0.1:{self.port}"


class TrackingFields(BaseSettings):
    """Weights & Biases"""

    wandb_mode: Literal["auto", "online", "offline", "none", "disabled"] = Field(
        "auto", description="auto: online with a key, else offline. none (or disabled): no W&B at all."
    )
    wandb_api_key: SecretStr | None = Field(
        None, description="Key of W&B. Unset: nothing leaves this machine."
    )
    wandb_entity: WandbName | None = Field(
        None, description="User or team of W&B; needed with a key for serverless training and online runs."
    )
    wandb_project: WandbName = Field("babylon-rl-training", description="Project of W&B.")
    wandb_base_url: HttpUrl = Field("https://api.wandb.ai", description="The W&B server.")
