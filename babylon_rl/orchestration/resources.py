"""What the assets need from outside, configurable per run in the Dagster UI.

Every field is empty by default and then follows the environment (`settings.py`), so that a run started
anywhere behaves alike; a value given in a run's config holds for that run only. No resource opens anything by
itself.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import dagster as dg
from pydantic import Field, SecretStr

from babylon_rl.database.connection import Databases, open_databases
from babylon_rl.deployment.unit_jobs import UnitJob
from babylon_rl.deployment.unit_training import Track
from babylon_rl.records.store import ArtifactStore
from babylon_rl.settings import Settings, get_settings
from babylon_rl.tracking import Run, open_run
from babylon_rl.training.options import with_options

READER = "babylon_reader"
"""Database role of checks, sensors and schedules that only look."""
JUDGE = "babylon_judge"
"""Database role of the hourly assets: they keep the windows' verdicts and may read the hidden answers."""
TRAINER = "babylon_trainer"
"""Database role of training and deployment, to which the hidden answers are closed."""


class PostgresResource(dg.ConfigurableResource):
    """The game's database and the pipeline's schema `rl`.

    A sensor cannot enter an asynchronous resource and a pool belongs to one event loop: so there is no life
    cycle here, only `connect()`, to be entered where the queries are.
    """

    database_url: str = Field(
        default="",
        description="PostgreSQL DSN of the game. Empty: DATABASE_URL, else the embedded server. "
        "Run config is stored and shown in the UI: prefer the environment for DSNs with a password.",
    )
    rl_database_url: str = Field(
        default="",
        description="PostgreSQL DSN of schema rl. Empty: RL_DATABASE_URL, else the game's database.",
    )

    def settings(self) -> Settings:
        """Returns the settings with this resource's values in place of the environment's."""
        return _with(
            get_settings(),
            database_url=SecretStr(self.database_url) if self.database_url else None,
            rl_database_url=SecretStr(self.rl_database_url) if self.rl_database_url else None,
        )

    @asynccontextmanager
    async def connect(self, role: str | None = None) -> AsyncIterator[Databases]:
        """Opens one connection per database, verified against the migration ledger.

        Args:
            role: Database role to act as; its grants say what can be read and written.

        Raises:
            UnreachableDatabaseError: No server answers.
            MissingMigrationError: Schema rl is older than this code.
        """
        async with open_databases(self.settings(), role=role) as databases:
            yield databases


class ArtResource(dg.ConfigurableResource):
    """Training and judging: which backend trains, from which base model, and how episodes are scored."""

    backend: Literal["", "auto", "embedded", "local", "serverless"] = Field(
        default="",
        description="Where training runs: embedded (tiny model, CPU), local (ART LocalBackend, one GPU), "
        "serverless (W&B Training), auto. Empty: TRAINING_BACKEND.",
    )
    base_model: str = Field(
        default="",
        description="Model that the first checkpoint starts from. Empty: BASE_MODEL or the backend's own.",
    )
    scorer: Literal["", "pnl", "heuristic", "ruler", "ruler_with_heuristic_check", "function"] = Field(
        default="",
        description="Reward of an episode: pnl (winsorised in-group return on start equity), heuristic "
        "(0.5 P&L + 0.3 win rate + 0.2 activity), ruler (a judge that sees the ground truth), "
        "ruler_with_heuristic_check (a local scorer takes over what stays doubtful) or function "
        "(REWARD_FUNCTION). Empty: SCORER.",
    )
    judge_model: str = Field(
        default="",
        description="Judge of this run, such as openai/gpt-4o-mini. A window that was judged before shows "
        "how the two agree. Empty: JUDGE_MODEL.",
    )
    judge_rubric: str = Field(
        default="", description="File with the rubric of this run. Empty: JUDGE_RUBRIC or the built-in one."
    )
    judge_orders: int | None = Field(
        default=None, ge=1, le=8, description="Orders that are judged and averaged. Empty: JUDGE_ORDERS."
    )
    judge_daily_budget_usd: float | None = Field(
        default=None, ge=0.0, description="Dollars per UTC day for judges. Empty: JUDGE_DAILY_BUDGET_USD."
    )
    invalid_action_penalty: float | None = Field(
        default=None,
        ge=0.0,
        description="Taken from the reward times the share of invalid actions. "
        "Empty: INVALID_ACTION_PENALTY.",
    )
    training_horizon: Literal["", "1h", "24h"] = Field(
        default="",
        description="Age at which an order's value counts for the reward. Empty: TRAINING_HORIZON.",
    )
    min_agents_per_window: int | None = Field(
        default=None,
        ge=2,
        description="Distinct agents that a window needs to form a group. Empty: MIN_AGENTS_PER_WINDOW.",
    )
    gate_threshold: float | None = Field(
        default=None,
        description="Return on start equity by which a candidate must beat the incumbent. "
        "Empty: GATE_THRESHOLD.",
    )
    options: dict[str, Any] = Field(
        default_factory=dict,
        description="Further training settings of this run by their variable in lower case, for example "
        '{"learning_rate": 0.0001}. What is not named follows the environment.',
    )

    def settings(self, base: Settings | None = None) -> Settings:
        """Returns `base` (the environment's settings) with this resource's values in its place.

        Raises:
            UnknownTrainingArgumentError: `options` names no training setting.
            UnsupportedOptionError: One of its values is out of range.
        """
        given = _with(
            base or get_settings(),
            training_backend=self.backend or None,
            base_model=self.base_model or None,
            scorer=self.scorer or None,
            judge_model=self.judge_model or None,
            judge_rubric=Path(self.judge_rubric) if self.judge_rubric else None,
            judge_orders=self.judge_orders,
            judge_daily_budget_usd=self.judge_daily_budget_usd,
            invalid_action_penalty=self.invalid_action_penalty,
            training_horizon=self.training_horizon or None,
            min_agents_per_window=self.min_agents_per_window,
            gate_threshold=self.gate_threshold,
        )
        return with_options(given, self.options)


class WandbResource(dg.ConfigurableResource):
    """Tracking in Weights & Biases: digests and lineage of what each run made, and the metrics of training.

    A failing W&B never fails a run; what it refuses is kept in a local file.
    """

    mode: Literal["", "auto", "online", "offline", "none"] = Field(
        default="",
        description="online (needs a key), offline (written locally, `wandb sync` brings it later), none, "
        "or auto: online with a key, else offline. Empty: WANDB_MODE.",
    )
    project: str = Field(default="", description="W&B project. Empty: WANDB_PROJECT.")
    entity: str = Field(default="", description="W&B user or team. Empty: WANDB_ENTITY.")

    def settings(self) -> Settings:
        """Returns the settings with this resource's values in place of the environment's."""
        return _with(
            get_settings(),
            wandb_mode=self.mode or None,
            wandb_project=self.project or None,
            wandb_entity=self.entity or None,
        )

    def run(self, context: dg.AssetExecutionContext, name: str) -> Run:
        """Opens the W&B run of this asset in this Dagster run; a retry continues it.

        Args:
            context: Names the asset (job type) and the Dagster run (group).
            name: What a person looks for, such as the day.
        """
        return open_run(
            self.settings(),
            name=name,
            job_type=context.asset_key.to_user_string(),
            group=context.run.run_id,
        )

    def tracker(self, dagster_run: str) -> Track:
        """Returns what opens the W&B run of a training unit; whoever trains the unit again continues it.

        Args:
            dagster_run: Id of the Dagster run, kept as a setting of the W&B run.
        """

        def open_unit(job: UnitJob, unit_key: str) -> Run:
            return open_run(
                self.settings(),
                name=job.name,
                job_type="train",
                group=unit_key[:16],
                config={**job.recipe.identity(), "dagster_run": dagster_run, "unit_key": unit_key},
                tags=[job.choice.name, job.parent.model.base_model, job.branch or "live"],
            )

        return open_unit


class ArtifactStoreResource(dg.ConfigurableResource):
    """Immutable, content-hashed files: snapshots, scored groups and training batches."""

    url: str = Field(
        default="",
        description="Folder, as a file:// address. Empty: ARTIFACT_URL, else BABYLON_HOME/artifacts.",
    )

    def open(self) -> ArtifactStore:
        """Returns the store; nothing is created before the first file."""
        settings = get_settings()
        address = self.url or settings.artifact_url
        return ArtifactStore(Path(urlsplit(address).path) if address else settings.home / "artifacts")


def _with(settings: Settings, **given: object) -> Settings:
    return settings.model_copy(update={name: value for name, value in given.items() if value is not None})
