"""The environment variables of the seed documents that have no effect in babylon_rl.

They stay readable so that an existing `.env` keeps working: values are checked, and `Settings.warnings()`
names each one that is set and says what takes its place. Those of the game's own processes are accepted in
silence.
"""

from typing import Any

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings


def replaced(by: str, **constraints: Any) -> Any:
    """A variable whose work is done in another way."""
    return _without_effect(f"no effect: {by}", True, constraints)


def games(by: str, **constraints: Any) -> Any:
    """A variable of the game's processes, which may share our `.env`."""
    return _without_effect(f"no effect: {by}", False, constraints)


def _without_effect(reason: str, warn: bool, constraints: dict[str, Any]) -> Any:
    description = f"{reason[0].upper()}{reason[1:]}."
    return Field(
        None, description=description, json_schema_extra={"no_effect": reason, "warn": warn}, **constraints
    )


class SeedFields(BaseSettings):
    """Accepted from the seed documents, without effect"""

    # The command line of the seeds' trainers
    batch_id: str | None = replaced("a batch's id is the hash of its content")
    model_version: str | None = replaced("the registry allocates versions")
    project_name: str | None = replaced("WANDB_PROJECT")
    training_env: str | None = replaced("BABYLON_ENV")
    local_endpoint: str | None = replaced("PORT")
    checkpoint_dir: str | None = replaced("BABYLON_HOME/models")
    metrics_dir: str | None = replaced("BABYLON_HOME/wandb")
    poll_interval: float | None = replaced("Dagster's sensors and schedules", gt=0)

    # Selection of the data
    training_min_group_size: int | None = replaced("MIN_AGENTS_PER_WINDOW", ge=1)
    training_frequency_windows: int | None = replaced("the daily schedule", ge=1)
    record_agent_trajectories: bool | None = games("the game's recorder reads it")
    trajectory_sampling_rate: float | None = games("the game's recorder reads it", ge=0, le=1)

    # The judge
    openpipe_api_key: SecretStr | None = replaced("data stays in PostgreSQL, OpenPipe is not called")

    # Serving and operations
    wandb_model: str | None = replaced("BASE_MODEL; the game's override is SystemSettings.wandbModel")
    github_token: SecretStr | None = games("Dagster starts training, not a workflow at GitHub")
    github_repo: str | None = games("Dagster starts training, not a workflow at GitHub")
    blob_read_write_token: SecretStr | None = replaced("ARTIFACT_URL; nothing is stored in public blobs")
    auto_create_agent_wallets: bool | None = games("the game reads it")
    groq_api_key: SecretStr | None = games("the game reads it")
    small_groq_model: str | None = games("the game reads it")
    large_groq_model: str | None = games("the game reads it")
    run_e2e: str | None = replaced("`make test-all`")
