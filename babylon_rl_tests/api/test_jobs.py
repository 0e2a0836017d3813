"""Trainings that are asked for: refused without data, one at a time, followed, cancelled, claimed once."""

import asyncio
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from babylon_rl.database.connection import connect
from babylon_rl.settings import Settings
from babylon_rl_tests.api.conftest import CRON, Admin, admin_settings
from babylon_rl_tests.api.dagster_double import DagsterDouble
from babylon_rl_tests.api.recorded_day import DAY, record_day

TRIGGER = "/api/admin/training/trigger"


@pytest.fixture
def dagster() -> Iterator[DagsterDouble]:
    with DagsterDouble() as double:
        yield double


@pytest.fixture
def ready(settings: Settings, dsn: str, dagster: DagsterDouble) -> Iterator[Admin]:
    """A day that can be trained, and a Dagster that takes runs."""
    record_day(dsn)
    changes: dict[str, Any] = {"training_min_trajectories": 90, "dagster_url": dagster.url}
    with Admin(admin_settings(settings, **changes)) as admin:
        yield admin


def query(dsn: str, statement: str, *values: Any) -> Any:
    async def work() -> Any:
        connection = await connect(dsn)
        try:
            return await connection.fetch(statement, *values)
        finally:
            await connection.close()

    return asyncio.run(work())


def wait_for(admin: Admin, job: str, status: str) -> dict[str, Any]:
    deadline = time.monotonic() + 30
    while True:
        body = admin.get(f"/api/admin/training/jobs/{job}").json()
        if body["status"] == status:
            return body
        assert time.monotonic() < deadline, body
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"{", "not JSON"),
        (b'{"force": NaN}', "not JSON"),
        (b"[]", "object"),
        (b'{"force": "yes"}', "force"),
        (b'{"batchSize": 0}', "batchSize"),
        (b'{"batchSize": 1.5}', "batchSize"),
        (b'{"day": "2026-13-40"}', "2026-13-40"),
        (b'{"day": "\\u0000"}', "NUL"),
        (b'{"day": "\\ud800"}', "JSON"),
        (b'{"batchsize": 4}', "batchsize"),
    ],
)
def test_a_body_that_does_not_fit_is_named(admin: Admin, body: bytes, told: str) -> None:
    answer = admin.ask("POST", TRIGGER, content=body)
    assert answer.status_code == 400 and told in answer.json()["error"]


def test_a_large_body_is_refused(admin: Admin) -> None:
    assert admin.ask("POST", TRIGGER, content=b" " * 70_000).status_code == 413


def test_force_does_not_train_without_data(admin: Admin, dsn: str) -> None:
    assert admin.post(TRIGGER, {"force": True}).status_code == 409
    record_day(dsn, windows=3, scored=False)
    answer = admin.post(TRIGGER, {"force": True})
    assert answer.status_code == 409 and "No data to train" in answer.json()["error"]
    assert query(dsn, "SELECT * FROM rl.training_jobs") == []


def test_not_ready_is_a_409_with_the_reasons(settings: Settings, dsn: str, dagster: DagsterDouble) -> None:
    record_day(dsn, windows=4)
    with Admin(admin_settings(settings, dagster_url=dagster.url)) as admin:
        answer = admin.post(TRIGGER, {"force": False})
        assert answer.status_code == 409 and "Need 84 more trajectories" in answer.json()["error"]
        assert not dagster.runs
        forced = admin.post(TRIGGER, {"force": True, "batchSize": 8})
        assert forced.status_code == 202 and forced.json()["success"] is True
        [run] = dagster.runs.values()
        config = run["config"]["ops"]["training_batch"]["config"]
        assert config == {"skip_readiness": True, "force": True, "batch_size": 8}
        assert run["tags"]["dagster/partition"] == DAY


def test_a_job_is_dagsters_run_and_there_is_one_at_a_time(ready: Admin, dagster: DagsterDouble) -> None:
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(Admin.post(ready, TRIGGER))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answer.status_code for answer in answers) == [202, 409, 409, 409]
    [run_id] = dagster.runs
    [won] = [answer.json() for answer in answers if answer.status_code == 202]
    assert won["jobId"] == run_id and won["day"] == DAY
    status = ready.get("/api/admin/training/status").json()
    assert status["automation"]["training"]["currentJob"] == run_id
    assert status["recentJobs"][0]["jobId"] == run_id


def test_a_job_is_followed_to_its_end(ready: Admin, dagster: DagsterDouble, dsn: str) -> None:
    job = ready.post(TRIGGER).json()["jobId"]
    run = dagster.runs[job]
    run |= {"status": "STARTED", "steps": {"training_batch": "SUCCESS", "trained_checkpoint": "IN_PROGRESS"}}
    body = wait_for(ready, job, "running")
    assert body["progress"] == 0.25 and body["stage"] == "trained_checkpoint"
    query(
        dsn, "INSERT INTO rl.trained_days (day, batch_sha256, version) VALUES ('2026-10-02', 'x', 'v0.0.1')"
    )
    run["status"] = "SUCCESS"
    body = wait_for(ready, job, "succeeded")
    assert body["progress"] == 1 and body["modelVersion"] == "v0.0.1" and body["completedAt"]


def test_a_failure_says_why(ready: Admin, dagster: DagsterDouble) -> None:
    job = ready.post(TRIGGER).json()["jobId"]
    dagster.runs[job]["status"] = "FAILURE"
    assert wait_for(ready, job, "failed")["error"] == "trained_checkpoint: the GPU is on fire"
    alerts = ready.get("/api/admin/training/dashboard").json()["alerts"]
    assert any("the GPU is on fire" in alert["text"] for alert in alerts)


def test_a_job_can_be_cancelled_once(ready: Admin, dagster: DagsterDouble) -> None:
    job = ready.post(TRIGGER).json()["jobId"]
    cancelled = ready.post(f"/api/admin/training/jobs/{job}/cancel")
    assert cancelled.status_code == 202 and cancelled.json()["status"] == "cancelled"
    assert dagster.stopped == [job]
    assert ready.post(f"/api/admin/training/jobs/{job}/cancel").status_code == 409
    assert ready.post("/api/admin/training/jobs/nothing/cancel").status_code == 404


def test_dagster_away_or_refusing_starts_nothing(
    settings: Settings, dsn: str, dagster: DagsterDouble
) -> None:
    record_day(dsn)
    with Admin(admin_settings(settings, training_min_trajectories=90)) as admin:
        answer = admin.post(TRIGGER)
        assert answer.status_code == 503 and "DAGSTER_URL" in answer.json()["error"]
    dagster.refuse = "the code location does not load"
    changes: dict[str, Any] = {"training_min_trajectories": 90, "dagster_url": dagster.url}
    with Admin(admin_settings(settings, **changes)) as admin:
        answer = admin.post(TRIGGER)
        assert answer.status_code == 502 and "does not load" in answer.json()["error"]
        dagster.refuse = None
        assert admin.post(TRIGGER).status_code == 202, "the failed one does not stand in the way"


def pending_batch(dsn: str, name: str, trajectories: str | None = None) -> None:
    ids = (
        trajectories
        or query(dsn, 'SELECT json_agg("trajectoryId")::text AS ids FROM "trajectories"')[0]["ids"]
    )
    query(
        dsn,
        """INSERT INTO training_batches
                  ("id", "batchId", "baseModel", "modelVersion", "trajectoryIds", "rewardsJson")
           VALUES ($1, $1, 'tiny', 'v0.0.0', $2, '[]')""",
        name,
        ids,
    )


def batch_of(dsn: str, name: str) -> Any:
    return query(dsn, 'SELECT * FROM training_batches WHERE "id" = $1', name)[0]


def test_a_batch_of_the_game_is_claimed_once_and_driven(
    ready: Admin, dagster: DagsterDouble, dsn: str
) -> None:
    pending_batch(dsn, "batch-1")
    answers = []
    threads = [
        threading.Thread(target=lambda: answers.append(ready.post("/train", {"batchId": "batch-1"})))
        for _ in range(3)
    ]
    threads.append(
        threading.Thread(target=lambda: answers.append(ready.get("/api/cron/training-check", token=CRON)))
    )
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(dagster.runs) == 1, [answer.text for answer in answers]
    [run_id] = dagster.runs
    assert batch_of(dsn, "batch-1")["status"] == "preparing"
    run = dagster.runs[run_id]
    run |= {"status": "STARTED", "steps": {"trained_checkpoint": "IN_PROGRESS"}}
    wait_for(ready, run_id, "running")
    query(
        dsn, "INSERT INTO rl.trained_days (day, batch_sha256, version) VALUES ('2026-10-02', 'x', 'v0.0.1')"
    )
    run["status"] = "SUCCESS"
    wait_for(ready, run_id, "succeeded")
    time.sleep(0.3)
    row = batch_of(dsn, "batch-1")
    assert (row["status"], row["modelVersion"], row["error"]) == ("completed", "v0.0.1", None)
    assert row["completedAt"] is not None
    pending_batch(dsn, "batch-2")  # its day is trained by now
    assert ready.post("/train", {"batchId": "batch-2", "source": "webhook"}).json()["status"] == "done"
    assert batch_of(dsn, "batch-2")["status"] == "completed" and len(dagster.runs) == 1


def test_batches_that_cannot_be_trained(ready: Admin, dagster: DagsterDouble, dsn: str) -> None:
    assert ready.post("/train", {"batchId": "nobody's"}).status_code == 404
    assert ready.post("/train", {}).status_code == 400
    pending_batch(dsn, "strange", '["unknown"]')
    pending_batch(dsn, "broken", "{not json")
    ready.get("/api/cron/training-check", token=CRON)
    assert {batch_of(dsn, name)["status"] for name in ("strange", "broken")} == {"failed"}
    assert "recorded" in batch_of(dsn, "strange")["error"] and not dagster.runs
