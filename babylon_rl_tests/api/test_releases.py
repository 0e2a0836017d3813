"""Deploying and going back over HTTP: the game's answers, the right statuses, one winner of two at once."""

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from babylon_rl.database.connection import connect
from babylon_rl.deployment.registry import ensure_base, register
from babylon_rl.deployment.verdicts import record_benchmark
from babylon_rl.settings import Settings
from babylon_rl_tests.api.conftest import Admin, admin_settings

DEPLOY, ROLLBACK = "/api/admin/training/deploy", "/api/admin/training/rollback"
PROMOTE = "/api/admin/training/promote"


@pytest.fixture
def admin(settings: Settings, dsn: str) -> Iterator[Admin]:
    """v0.0.1 and v0.0.2 are promoted, v0.0.3 is not judged."""

    async def models() -> None:
        rl = await connect(dsn)
        await ensure_base(rl, base_model="tiny", storage_path="file:///models/base")
        for number in (1, 2, 3):
            model = await register(rl, parent_version="v0.0.0", storage_path="file:///models/x")
            if number < 3:
                await record_benchmark(
                    rl,
                    version=model.version,
                    incumbent="v0.0.0",
                    purpose="gate",
                    seed_key=f"seeds {number}",
                    windows=8,
                    metrics={},
                    verdict="promoted",
                )
        await rl.close()

    asyncio.run(models())
    with Admin(admin_settings(settings)) as started:
        yield started


def deploy(admin: Admin, version: str, **more: Any) -> Any:
    return admin.post(DEPLOY, {"modelVersion": version, "strategy": "immediate", **more})


def test_deploy_and_rollback_answer_as_the_game_expects(admin: Admin) -> None:
    first = deploy(admin, "v0.0.1")
    assert first.status_code == 200
    assert {"success", "agentsUpdated", "deploymentId"} <= set(first.json())
    assert deploy(admin, "babylon-agent-v0.0.2").json()["replaced"] == "v0.0.1"
    again = deploy(admin, "v0.0.2").json()
    assert again["changed"] is False and again["agentsUpdated"] == 0
    back = admin.post(ROLLBACK, {"targetVersion": "v0.0.1"}).json()
    assert back["success"] is True and back["modelVersion"] == "v0.0.1"
    rollout = admin.get("/api/admin/training/dashboard").json()["rollout"]
    assert rollout["active"]["version"] == "v0.0.1" and rollout["candidate"] is None


@pytest.mark.parametrize(
    ("body", "status", "told"),
    [
        ({}, 400, "modelVersion"),
        ({"modelVersion": "latest"}, 400, "latest"),
        ({"modelVersion": "v1"}, 400, "v1"),
        ({"modelVersion": "../../v0.0.1"}, 400, "not a version"),
        ({"modelVersion": "v9.9.9"}, 404, "v9.9.9"),
        ({"modelVersion": "v0.0.3", "strategy": "replace"}, 409, "not promoted"),
        ({"modelVersion": "v0.0.1", "strategy": "all"}, 400, "strategy"),
        ({"modelVersion": "v0.0.1", "rolloutPercentage": 101}, 400, "rolloutPercentage"),
        ({"modelVersion": "v0.0.1", "rolloutPercentage": -1}, 400, "rolloutPercentage"),
        ({"modelVersion": "v0.0.1", "rolloutPercentage": "10"}, 400, "rolloutPercentage"),
        ({"modelVersion": "v0.0.1", "strategy": "test"}, 400, "testAgentIds"),
        ({"modelVersion": "v0.0.1", "strategy": "test", "testAgentIds": ["a\nb"]}, 400, "no agent id"),
        ({"modelVersion": "v0.0.1", "schedule": "50:1,10"}, 400, "does not rise"),
        ({"modelVersion": "v0.0.1", "schedule": "much"}, 400, "no step"),
        ({"modelVersion": "v0.0.1", "testAgentIds": ["agent-1"]}, 400, "testAgentIds"),
        ({"modelVersion": "v0.0.1", "strategy": "canary", "testAgentIds": ["agent-1"]}, 400, "canary"),
        ({"modelVersion": "v0.0.1", "strategy": "immediate", "schedule": "10:24,50"}, 400, "schedule"),
        ({"modelVersion": "v0.0.3"}, 409, "not promoted"),
    ],
)
def test_what_is_refused(admin: Admin, body: dict[str, Any], status: int, told: str) -> None:
    answer = admin.post(DEPLOY, body)
    assert answer.status_code == status and told in answer.json()["error"], answer.text
    assert admin.get("/api/admin/training/dashboard").json()["rollout"]["active"] is None


def test_the_gate_can_be_overruled_by_name(admin: Admin) -> None:
    assert deploy(admin, "v0.0.3", force=True, reason="an emergency").status_code == 200
    history = admin.get("/api/admin/training/dashboard").json()["deployments"]
    assert history[0]["reason"] == "an emergency"


def test_rollbacks_that_lead_nowhere(admin: Admin) -> None:
    assert admin.post(ROLLBACK).status_code == 400
    deploy(admin, "v0.0.1")
    assert "first model" in admin.post(ROLLBACK).json()["error"]
    assert admin.post(ROLLBACK, {"targetVersion": "v0.0.2"}).status_code == 400, "it never served"
    assert admin.post(ROLLBACK, {"targetVersion": "v7.0.0"}).status_code == 404


def test_two_promotions_at_once_leave_one_active(admin: Admin, dsn: str) -> None:
    versions = ["v0.0.1", "v0.0.2"] * 3
    threads = [threading.Thread(target=deploy, args=(admin, version)) for version in versions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    async def count() -> Any:
        connection = await connect(dsn)
        try:
            return await connection.fetchval("SELECT count(*) FROM rl.deployments WHERE ended_at IS NULL")
        finally:
            await connection.close()

    assert asyncio.run(count()) == 1


def rollout_of(admin: Admin) -> Any:
    return admin.get("/api/admin/training/dashboard").json()["rollout"]


def test_a_gradual_release_is_shown_moved_on_and_promoted(admin: Admin) -> None:
    deploy(admin, "v0.0.1")
    begun = admin.post(DEPLOY, {"modelVersion": "v0.0.2"}).json()  # gradual, 10 %: the seeds' defaults
    assert begun["modelVersion"] == "v0.0.2" and begun["strategy"] == "gradual" and begun["changed"] is True
    shown = rollout_of(admin)
    assert shown["active"]["version"] == "v0.0.1" and shown["candidate"]["version"] == "v0.0.2"
    assert shown["candidate"]["strategy"] == "gradual" and shown["candidate"]["measuredFrom"]
    assert shown["candidate"]["schedule"] == [{"percentage": 10.0, "windows": None}]
    assert shown["experiment"] is None and shown["strategies"] == ["immediate", "gradual", "test"]
    more = deploy(admin, "v0.0.2", strategy="canary", rolloutPercentage=50)
    assert more.status_code == 200 and rollout_of(admin)["candidate"]["schedule"][0]["percentage"] == 50
    other = deploy(admin, "v0.0.3", strategy="gradual", force=True)
    assert other.status_code == 409 and "rollout of v0.0.2 is running" in other.json()["error"]
    done = admin.post(PROMOTE, {"reason": "it trades well"}).json()
    assert done["modelVersion"] == "v0.0.2" and done["replaced"] == "v0.0.1"
    assert admin.post(PROMOTE).status_code == 409
    assert rollout_of(admin)["candidate"] is None


def test_a_candidate_is_taken_back_and_the_active_version_stays(admin: Admin) -> None:
    deploy(admin, "v0.0.1")
    named = deploy(admin, "v0.0.2", strategy="test", testAgentIds=["agent-1", "agent-2"]).json()
    assert named["agentsUpdated"] == 2
    assert rollout_of(admin)["candidate"]["agents"] == ["agent-1", "agent-2"]
    back = admin.post(ROLLBACK).json()
    assert back["modelVersion"] == "v0.0.1" and back["replaced"] == "v0.0.2"
    assert rollout_of(admin)["candidate"] is None


@pytest.mark.parametrize(("percentage", "candidate"), [(0, "v0.0.2"), (100, None)])
def test_the_ends_of_the_share(admin: Admin, percentage: int, candidate: str | None) -> None:
    deploy(admin, "v0.0.1")
    answer = deploy(admin, "v0.0.2", strategy="gradual", rolloutPercentage=percentage)
    assert answer.status_code == 200, answer.text
    shown = rollout_of(admin)
    assert (shown["candidate"] or {}).get("version") == candidate
    assert shown["active"]["version"] == ("v0.0.1" if candidate else "v0.0.2")
