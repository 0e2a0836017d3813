"""`babylon backfill` where it costs: a judge is asked once for each content, a day retrained on a branch."""

import asyncio
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path

import asyncpg
import dagster as dg
import pytest

from babylon_rl.database.connection import connect, open_databases
from babylon_rl.deployment.candidates import ensure_base
from babylon_rl.orchestration.backfill import BackfillPlan, Span, plan_backfill
from babylon_rl.orchestration.backfill_runs import retrain_days, run_backfill
from babylon_rl.orchestration.resources import JUDGE
from babylon_rl.orchestration.runs import run_day
from babylon_rl.policy.engine import EmbeddedEngine
from babylon_rl.records.store import ArtifactStore
from babylon_rl.scoring.judge import client
from babylon_rl.settings import get_settings
from babylon_rl.training.selection import Selection
from babylon_rl.windows import windows_of_day
from babylon_rl_tests.judge_server import KEY, JudgeServer, judge_server
from babylon_rl_tests.played import play_day, store_groups

DAY = "2026-10-02"
WINDOWS = windows_of_day(DAY)
JUDGED = WINDOWS[3:7]
SPAN = Span(JUDGED[0], JUDGED[-1])
AGENTS = ["agent-a", "agent-b", "agent-c", "agent-d"]
NOW = datetime(2026, 10, 5, 12, 30, tzinfo=UTC)


@pytest.fixture
def judge() -> Iterator[JudgeServer]:
    with judge_server() as running:
        yield running


@pytest.fixture
def instance(
    pg_instance: dg.DagsterInstance,
    monkeypatch: pytest.MonkeyPatch,
    judge: JudgeServer,
    record: Callable[..., None],
) -> dg.DagsterInstance:
    """Four recorded windows and a judge that has to be paid."""
    record(AGENTS, *JUDGED)
    for name, value in {
        "SCORER": "ruler",
        "JUDGE_BASE_URL": judge.url,
        "JUDGE_MODEL": "openai/test-judge",
        "JUDGE_API_KEY": KEY,
        "JUDGE_ATTEMPTS": "1",
        "JUDGE_CANARY_RATE": "0",
        "JUDGE_INPUT_PRICE": "0.15",
        "JUDGE_OUTPUT_PRICE": "0.6",
    }.items():
        monkeypatch.setenv(name, value)
    get_settings.cache_clear()
    monkeypatch.setattr(client, "FIRST_WAIT", 0.01)
    # The package's attribute of this name is the asset, not its module.
    monkeypatch.setattr(
        import_module("babylon_rl.orchestration.assets.scored_groups"), "JUDGE_RETRY_SECONDS", 0
    )
    return pg_instance


def planned(instance: dg.DagsterInstance, *, rescore: bool = False) -> BackfillPlan:
    async def read() -> BackfillPlan:
        async with open_databases(get_settings(), role=JUDGE) as db:
            return await plan_backfill(db, instance, SPAN, get_settings(), NOW, rescore=rescore, train=False)

    return asyncio.run(read())


def run(instance: dg.DagsterInstance, plan: BackfillPlan, *, rescore: bool = False) -> int:
    result = run_backfill(
        instance, get_settings(), plan, report=print, advance=lambda count: None, rescore=rescore
    )
    assert not result.failed
    return result.windows


def query(dsn: str, sql: str) -> list[asyncpg.Record]:
    async def read() -> list[asyncpg.Record]:
        connection = await connect(dsn)
        try:
            return await connection.fetch(sql)
        finally:
            await connection.close()

    return asyncio.run(read())


def test_an_outage_of_the_judge_in_the_middle_is_paid_for_once(
    instance: dg.DagsterInstance, judge: JudgeServer, dsn: str
):
    first = planned(instance)
    assert (first.cost.windows, first.cost.episodes) == (4, 16) and first.cost.usd > 0
    judge.then("honest", "honest")
    judge.manner = "overloaded"
    assert run(instance, first) == 4, "no window sinks the run"
    states = query(dsn, "SELECT group_status AS s, count(*) AS n FROM rl.window_state GROUP BY 1")
    assert {row["s"]: row["n"] for row in states} == {"scored": 2, "unjudged": 2}

    judge.manner = "honest"
    second = planned(instance)
    assert second.windows == second.cost.windows == 2, "only what was not judged"
    assert run(instance, second) == 2
    paid = query(dsn, "SELECT window_id, count(*) AS n FROM rl.judge_calls WHERE status = 'ok' GROUP BY 1")
    assert {row["window_id"]: row["n"] for row in paid} == dict.fromkeys(JUDGED, 1)
    assert planned(instance).windows == 0

    again = planned(instance, rescore=True)
    assert (again.windows, again.cost.windows, again.cost.usd) == (4, 0, 0.0), "verdicts are kept"
    calls = judge.calls
    assert run(instance, again, rescore=True) == 4 and judge.calls == calls


def test_nobody_pays_a_judge_without_having_agreed(instance: dg.DagsterInstance, judge: JudgeServer):
    line = [sys.executable, "-m", "babylon_rl.cli", "backfill", "--from", JUDGED[0], "--to", JUDGED[-1]]
    refused = subprocess.run(line, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=120)
    assert refused.returncode != 0 and judge.calls == 0
    assert "judge: 4 windows, 16 episodes, about $" in refused.stdout
    assert "a judge would be paid about $" in refused.stderr and "--yes" in refused.stderr


@pytest.mark.long
def test_retraining_is_a_branch_beside_the_served_chain_and_happens_once(
    pg_instance: dg.DagsterInstance, home_with_base: Path, base_engine: EmbeddedEngine, dsn: str
):
    settings = get_settings()

    async def store() -> None:
        async with open_databases(settings) as db:
            await ensure_base(db.rl, settings)
            await store_groups(db.rl, ArtifactStore(settings.home / "artifacts"), groups)

    groups = play_day(base_engine, 3, 6, day=DAY)
    asyncio.run(store())
    relaxed = {"ops": {"training_batch": {"config": {"skip_readiness": True}}}}
    run_day(pg_instance, DAY, run_config=relaxed)
    served = query(dsn, "SELECT version, role, ended_at FROM rl.deployments ORDER BY id")
    trained = query(dsn, "SELECT version, batch_sha256 FROM rl.trained_days")

    said: list[str] = []
    days, chosen = [DAY, "2026-10-03"], Selection(min_agents=2)
    [first] = retrain_days(pg_instance, settings, days, "backfill-test", chosen, said.append)
    assert first.status == "trained" and first.version not in {row["version"] for row in trained}
    assert said[-1] == "2026-10-03: no scored window, nothing to retrain"
    [again] = retrain_days(pg_instance, settings, days[:1], "backfill-test", chosen, said.append)
    assert (again.status, again.version) == ("trained before", first.version)
    assert query(dsn, "SELECT version, batch_sha256 FROM rl.trained_days") == trained
    assert query(dsn, "SELECT version, role, ended_at FROM rl.deployments ORDER BY id") == served
