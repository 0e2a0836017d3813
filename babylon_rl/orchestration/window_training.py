"""Training chosen windows on a side branch: the job behind `babylon train --mode single --window` and
`--mode continuous`, and what the command line reads of its runs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dagster as dg
from pydantic import Field

from babylon_rl.deployment.branches import BranchTraining, train_windows
from babylon_rl.orchestration.reporting import shown
from babylon_rl.orchestration.resources import (
    ArtifactStoreResource,
    ArtResource,
    PostgresResource,
    WandbResource,
)
from babylon_rl.orchestration.runs import FinishedRun, run_in_process
from babylon_rl.training.selection import Selection

JOB = "window_training_job"


class WindowTrainingConfig(dg.Config):
    """Which windows are trained, and on which side branch."""

    windows: list[str] = Field(description="Ids of scored windows, in order, such as 2026-10-01T14:00.")
    branch: str = Field(description="Side branch that the checkpoint belongs to; never the parent of a day.")
    min_agents: int = Field(default=2, ge=1, description="Distinct agents that a window needs.")
    min_actions: int = Field(default=0, ge=0, description="Actions that an agent's hour needs.")
    target_trajectories: int | None = Field(
        default=None, ge=1, description="Episodes wanted in all; where there are more, some are left out."
    )
    max_dropout: float = Field(
        default=0.3, ge=0.0, lt=1.0, description="Share of each window that is left out at most."
    )

    def selection(self) -> Selection:
        """Returns what to train of the windows."""
        return Selection(self.min_agents, self.min_actions, self.target_trajectories, self.max_dropout)


@dg.op(pool="gpu_training", tags={"kind": "pytorch"})
async def train_chosen_windows(
    context: dg.OpExecutionContext,
    config: WindowTrainingConfig,
    postgres: PostgresResource,
    art: ArtResource,
    store: ArtifactStoreResource,
    wandb: WandbResource,
) -> None:
    """Trains scored windows as one step of a side branch; windows that it trained before are left alone."""
    # No narrower role: the leak scan reads the outcomes, which are closed to whoever may write batches.
    async with postgres.connect() as db:
        training = await train_windows(
            db,
            store.open(),
            art.settings(postgres.settings()),
            config.branch,
            config.windows,
            config.selection(),
            track=wandb.tracker(context.run_id),
        )
    context.add_output_metadata(_metadata(training))
    context.log.info(f"{config.branch}: {training.status}, {training.model.version}")


@dg.job(
    name=JOB,
    description="Train chosen windows on a side branch that is never the parent of a day.",
    tags={"babylon/kind": "training"},
)
def window_training_job() -> None:
    train_chosen_windows()


@dataclass(frozen=True)
class Trained:
    """What a run of the job reported.

    Attributes:
        status: `trained`, `trained before` or `no data`.
        version: The checkpoint; without data its parent.
        step: ART's step, None where nothing was trained.
    """

    run: FinishedRun
    status: str
    version: str
    reason: str
    step: int | None
    checkpoint: str


def run_windows(
    instance: dg.DagsterInstance,
    branch: str,
    windows: Sequence[str],
    selection: Selection,
    options: Mapping[str, Any] | None = None,
) -> Trained:
    """Runs the job in this process.

    Args:
        options: Training settings of this run, by name.

    Raises:
        RunFailedError: The run failed.
    """
    config = {
        "windows": list(windows),
        "branch": branch,
        "min_agents": selection.min_agents,
        "min_actions": selection.min_actions,
        "max_dropout": selection.max_dropout,
    }
    if selection.target is not None:
        config["target_trajectories"] = selection.target
    run_config = {
        "ops": {train_chosen_windows.name: {"config": config}},
        **art_options(options or {}),
    }
    run = run_in_process(instance, JOB, None, run_config=run_config)
    metadata = _reported(instance, run.run_id)
    return Trained(
        run,
        status=str(metadata["status"]),
        version=str(metadata["checkpoint"]),
        reason=str(metadata["reason"]),
        step=metadata.get("step"),
        checkpoint=str(metadata["checkpoint/uri"]),
    )


def art_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the part of a run's config that gives a training settings of its own."""
    return {"resources": {"art": {"config": {"options": dict(options)}}}} if options else {}


def _metadata(training: BranchTraining) -> dict[str, Any]:
    losses = training.metrics.get("losses") or [None]
    batch = training.batch
    return {
        "status": training.status,
        "reason": training.reason,
        "branch": training.branch,
        "windows": ", ".join(training.windows),
        "checkpoint": training.model.version,
        "checkpoint/uri": training.model.storage_path or "",
        "parent": training.parent.model.version if training.parent else "",
        "step": training.model.manifest.get("step") or 0,
        "backend": f"{training.choice.name}: {training.choice.reason}" if training.choice else "",
        "episodes/count": batch.episodes if batch else 0,
        "loss/last": losses[-1] if losses[-1] is not None else 0.0,
        **shown({key: value for key, value in training.metrics.items() if isinstance(value, int | float)}),
    }


def _reported(instance: dg.DagsterInstance, run_id: str) -> dict[str, Any]:
    records = instance.get_records_for_run(run_id, of_type=dg.DagsterEventType.STEP_OUTPUT).records
    [event] = [record.event_log_entry.dagster_event for record in records]
    assert event is not None
    return {name: value.value for name, value in event.step_output_data.metadata.items()}
