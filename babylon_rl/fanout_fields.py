"""The environment variables of scaling out: which cluster, and what runs ask of it."""

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings


class FanoutFields(BaseSettings):
    """Scaling out on Ray (docs/scaling.md)"""

    ray_address: str | None = Field(
        None,
        description="Ray cluster for judged windows and benchmark rollouts: host:port of its head, or auto "
        "for the one on this machine. Needs the extra `ray`. Unset: everything is done here.",
    )
    dagster_instance_file: Path | None = Field(
        None,
        description="Dagster instance file in place of the repository's dagster.yaml, such as "
        "deploy/dagster-ray.yaml; a relative path starts at the project's folder.",
    )
    ray_training_gpus: float | None = Field(
        None,
        ge=0.0,
        description="GPUs that a training run asks of the Ray run launcher by its run tag. "
        "Unset: 1 with TRAINING_BACKEND=local, else none.",
    )
