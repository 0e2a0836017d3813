"""The seeds' JSON, with live values."""

import asyncio
import re
from typing import Any

from babylon_rl.database.connection import connect
from babylon_rl.settings import Settings
from babylon_rl_tests.api.conftest import Admin, admin_settings
from babylon_rl_tests.api.recorded_day import record_day

ISO = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")


def execute(dsn: str, *statements: str) -> None:
    async def work() -> None:
        connection = await connect(dsn)
        for statement in statements:
            await connection.execute(statement)
        await connection.close()

    asyncio.run(work())


def shape(value: Any) -> Any:
    return {key: shape(part) for key, part in value.items()} if isinstance(value, dict) else None


SEED_000 = {
    "status": "healthy",
    "automation": {
        "dataCollection": {"last24h": 150, "ratePerHour": 6.25},
        "training": {"currentJob": None, "lastCompleted": "2025-11-13T10:30:00Z"},
        "models": {"latest": "v1.2.3", "deployed": 5},
    },
    "readiness": {
        "ready": True,
        "reason": "Ready to train!",
        "stats": {"totalTrajectories": 250, "scenarioGroups": 15},
    },
}


def contains(found: Any, wanted: Any) -> bool:
    if not isinstance(wanted, dict):
        return True
    return isinstance(found, dict) and all(
        key in found and contains(found[key], wanted[key]) for key in wanted
    )


def test_the_status_has_the_keys_of_seed_000(admin: Admin) -> None:
    body = admin.get("/api/admin/training/status").json()
    assert contains(body, SEED_000)
    assert {"recentJobs", "models", "trajectoryStats", "timestamp"} <= set(body)
    assert ISO.fullmatch(body["timestamp"]) and ISO.fullmatch(body["automation"]["training"]["nextScheduled"])


def test_nothing_is_ready_where_nothing_is_recorded(admin: Admin) -> None:
    ready = admin.get("/api/admin/training/trigger").json()
    assert ready["ready"] is False and ready["reason"] == "Need 100 more trajectories"
    assert "Need more scenario groups (0/10 minimum)" in ready["reasons"]
    data = admin.get("/api/admin/training-data").json()["data"]
    assert data["summary"]["minAgentsRequired"] == 3 and data["windows"] == []
    assert data["qualityMetrics"]["trainingDataQuality"] == "low"


def test_a_recorded_day_is_live_everywhere(settings: Settings, dsn: str) -> None:
    record_day(dsn, windows=24)
    with Admin(admin_settings(settings, training_min_trajectories=90)) as admin:
        body = admin.get("/api/admin/training/status").json()
        assert body["readiness"]["ready"] is True and body["readiness"]["reason"] == "Ready to train!"
        assert body["readiness"]["stats"]["totalTrajectories"] == 96
        assert body["readiness"]["stats"]["scenarioGroups"] == 24
        assert body["readiness"]["day"] == "2026-10-02"
        assert body["trajectoryStats"]["_count"] == 96
        data = admin.get("/api/admin/training-data").json()["data"]
        assert data["summary"] | {"minAgentsRequired": 0} == {
            "totalTrajectories": 96,
            "totalWindows": 24,
            "readyWindows": 24,
            "minAgentsRequired": 0,
        }
        assert data["windows"][0] == {
            "windowId": "2026-10-02T23:00",
            "trajectoryCount": 4,
            "agentCount": 4,
            "avgSteps": 2.0,
            "avgPnl": 0.0,
        }
        assert len(data["recentTrajectories"]) == 10 and len(data["readyWindows"]) == 24


def test_windows_count_by_agents_and_not_by_trajectories(settings: Settings, dsn: str) -> None:
    record_day(dsn, windows=1)
    with Admin(admin_settings(settings, min_agents_per_window=5)) as admin:
        data = admin.get("/api/admin/training-data").json()["data"]
        assert data["windows"][0]["trajectoryCount"] == 4 and data["readyWindows"] == []


def test_readiness_names_every_reason(settings: Settings, dsn: str) -> None:
    record_day(dsn, windows=4)
    execute(
        dsn, "UPDATE rl.recorded_windows SET good_rows = 3", "DELETE FROM rl.window_state WHERE episodes = 0"
    )
    with Admin(admin_settings(settings)) as admin:
        assert admin.get("/api/admin/training/trigger").json()["reasons"] == [
            "Need 84 more trajectories",
            "Need more scenario groups (4/10 minimum)",
            "Data quality too low (75.0% < 95.0%)",
            "2026-10-02 waits: 4 of 24 windows are resolved",
        ]


def test_a_value_that_is_no_number_does_not_poison_averages(settings: Settings, dsn: str) -> None:
    record_day(dsn, windows=1)
    execute(
        dsn,
        """UPDATE "trajectories" SET "totalReward" = 'NaN', "finalPnL" = 'NaN'
                     WHERE "agentId" = 'agent-a'""",
    )
    with Admin(admin_settings(settings)) as admin:
        stats = admin.get("/api/admin/training/status").json()["trajectoryStats"]
        assert stats["_avg"]["totalReward"] == 0.0
        assert admin.get("/api/admin/training-data").json()["data"]["windows"][0]["avgPnl"] == 0.0


def test_the_models_of_the_agents_are_a_setting_that_is_not_lost(admin: Admin) -> None:
    put = {"wandbModel": "entity/project/model", "wandbEnabled": True}
    assert admin.ask("PUT", "/api/admin/ai-models", json=put).status_code == 200
    data = admin.ask("PUT", "/api/admin/ai-models", json={"wandbEnabled": False}).json()["data"]
    assert data["currentSettings"] == {"wandbModel": "entity/project/model", "wandbEnabled": False}
    assert data["activeProvider"] == "gateway" and "entity/project/model" in data["wandbModels"]
    data = admin.ask("PUT", "/api/admin/ai-models", json={"wandbModel": None}).json()["data"]
    assert data["currentSettings"]["wandbModel"] is None
    assert admin.ask("PUT", "/api/admin/ai-models", json={"wandbmodel": "x"}).status_code == 400


def test_the_cron_check_and_the_old_workers_health(admin: Admin) -> None:
    body = admin.get("/api/cron/training-check", token="cron-secret-0123456789").json()
    assert body["success"] is True and re.fullmatch(r"\d+ms", body["duration"])
    assert set(body["scoring"]) == {"windowsScored", "trajectoriesScored"}
    health = admin.get("/health", token=None)
    assert health.status_code == 200
    assert set(health.json()) == {"status", "database", "wandb", "timestamp"}


def test_a_database_that_is_away_is_a_503(settings: Settings) -> None:
    from pydantic import SecretStr

    away = SecretStr("postgresql://nobody:hunter2@127.0.0.1:1/nowhere")
    with Admin(admin_settings(settings, database_url=away)) as admin:
        answer = admin.get("/api/admin/training/status")
        assert answer.status_code == 503 and "hunter2" not in answer.text
        assert admin.get("/health", token=None).status_code == 503


def test_alerts_are_what_went_wrong_lately(settings: Settings, dsn: str) -> None:
    record_day(dsn, windows=1)
    execute(
        dsn,
        """INSERT INTO rl.alerts (kind, key, reason, count)
           VALUES ('failed_run', 'daily', 'the run fell over', 3),
                  ('failed_gate', 'v0.0.4', 'v0.0.4 was rejected', 1)""",
        """INSERT INTO rl.training_units (unit_key, batch_sha256, day, backend, status, error, completed_at)
           VALUES ('u', 'b', '2026-10-02', 'embedded', 'failed', 'out of memory', now()),
                  ('w', 'b', '2026-10-01', 'embedded', 'failed', 'long ago', now() - interval '9 days')""",
        "INSERT INTO rl.canaries (version, passed, reason) VALUES ('v0.0.3', false, 'same as the base')",
        """INSERT INTO rl.quarantine (trajectory_id, window_id, reason, detail, first_seen)
           VALUES ('t', '2026-10-02T00:00', 'malformed_step', 'x', now())""",
        "UPDATE rl.recorded_windows SET fingerprint = 'changed'",
    )
    with Admin(admin_settings(settings)) as admin:
        body = admin.get("/api/admin/training/dashboard").json()
    told = {alert["topic"]: alert for alert in body["alerts"]}
    assert told["failed_run"]["text"] == "the run fell over (3 times)"
    assert told["training"]["text"] == "Training of 2026-10-02 failed: out of memory"
    assert "same as the base" in told["canary"]["text"] and told["failed_gate"]["level"] == "warning"
    assert "malformed_step" in told["quarantine"]["text"] and "1 window changed" in told["stale"]["text"]
    assert body["status"] == "degraded" and len(body["staleWindows"]) == 1
    assert body["staleWindows"][0]["reason"] == "rows arrived after it was scored"
    assert body["changedDays"] == []
    assert body["windows"][0]["stale"] is True
