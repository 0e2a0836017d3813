"""Alerts: found in a real database, posted to a real receiver, once; and never an error of their own."""

import logging
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import asyncpg
import dagster as dg
import pytest

from babylon_rl.database.connection import connect
from babylon_rl.orchestration.alert_sensors import alerts, run_failures, stuck_runs
from babylon_rl.orchestration.alerts import Alert, find_alerts, notify
from babylon_rl.orchestration.resources import PostgresResource
from babylon_rl.orchestration.webhook import DISCORD_LONGEST, discord, slack
from babylon_rl.settings import Settings, get_settings
from babylon_rl_tests.orchestration.webhook_receiver import Receiver, receiver

NOW = datetime.now(UTC)


@pytest.fixture
def hook(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    with receiver() as kept:
        monkeypatch.setenv("ALERT_WEBHOOK_URL", kept.url)
        get_settings.cache_clear()
        yield kept


@pytest.mark.anyio
async def test_the_same_thing_is_posted_once_and_counted(hook: Receiver, connection: asyncpg.Connection):
    alert = Alert("no_data", "since noon", "No row <!channel> & nothing", "/runs/7")
    assert [await notify(get_settings(), [alert]) for _ in range(3)] == [1, 0, 0]
    [body] = hook.bodies
    assert body["text"].endswith("|Dagster>") and "&lt;!channel&gt; &amp; nothing" in body["text"]
    row = await connection.fetchrow("SELECT * FROM rl.alerts")
    assert row is not None and row["count"] == 3 and row["delivered_at"] is not None
    assert row["link"] == "http://127.0.0.1:3000/runs/7"
    await connection.execute("UPDATE rl.alerts SET delivered_at = now() - interval '25 hours'")
    assert await notify(get_settings(), [alert]) == 1
    assert "seen 4 times" in hook.bodies[1]["text"]


@pytest.mark.anyio
@pytest.mark.parametrize("status", [500, 404, 302])
async def test_what_the_webhook_refuses_is_kept_and_tried_again_without_showing_the_address(
    hook: Receiver, connection: asyncpg.Connection, caplog: pytest.LogCaptureFixture, status: int
):
    hook.status = status
    with caplog.at_level(logging.DEBUG):
        assert await notify(get_settings(), [Alert("budget", "today", "spent")]) == 0
    assert f"status {status}" in caplog.text and "very-secret-token" not in caplog.text
    hook.status = 204
    assert await notify(get_settings(), []) == 1
    assert len(hook.bodies) == 1


@pytest.mark.anyio
async def test_an_unreachable_webhook_or_database_raises_nothing(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setenv("ALERT_WEBHOOK_URL", "http://127.0.0.1:1/very-secret-token")
    get_settings.cache_clear()
    assert await notify(get_settings(), [Alert("budget", "today", "spent")]) == 0
    monkeypatch.setenv("DATABASE_URL", "postgresql://u:hidden-word@127.0.0.1:1/nowhere")
    get_settings.cache_clear()
    assert await notify(get_settings(), [Alert("budget", "today", "spent")]) == 0
    assert "ConnectionRefusedError" in caplog.text and "UnreachableDatabaseError" in caplog.text
    assert "very-secret-token" not in caplog.text and "hidden-word" not in caplog.text


@pytest.mark.anyio
async def test_the_seeds_variable_posts_in_discords_form_and_without_one_only_the_row_is_kept(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, connection: asyncpg.Connection
):
    assert await notify(settings, [Alert("budget", "today", "spent")]) == 0
    assert await connection.fetchval("SELECT delivered_at IS NULL FROM rl.alerts")
    with receiver() as kept:
        monkeypatch.setenv("DISCORD_WEBHOOK_URL", kept.url)
        get_settings.cache_clear()
        assert await notify(get_settings(), []) == 1
    assert kept.bodies[0]["allowed_mentions"] == {"parse": []}
    assert kept.bodies[0]["content"].startswith("**babylon_rl: budget**\nspent")


@pytest.mark.anyio
async def test_secrets_of_the_settings_never_leave(
    hook: Receiver, monkeypatch: pytest.MonkeyPatch, connection: asyncpg.Connection
):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-0123456789")
    get_settings.cache_clear()
    reason = f"key sk-0123456789 at postgresql://someone:pass@host/db and {hook.url}"
    await notify(get_settings(), [Alert("failed_run", "x", reason)])
    [body] = hook.bodies
    for hidden in ("sk-0123456789", "someone:pass", "very-secret-token"):
        assert hidden not in str(body)
        assert hidden not in str(await connection.fetchval("SELECT reason FROM rl.alerts"))


@pytest.mark.anyio
async def test_what_is_wrong_is_found_in_rl(settings: Settings, connection: asyncpg.Connection):
    assert await find_alerts(connection, settings, NOW) == []
    await connection.execute(
        "INSERT INTO rl.training_units (unit_key, batch_sha256, day, config, backend, status, started_at)"
        " VALUES ('unit', 'b', '2026-10-01', '{}', 'embedded', 'running', now() - interval '5 hours')"
    )
    await connection.execute(
        "INSERT INTO rl.judge_calls (window_id, judge_model, purpose, cache_key, attempt, cost_usd)"
        " VALUES ('2026-10-01T00:00', 'm', 'scores', 'k', 1, $1)",
        settings.judge_daily_budget_usd,
    )
    await connection.execute(
        "INSERT INTO rl.recorded_windows (window_id, rows, agents, unreadable, fingerprint)"
        " VALUES ($1, 90, 3, 10, 'f')",
        f"{NOW - timedelta(hours=2):%FT%H:00}",
    )
    await connection.execute(
        "INSERT INTO rl.window_rows (trajectory_id, agent_id, window_id, start_time, created_at, fingerprint)"
        " VALUES ('t', 'a', '2026-10-01T00:00', $1, $1, 'f'), ('u', 'a', '2026-10-01T00:00', $2, $2, 'f')",
        NOW - timedelta(hours=7),
        NOW + timedelta(days=3),  # a clock that is wrong does not hide the silence
    )
    await connection.execute(
        "INSERT INTO rl.models (version, model_id, base_model, status) VALUES ('v0.0.1', 'm', 'b', 'ready')"
    )
    await connection.execute(
        "INSERT INTO rl.benchmarks (version, incumbent, purpose, seed_key, verdict, reason, windows, metrics)"
        " VALUES ('v0.0.1', 'v0.0.0', 'gate', 's', 'rejected', 'worse', 64, '{}')"
    )
    found = {alert.kind: alert.reason for alert in await find_alerts(connection, settings, NOW)}
    assert set(found) == {"stuck_training", "budget", "quarantine", "no_data", "failed_gate"}
    assert "10 of the last day's 100 rows (10%)" in found["quarantine"]
    assert "No row was recorded for 7 hours" in found["no_data"]
    assert "v0.0.1 was rejected against v0.0.0: worse" in found["failed_gate"]


def test_the_sensors_post_failed_runs_and_silence(hook: Receiver, dsn: str):
    @dg.op
    def breaks() -> None:
        raise ValueError("the reason in one line\nand more")

    @dg.job
    def broken_job() -> None:
        breaks()

    with dg.instance_for_test() as instance:
        result = broken_job.execute_in_process(
            instance=instance, raise_on_error=False, tags={"dagster/partition": "2026-10-01"}
        )
        context = dg.build_run_status_sensor_context(
            sensor_name="run_failures",
            dagster_event=result.get_run_failure_event(),
            dagster_instance=instance,
            dagster_run=result.dagster_run,
            resources={"postgres": PostgresResource()},
        ).for_run_failure()
        run_failures(context)
        [body] = hook.bodies
        assert "broken_job 2026-10-01 failed: breaks: ValueError: the reason in one line\n" in body["text"]
        assert f"/runs/{result.run_id}" in body["text"]

        run = instance.create_run_for_job(
            broken_job, status=dg.DagsterRunStatus.NOT_STARTED, tags={"babylon/kind": "training"}
        )
        instance.report_engine_event("starts", run)
        instance.handle_new_event(_start_event(run))
        [stuck] = stuck_runs(instance, NOW + timedelta(hours=5), timedelta(hours=4))
        assert stuck.key == run.run_id and not stuck_runs(instance, NOW, timedelta(hours=4))

        with dg.build_sensor_context(instance=instance, resources={"postgres": PostgresResource()}) as tick:
            skipped = alerts(tick)
        assert isinstance(skipped, dg.SkipReason) and "nothing is wrong" in str(skipped.skip_message)


def _start_event(run: dg.DagsterRun):
    from dagster._core.events import DagsterEvent

    event = DagsterEvent(event_type_value=dg.DagsterEventType.RUN_START.value, job_name=run.job_name)
    return dg.EventLogEntry(
        user_message="",
        level="debug",
        run_id=run.run_id,
        timestamp=datetime.now(UTC).timestamp(),
        error_info=None,
        dagster_event=event,
        job_name=run.job_name,
    )


def test_bodies_fit_their_hosts():
    assert len(discord("budget", "x" * 5000, "http://h/1")["content"]) == DISCORD_LONGEST
    assert slack("no_data", "a", "http://h/1")["text"] == "*babylon_rl: no data*\na\n<http://h/1|Dagster>"


@pytest.mark.anyio
async def test_the_migration_can_be_repeated(dsn: str):
    from babylon_rl.orchestration.instance import REPOSITORY

    connection = await connect(dsn)
    await connection.execute((REPOSITORY / "migrations" / "017_add_alerts.sql").read_text())
    await connection.close()
