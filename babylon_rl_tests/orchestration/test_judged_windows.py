"""`scored_groups` with a judge: repeated for nothing, visible where it fails, comparable."""

import asyncio
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import asyncpg
import dagster as dg
import pytest

from babylon_rl.database.connection import connect
from babylon_rl.orchestration import judge_checks
from babylon_rl.orchestration.assets.market_outcomes import market_outcomes
from babylon_rl.orchestration.assets.recorded_rows import recorded_rows
from babylon_rl.orchestration.assets.scored_groups import scored_groups
from babylon_rl.orchestration.assets.trajectories import trajectories
from babylon_rl.orchestration.check_queries import checks_of
from babylon_rl.orchestration.readiness import WindowFacts, judge_window, read_days
from babylon_rl.orchestration.resources import (
    ArtifactStoreResource,
    ArtResource,
    PostgresResource,
    WandbResource,
)
from babylon_rl.orchestration.runs import partition_tags
from babylon_rl.scoring.judge import client
from babylon_rl.settings import Settings, get_settings
from babylon_rl.windows import window_id_at, window_range, windows_of_day
from babylon_rl_tests.judge_server import KEY, JudgeServer, judge_server

DAY = "2026-10-02"
WINDOWS = windows_of_day(DAY)
JUDGED = WINDOWS[3:7]
JUDGE_CHECKS = checks_of("scored_groups", *judge_checks.ALL)
AGENTS = ["agent-a", "agent-b", "agent-c", "agent-d"]


@pytest.fixture
def judge() -> Iterator[JudgeServer]:
    with judge_server() as running:
        yield running


@pytest.fixture
def instance(
    monkeypatch: pytest.MonkeyPatch, settings: Settings, judge: JudgeServer, record: Callable[..., None]
) -> Iterator[dg.DagsterInstance]:
    """An instance whose scorer is a judge, and four recorded windows."""
    record(AGENTS, *JUDGED)
    for name, value in {
        "SCORER": "ruler_with_heuristic_check",
        "JUDGE_BASE_URL": judge.url,
        "JUDGE_MODEL": "openai/test-judge",
        "JUDGE_API_KEY": KEY,
        "JUDGE_ATTEMPTS": "2",
        "JUDGE_CANARY_RATE": "0",
        "JUDGE_INPUT_PRICE": "0.15",
        "JUDGE_OUTPUT_PRICE": "0.6",
    }.items():
        monkeypatch.setenv(name, value)
    get_settings.cache_clear()
    monkeypatch.setattr(client, "FIRST_WAIT", 0.01)
    # The package's attribute of this name is the asset, not its module.
    monkeypatch.setattr(
        sys.modules["babylon_rl.orchestration.assets.scored_groups"], "JUDGE_RETRY_SECONDS", 0
    )
    with dg.instance_for_test() as made:
        yield made


def materialize(
    instance: dg.DagsterInstance, first: str, last: str | None = None, *, art: ArtResource | None = None
) -> dg.ExecuteInProcessResult:
    return dg.materialize(
        [recorded_rows, trajectories, market_outcomes, scored_groups, JUDGE_CHECKS],
        instance=instance,
        resources={
            "postgres": PostgresResource(),
            "art": art or ArtResource(),
            "wandb": WandbResource(mode="none"),
            "store": ArtifactStoreResource(),
        },
        tags=partition_tags(first, last),
        partition_key=first if last is None else None,
        raise_on_error=False,
    )


def shown(instance: dg.DagsterInstance, window_id: str) -> dict[str, object]:
    records = instance.fetch_materializations(
        dg.AssetRecordsFilter(asset_key=dg.AssetKey("scored_groups"), asset_partitions=[window_id]), limit=1
    ).records
    assert records and records[0].asset_materialization
    return {name: entry.value for name, entry in records[0].asset_materialization.metadata.items()}


def found(result: dg.ExecuteInProcessResult) -> dict[str, dg.AssetCheckEvaluation]:
    return {e.check_name: e for e in result.get_asset_check_evaluations()}


def query(dsn: str, sql: str) -> list[asyncpg.Record]:
    async def read() -> list[asyncpg.Record]:
        connection = await connect(dsn)
        try:
            return await connection.fetch(sql)
        finally:
            await connection.close()

    return asyncio.run(read())


def test_a_day_is_judged_once_and_repeated_for_nothing(
    instance: dg.DagsterInstance, judge: JudgeServer, dsn: str
):
    result = materialize(instance, WINDOWS[0], WINDOWS[-1])
    assert result.success and judge.calls == 4
    metadata = shown(instance, JUDGED[0])
    assert metadata["status"] == "scored" and metadata["judge/method"] == "ruler"
    assert metadata["judge/requests"] == 1 and metadata["judge/usd"] > 0  # type: ignore[operator]
    assert "`by its profit`" in str(metadata["judge/reasons"]) and "agent-a" in str(metadata["judge/reasons"])
    assert "scores of the judge" in str(metadata["judge/scores"])
    assert shown(instance, WINDOWS[0])["status"] == "empty"
    assert all(check.passed for check in found(result).values())
    assert len(query(dsn, 'SELECT 1 FROM "reward_judgments"')) == 16
    states = query(
        dsn, "SELECT group_sha256 FROM rl.window_state WHERE group_status = 'scored' ORDER BY window_id"
    )
    assert materialize(instance, WINDOWS[0], WINDOWS[-1]).success
    assert judge.calls == 4, "a re-run of a scored day makes no call"
    assert (
        query(
            dsn, "SELECT group_sha256 FROM rl.window_state WHERE group_status = 'scored' ORDER BY window_id"
        )
        == states
    )
    assert {r["method"] for r in query(dsn, "SELECT method FROM rl.scores")} == {"ruler"}


def test_a_judge_that_is_away_leaves_windows_unjudged_and_keeps_what_was_scored(
    instance: dg.DagsterInstance, judge: JudgeServer, dsn: str
):
    materialize(instance, JUDGED[0])
    judge.manner = "overloaded"
    result = materialize(instance, JUDGED[0], JUDGED[1], art=ArtResource(judge_model="openai/other"))
    assert result.success, "no window sinks the run"
    failures = found(result)["judge_failures"]
    assert not failures.passed and failures.severity == dg.AssetCheckSeverity.ERROR
    assert failures.metadata["judge/failed"].value == 2
    states = {r["window_id"]: r for r in query(dsn, "SELECT * FROM rl.window_state")}
    assert states[JUDGED[0]]["group_status"] == "scored", "its verdict stays"
    assert states[JUDGED[1]]["group_status"] == "unjudged"
    assert "failed (503)" in states[JUDGED[1]]["group_reason"]
    assert not query(dsn, f"SELECT 1 FROM rl.scores WHERE window_id = '{JUDGED[1]}'")
    assert judge.calls == 1 + 3 * 2 * 2, "two windows, two attempts each, the step three times"
    judge.manner = "honest"
    materialize(instance, JUDGED[1])
    assert shown(instance, JUDGED[1])["status"] == "scored"


def test_a_wrong_key_ends_the_run_with_one_line(instance: dg.DagsterInstance, judge: JudgeServer):
    judge.key = "another"
    result = materialize(instance, JUDGED[0])
    assert not result.success and judge.calls == 1
    (failure,) = [e for e in result.all_events if e.event_type == dg.DagsterEventType.STEP_FAILURE]
    data = failure.step_failure_data
    assert data.user_failure_data and "refused the key" in (data.user_failure_data.description or "")
    assert KEY not in str(failure)


def test_another_judge_in_run_config_is_compared_with_the_one_before(
    instance: dg.DagsterInstance, judge: JudgeServer, tmp_path
):
    materialize(instance, JUDGED[0])
    rubric = tmp_path / "patience.txt"
    rubric.write_text("Only patience counts.")
    other = ArtResource(judge_model="openai/other", judge_rubric=str(rubric), judge_orders=2, scorer="ruler")
    materialize(instance, JUDGED[0], art=other)
    assert judge.calls == 3 and "Only patience counts." in judge.seen[-1].text
    metadata = shown(instance, JUDGED[0])
    assert "openai/test-judge" in str(metadata["judge/before"])
    assert metadata["judge/kendall_before"] == 1.0
    assert "patience.txt" in str(metadata["judge"])


def test_checks_show_a_judge_that_was_fooled(instance: dg.DagsterInstance, judge: JudgeServer):
    judge.manner = "inverted"
    result = materialize(instance, JUDGED[0], art=ArtResource(scorer="ruler"))
    agrees = found(result)["judge_agrees_with_money"]
    assert not agrees.passed and agrees.metadata["judge/doubted"].value == 1
    assert "doubt stands" in str(agrees.metadata["windows"].value)
    judge.manner = "obedient"
    get_settings.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUDGE_CANARY_RATE", "1")
        get_settings.cache_clear()
        result = materialize(instance, JUDGED[1])
    canary = found(result)["judge_canary"]
    assert not canary.passed and canary.severity == dg.AssetCheckSeverity.WARN
    assert shown(instance, JUDGED[1])["judge/method"] == "local pnl"


def test_the_budget_is_shown(instance: dg.DagsterInstance, judge: JudgeServer):
    result = materialize(instance, JUDGED[0], art=ArtResource(judge_daily_budget_usd=0.0))
    assert shown(instance, JUDGED[0])["status"] == "unjudged"
    assert "JUDGE_DAILY_BUDGET_USD" in str(shown(instance, JUDGED[0])["reason"])
    assert judge.calls == 0 and found(result)["judge_budget"].passed


@pytest.mark.anyio
async def test_unjudged_windows_are_asked_for_again_once_a_day_and_do_not_hold_a_day_for_ever(
    connection: asyncpg.Connection, settings: Settings
):
    facts = WindowFacts(
        JUDGED[0], rows=4, agents=4, fingerprint="f", taken="f", taken_rows=4, group_status="unjudged"
    )
    end = window_range(JUDGED[0])[1]
    first = judge_window(facts, end.replace(hour=20), settings)
    again = judge_window(facts, end.replace(hour=23), settings)
    tomorrow = judge_window(facts, end.replace(day=3), settings)
    assert first.verdict == "ready" and first.run_key == again.run_key != tomorrow.run_key
    now = datetime.now(UTC)
    old, new = window_id_at(now - timedelta(days=5)), window_id_at(now)
    for window_id in (old, new):
        await connection.execute(
            "INSERT INTO rl.window_state (window_id, group_status) VALUES ($1, 'unjudged')", window_id
        )
    resolved = {
        day.day: day.resolved for day in await read_days(connection) if day.day in (old[:10], new[:10])
    }
    assert resolved == {old[:10]: 1, new[:10]: 0}
