"""Starting runs from outside the UI: in this process, or by a process of their own through the workspace.

A run executed in this process still carries the origin that `workspace.yaml` gives it, so the UI shows it
under its job and can re-execute it; a plain `execute_in_process` run has none and cannot be repeated there.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import dagster as dg

from babylon_rl.errors import BabylonError
from babylon_rl.orchestration.instance import workspace_file
from babylon_rl.orchestration.readiness import partitions_of_day
from babylon_rl.settings import get_settings
from babylon_rl.windows import windows_of_day

if TYPE_CHECKING:
    from dagster._core.remote_origin import RemoteJobOrigin
    from dagster._core.workspace.context import WorkspaceRequestContext

HOURLY_JOB = "hourly_job"
DAILY_JOB = "daily_job"
DEPLOY_JOB = "deploy_job"

_QUIET: dict[str, Any] = {"loggers": {"console": {"config": {"log_level": "WARNING"}}}}


class UnknownPartitionError(BabylonError):
    """A partition that does not exist (yet)."""


class RunFailedError(BabylonError):
    """A Dagster run ended without success."""


class RunCanceledError(RunFailedError):
    """A Dagster run was interrupted: by a signal to this process, or from the UI."""


@dataclass(frozen=True)
class FinishedRun:
    """A run that succeeded.

    Attributes:
        run_id: Id under which the UI shows the run.
        seconds: Wall time of the run.
    """

    run_id: str
    seconds: float


def run_hours(
    instance: dg.DagsterInstance, day: str, *, run_config: Mapping[str, Any] | None = None
) -> FinishedRun:
    """Materializes the hourly assets of a day's windows in one run, in this process."""
    windows = partitions_of_day(day, get_settings()) or windows_of_day(day)
    return run_in_process(instance, HOURLY_JOB, windows[0], windows[-1], run_config=run_config)


def run_day(
    instance: dg.DagsterInstance, day: str, *, run_config: Mapping[str, Any] | None = None
) -> FinishedRun:
    """Materializes the daily assets of one day and offers its model for deployment, in this process."""
    return run_in_process(instance, DAILY_JOB, day, run_config=run_config)


def run_in_process(
    instance: dg.DagsterInstance,
    job_name: str,
    first: str | None,
    last: str | None = None,
    *,
    run_config: Mapping[str, Any] | None = None,
) -> FinishedRun:
    """Runs a job for one partition (or the range `first` to `last`, or without partitions) in this process.

    Raises:
        UnknownPartitionError: A key is no partition of the job, or its time is not over.
        RunFailedError: The run failed; it names the step and where to read on.
    """
    return execute_here(instance, create_run(instance, job_name, first, last, run_config=run_config))


def create_run(
    instance: dg.DagsterInstance,
    job_name: str,
    first: str | None,
    last: str | None = None,
    *,
    run_config: Mapping[str, Any] | None = None,
    tags: Mapping[str, str] | None = None,
) -> dg.DagsterRun:
    """Creates a run that is yet to be executed; from now on it claims its partitions.

    Raises:
        UnknownPartitionError: A key is no partition of the job, or its time is not over.
    """
    from babylon_rl.definitions import defs

    job = defs.resolve_job_def(job_name)
    _require_partitions(job, first, last)
    return instance.create_run_for_job(
        job,
        tags={**(tags or {}), **partition_tags(first, last)},
        run_config={**_QUIET, **(run_config or {})},
        remote_job_origin=_workspace_origin(job_name),
    )


def execute_here(instance: dg.DagsterInstance, run: dg.DagsterRun) -> FinishedRun:
    """Executes a created run in this process.

    Raises:
        RunFailedError: The run failed; it names the step and where to read on.
    """
    from dagster._core.definitions.job_base import InMemoryJob
    from dagster._core.execution.api import execute_run

    from babylon_rl.definitions import defs

    started = time.monotonic()
    execute_run(InMemoryJob(defs.resolve_job_def(run.job_name)), run, instance)
    return _finished(instance, run.run_id, time.monotonic() - started)


def launch_through_workspace(
    instance: dg.DagsterInstance,
    job_name: str,
    first: str | None,
    last: str | None = None,
    *,
    timeout: float = 1800.0,
) -> FinishedRun:
    """Launches a run as the UI does, in a process of its own, and waits until it has ended.

    The code location's server lives as long as the call (about 3 CPU seconds), the run's process costs about
    3 more before the first asset starts. Nothing else is needed: no daemon, no webserver.

    Args:
        instance: Instance whose DAGSTER_HOME the run's process opens too.
        job_name: Job of the workspace's code location.
        first: Partition key, or None for a job without partitions.
        last: Last key of a range; None for the one partition `first`.
        timeout: Seconds after which the run is terminated.

    Raises:
        RunFailedError: The code location does not load, or the run failed or took longer than `timeout`.
    """
    with _workspace(instance) as workspace:
        run_id = _create_remote_run(instance, workspace, job_name, partition_tags(first, last))
        started = time.monotonic()
        instance.launch_run(run_id, workspace)
        while not _run(instance, run_id).is_finished:
            if time.monotonic() - started > timeout:
                instance.run_launcher.terminate(run_id)
                raise RunFailedError(
                    f"run {run_id} of {job_name} was still running after {timeout:.0f} s and was terminated",
                    "Read its events in the Dagster UI (`make dev`, page /runs).",
                )
            time.sleep(0.5)
        return _finished(instance, run_id, time.monotonic() - started)


def partition_tags(first: str | None, last: str | None = None) -> dict[str, str]:
    """Returns the run tags that select a partition, a contiguous range, or (`first` None) no partition."""
    if first is None:
        return {}
    if last is None or last == first:
        return {"dagster/partition": first}
    return {"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last}


def _require_partitions(job: dg.JobDefinition, *keys: str | None) -> None:
    partitions = job.partitions_def
    for key in keys:
        if key is not None and (partitions is None or not partitions.has_partition_key(key)):
            raise UnknownPartitionError(
                f"{key} is no partition of {job.name}",
                "It is not over yet, or lies before FIRST_PARTITION.",
            )


def _finished(instance: dg.DagsterInstance, run_id: str, seconds: float) -> FinishedRun:
    run = _run(instance, run_id)
    if run.is_success:
        return FinishedRun(run_id, seconds)
    canceled = run.status in (dg.DagsterRunStatus.CANCELED, dg.DagsterRunStatus.CANCELING)
    raise (RunCanceledError if canceled else RunFailedError)(
        f"run {run_id} of {run.job_name} ended as {run.status.value}: {_first_error(instance, run_id)}",
        f"Read its events in the Dagster UI (`make dev`, page /runs/{run_id}).",
    )


def _first_error(instance: dg.DagsterInstance, run_id: str) -> str:
    failures = instance.get_records_for_run(
        run_id, of_type={dg.DagsterEventType.STEP_FAILURE, dg.DagsterEventType.RUN_FAILURE}
    ).records
    for record in failures:
        event = record.event_log_entry.dagster_event
        if event is not None and event.is_step_failure:
            error = event.step_failure_data.error
            while error is not None and error.cause is not None:
                error = error.cause
            first_line = error.message.strip().splitlines()[0] if error else "no error recorded"
            return f"{event.step_key}: {first_line}"
    return "no step failed; the run itself could not start"


def _run(instance: dg.DagsterInstance, run_id: str) -> dg.DagsterRun:
    run = instance.get_run_by_id(run_id)
    if run is None:
        raise RunFailedError(
            f"run {run_id} is not in Dagster's storage", "Was the database replaced meanwhile?"
        )
    return run


@cache
def _workspace_origin(job_name: str) -> "RemoteJobOrigin":
    from dagster._core.remote_origin import RemoteJobOrigin, RemoteRepositoryOrigin
    from dagster._core.workspace.load import location_origins_from_yaml_paths

    from babylon_rl.definitions import defs

    [location] = location_origins_from_yaml_paths([str(workspace_file())])
    return RemoteJobOrigin(
        repository_origin=RemoteRepositoryOrigin(
            code_location_origin=location, repository_name=defs.get_repository_def().name
        ),
        job_name=job_name,
    )


@contextmanager
def _workspace(instance: dg.DagsterInstance) -> "Iterator[WorkspaceRequestContext]":
    from dagster._core.workspace.context import WorkspaceProcessContext
    from dagster._core.workspace.load_target import WorkspaceFileTarget

    target = WorkspaceFileTarget(paths=[str(workspace_file())])
    with WorkspaceProcessContext(instance, target, code_server_log_level="WARNING") as context:
        yield context.create_request_context()


def _create_remote_run(
    instance: dg.DagsterInstance, workspace: "WorkspaceRequestContext", job_name: str, tags: Mapping[str, str]
) -> str:
    """Creates the run as `dagster job launch` does; that command would leave it in the daemon's queue."""
    from dagster._core.definitions.selector import JobSubsetSelector

    [entry] = workspace.get_code_location_entries().values()
    if entry.code_location is None:
        reason = entry.load_error.message.strip().splitlines()[0] if entry.load_error else "unknown reason"
        raise RunFailedError(
            f"the code location {entry.origin.location_name} does not load: {reason}",
            "`dagster definitions validate -w workspace.yaml` shows the whole error.",
        )
    location = entry.code_location
    [repository] = location.get_repositories().values()
    job = location.get_job(
        JobSubsetSelector(
            location_name=location.name, repository_name=repository.name, job_name=job_name, op_selection=None
        )
    )
    plan = location.get_execution_plan(
        job, run_config=_QUIET, step_keys_to_execute=None, known_state=None, instance=instance
    ).execution_plan_snapshot
    run = instance.create_run(
        job_name=job_name,
        run_id=None,
        run_config=_QUIET,
        resolved_op_selection=job.resolved_op_selection,
        step_keys_to_execute=plan.step_keys_to_execute,
        op_selection=None,
        status=None,
        root_run_id=None,
        parent_run_id=None,
        tags=tags,
        job_snapshot=job.job_snapshot,
        execution_plan_snapshot=plan,
        parent_job_snapshot=job.parent_job_snapshot,
        remote_job_origin=job.get_remote_origin(),
        job_code_origin=job.get_python_origin(),
        asset_selection=None,
        asset_check_selection=None,
        asset_graph=repository.asset_graph,
    )
    return run.run_id
