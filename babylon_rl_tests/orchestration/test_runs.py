"""Runs started from Python: recorded as the UI's own, repeatable there, with errors that name the step."""

import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import httpx
import pytest

from babylon_rl.orchestration.instance import workspace_file
from babylon_rl.orchestration.runs import (
    DAILY_JOB,
    HOURLY_JOB,
    RunFailedError,
    UnknownPartitionError,
    launch_through_workspace,
    run_day,
    run_in_process,
)
from babylon_rl.settings import get_settings

DAY = "2026-10-02"
WINDOW = f"{DAY}T03:00"
AGENTS = ["agent-a", "agent-b", "agent-c"]
LOCATION = "babylon_rl"


def test_a_run_in_this_process_belongs_to_the_workspace(
    pg_instance: dg.DagsterInstance, record: Callable[..., None]
):
    record(AGENTS, WINDOW)
    finished = run_in_process(pg_instance, HOURLY_JOB, WINDOW)
    run = pg_instance.get_run_by_id(finished.run_id)
    assert run and run.is_success and run.job_name == HOURLY_JOB
    assert run.remote_job_origin and run.remote_job_origin.location_name == LOCATION
    for asset in ("trajectories", "market_outcomes", "scored_groups"):
        assert pg_instance.get_materialized_partitions(dg.AssetKey(asset)) == {WINDOW}


def test_the_checks_of_a_run_are_recorded_with_it(
    pg_instance: dg.DagsterInstance, record: Callable[..., None]
):
    record(AGENTS, WINDOW)
    finished = run_in_process(pg_instance, HOURLY_JOB, WINDOW)
    records = pg_instance.get_records_for_run(
        finished.run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION
    ).records
    events = [record.event_log_entry.dagster_event for record in records]
    evaluations = [event.event_specific_data for event in events if event]
    found = {e.check_name: e for e in evaluations if isinstance(e, dg.AssetCheckEvaluation)}
    judges = {"judge_failures", "judge_agrees_with_money", "judge_canary", "judge_budget"}
    assert set(found) == {
        "quarantine_rate",
        "data_quality",
        "outcomes_settled",
        "reward_spread",
        "pnl_share_of_reward",
        *judges,
    }
    assert all(evaluation.passed for evaluation in found.values())
    share = found["pnl_share_of_reward"].metadata["reward/pnl_variance_share"].value
    assert isinstance(share, float) and share > 0.5


@pytest.mark.parametrize("key", ["2020-01-01T00:00", "2999-01-01T00:00", "2026-10-02T03:30"])
def test_a_window_that_is_no_partition_is_refused(pg_instance: dg.DagsterInstance, key: str):
    with pytest.raises(UnknownPartitionError, match="is no partition of hourly_job"):
        run_in_process(pg_instance, HOURLY_JOB, key)
    assert pg_instance.get_runs_count() == 0


def test_a_failed_run_names_its_step_and_cause(
    pg_instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("TRAIN_RL_LOCAL", "false")
    get_settings.cache_clear()
    with pytest.raises(RunFailedError, match="trained_checkpoint: .*TRAIN_RL_LOCAL=false forbids"):
        run_day(pg_instance, DAY)


@pytest.mark.long
def test_a_run_through_the_workspace_and_one_repeated_in_the_ui(
    pg_instance: dg.DagsterInstance, record: Callable[..., None], tmp_path: Path
):
    record(AGENTS, WINDOW)
    launched = launch_through_workspace(pg_instance, HOURLY_JOB, WINDOW)
    run = pg_instance.get_run_by_id(launched.run_id)
    assert run and run.is_success
    in_process = run_in_process(pg_instance, HOURLY_JOB, WINDOW)

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "dagster_webserver", "-w", str(workspace_file()), "-p", str(port)]
    with (tmp_path / "webserver.log").open("wb") as log:
        server = subprocess.Popen([*command, "-h", "127.0.0.1"], stdout=log, stderr=log)
    try:
        for run_id in (launched.run_id, in_process.run_id):
            answer = _reexecute(f"http://127.0.0.1:{port}", run_id)
            assert answer["launchRunReexecution"]["__typename"] == "LaunchRunSuccess", json.dumps(answer)
    finally:
        server.terminate()
        server.wait(timeout=60)


def _reexecute(url: str, run_id: str) -> dict:
    deadline = time.monotonic() + 90
    while True:
        try:
            httpx.get(f"{url}/server_info", timeout=2)
            break
        except httpx.HTTPError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)
    mutation = (
        'mutation { launchRunReexecution(reexecutionParams: {parentRunId: "%s", strategy: ALL_STEPS})'
        " { __typename ... on PythonError { message } } }"
    )
    answer = httpx.post(f"{url}/graphql", json={"query": mutation % run_id}, timeout=60).json()
    return answer["data"]


def test_jobs_are_what_runs_and_definitions_call_them():
    from babylon_rl.definitions import defs

    names = {job.name for job in defs.resolve_all_job_defs()}
    assert {HOURLY_JOB, DAILY_JOB, "deploy_job"} <= names
