"""Asset checks: each explains itself, and shows the numbers behind its verdict, per window in a range run."""

import ast
import inspect
import re
from pathlib import Path

import asyncpg
import dagster as dg
import pytest
from anyio import to_thread

from babylon_rl.definitions import defs
from babylon_rl.orchestration import checks, judge_checks, model_checks
from babylon_rl.orchestration.check_queries import checks_of
from babylon_rl.orchestration.partitions import daily, hourly
from babylon_rl.orchestration.resources import PostgresResource
from babylon_rl.orchestration.runs import partition_tags
from babylon_rl.settings import Settings
from babylon_rl.windows import windows_of_day

DAY = "2026-10-02"
WINDOWS = windows_of_day(DAY)
DOCUMENT = Path(__file__).resolve().parents[2] / "docs/dagster_ui.md"
SPECS = [spec for made in checks.ALL for spec in made.check_specs]
VERDICT = {
    "difference": {"mean": 0.01, "low": -0.02, "high": 0.04, "n": 64, "alpha": 0.05, "method": "betting"},
    "minimum_detectable_effect": 0.03,
    "invalid_rate": 0.3,
    "incumbent_invalid_rate": 0.01,
}


@dg.asset(name="scored_groups", partitions_def=hourly)
def windows() -> None:
    """Stands in for what the checks look at."""


@dg.asset(name="market_outcomes", partitions_def=hourly)
def outcomes() -> None:
    """Likewise."""


@dg.asset(name="trained_checkpoint", partitions_def=daily)
def checkpoint() -> None:
    """Likewise."""


@dg.asset(name="checkpoint_benchmark", partitions_def=daily)
def benchmark() -> None:
    """Likewise."""


def evaluate(
    asset: dg.AssetsDefinition, first: str, last: str | None, *functions: object
) -> dict[str, dg.AssetCheckEvaluation]:
    with dg.instance_for_test() as instance:
        result = dg.materialize(
            [asset, checks_of(asset.key.to_user_string(), *functions)],  # type: ignore[arg-type]
            instance=instance,
            resources={"postgres": PostgresResource()},
            tags=partition_tags(first, last),
            partition_key=first if last is None else None,
        )
        return {e.check_name: e for e in result.get_asset_check_evaluations()}


def rows(check: dg.AssetCheckEvaluation, name: str) -> list[tuple]:
    table = check.metadata[name]
    assert isinstance(table, dg.TableMetadataValue)
    return [tuple(record.data.values()) for record in table.records]


@pytest.mark.parametrize("check", SPECS, ids=lambda spec: spec.name)
def test_every_check_says_what_it_means_and_what_its_severities_ask_for(check: dg.AssetCheckSpec):
    assert check.description and check.description[0].isupper() and len(check.description) > 80
    [code] = [
        ast.unparse(ast.Module(function.body[1:], []))
        for module in (checks, judge_checks, model_checks)
        for function in ast.parse(inspect.getsource(module)).body
        if isinstance(function, ast.FunctionDef) and function.name == check.name
    ]
    assert "severity=" in code, "Dagster's default is nobody's choice"
    for severity in ("WARN", "ERROR"):
        assert (f"AssetCheckSeverity.{severity}" in code) == (severity in check.description)


def test_the_document_lists_every_check():
    rows = re.findall(
        r"^\| (?:`(\w+)`)? ?\| `(\w+)` \| (.*?) ?\| (.*?) ?\|$", DOCUMENT.read_text(), re.MULTILINE
    )
    asset, listed = "", {}
    for of, name, warns, errs in rows:
        asset = of or asset
        listed[name] = (asset, bool(warns), bool(errs))
    assert listed == {
        spec.name: (
            spec.asset_key.to_user_string(),
            "WARN" in (spec.description or ""),
            "ERROR" in (spec.description or ""),
        )
        for spec in SPECS
    }


def test_every_asset_that_is_made_here_is_checked():
    made = {key.to_user_string() for key in defs.resolve_asset_graph().materializable_asset_keys}
    assert {spec.asset_key.to_user_string() for spec in SPECS} == made


def test_every_check_shows_figures_also_where_nothing_was_made_yet(connection: asyncpg.Connection, dsn: str):
    all_checks = dg.define_asset_job("checks", selection=dg.AssetSelection.all_asset_checks())
    with dg.instance_for_test() as instance:
        whole = dg.Definitions.merge(defs, dg.Definitions(jobs=[all_checks]))
        result = whole.resolve_job_def("checks").execute_in_process(instance=instance)
        found = {e.check_name: e for e in result.get_asset_check_evaluations()}
    assert set(found) == {spec.name for spec in SPECS}
    for name, evaluation in found.items():
        figures = [key for key, value in evaluation.metadata.items() if isinstance(value.value, int | float)]
        assert figures and all("/" in key for key in figures), name
        assert evaluation.passed, name


@pytest.mark.anyio
async def test_outcomes_that_are_open_or_have_holes_are_named(
    connection: asyncpg.Connection, settings: Settings
):
    await connection.executemany(
        "INSERT INTO rl.window_state (window_id, outcomes_status) VALUES ($1, $2)",
        [
            (WINDOWS[0], "settled"),
            (WINDOWS[1], "settled"),
            (WINDOWS[2], "open until 03:05"),
            (WINDOWS[3], None),
        ],
    )
    await connection.executemany(
        "INSERT INTO rl.order_value (order_id, horizon, agent_id, window_id, kind, instrument, side, size, "
        "opened_at, value, matured) VALUES ($1, $2, 'a', $3, 'perp', 'X', 'long', 1, now(), $4, $5)",
        [
            ("priced", "1h", WINDOWS[0], 1.5, True),
            ("young", "24h", WINDOWS[0], None, False),
            ("hole", "1h", WINDOWS[1], None, True),
        ],
    )
    found = await to_thread.run_sync(evaluate, outcomes, WINDOWS[0], WINDOWS[-1], checks.outcomes_settled)
    check = found["outcomes_settled"]
    assert not check.passed and check.severity == dg.AssetCheckSeverity.WARN
    assert {name: value.value for name, value in check.metadata.items() if name != "windows"} == {
        "windows/settled": 2,
        "windows/open": 2,
        "orders/count": 2,
        "orders/unpriced": 1,
    }
    assert rows(check, "windows") == [
        (WINDOWS[3], "not derived", 0, 0),
        (WINDOWS[2], "open until 03:05", 0, 0),
        (WINDOWS[1], "settled", 1, 1),
    ]
    alone = await to_thread.run_sync(evaluate, outcomes, WINDOWS[0], None, checks.outcomes_settled)
    assert alone["outcomes_settled"].passed


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("status", "severity"),
    [("in_doubt", dg.AssetCheckSeverity.ERROR), ("failed", dg.AssetCheckSeverity.WARN), ("done", None)],
)
async def test_a_training_without_an_end_is_named(
    connection: asyncpg.Connection, settings: Settings, status: str, severity: dg.AssetCheckSeverity | None
):
    await connection.executemany(
        "INSERT INTO rl.training_units (unit_key, batch_sha256, day, backend, status, error, created_at) "
        "VALUES ($1, 'b', $2::text::date, 'serverless', $3, 'no answer', now() + $4 * interval '1 s')",
        # A day that was trained after all is none that failed.
        [("k", DAY, status, 0), ("done", "2026-10-03", "done", 0), ("failed", "2026-10-03", "failed", 1)],
    )
    found = await to_thread.run_sync(evaluate, checkpoint, DAY, None, model_checks.training_ended)
    check = found["training_ended"]
    assert check.passed == (severity is None)
    assert check.metadata[f"training/{status}"].value == 1
    if severity is not None:
        assert check.severity == severity
        assert rows(check, "days") == [(DAY, "serverless", status, "no answer")]
    rest = await to_thread.run_sync(evaluate, checkpoint, "2026-10-03", None, model_checks.training_ended)
    assert rest["training_ended"].passed


@pytest.mark.anyio
async def test_a_range_run_shows_the_verdict_of_each_window(
    connection: asyncpg.Connection, settings: Settings
):
    await connection.executemany(
        "INSERT INTO rl.window_state (window_id, rows, agents, group_status, group_reason, "
        "pnl_variance_share, pnl_spearman) VALUES ($1, 3, 3, $2, $3, $4, 0.1)",
        [
            (WINDOWS[0], "scored", "", 0.9),
            (WINDOWS[1], "scored", "", 0.01),
            (WINDOWS[2], "thin", "2 of 3 agents", None),
            ("2026-10-05T00:00", "thin", "of another day", None),
        ],
    )
    found = await to_thread.run_sync(
        evaluate, windows, WINDOWS[0], WINDOWS[-1], checks.reward_spread, checks.pnl_share_of_reward
    )
    spread, share = found["reward_spread"], found["pnl_share_of_reward"]
    assert not spread.passed and spread.severity == dg.AssetCheckSeverity.WARN
    assert spread.metadata["groups/not_trainable"].value == 1
    [flat] = rows(spread, "windows")
    assert flat[:3] == (WINDOWS[2], "thin", "2 of 3 agents"), "and none of another day"
    assert share.passed and share.metadata["groups/measured"].value == 2
    assert [row[0] for row in rows(share, "windows")] == [WINDOWS[1]]


@pytest.mark.anyio
async def test_a_gate_shows_n_its_interval_and_what_it_could_have_seen(
    connection: asyncpg.Connection, settings: Settings
):
    await connection.execute(
        "INSERT INTO rl.models (version, model_id, base_model, day, status) "
        "VALUES ('v0.0.1', 'babylon-agent-v0.0.1', 'babylon-tiny', '2026-10-02', 'ready')"
    )
    await connection.execute(
        "INSERT INTO rl.benchmarks (version, incumbent, purpose, seed_key, windows, metrics, verdict, "
        "reason) VALUES ('v0.0.1', 'v0.0.0', 'gate', 'k', 64, $1, 'inconclusive', 'too small')",
        {"verdict": VERDICT},
    )
    found = await to_thread.run_sync(
        evaluate, benchmark, DAY, None, model_checks.candidate_beats_incumbent, model_checks.invalid_actions
    )
    gate, invalid = found["candidate_beats_incumbent"], found["invalid_actions"]
    assert not gate.passed and gate.severity == dg.AssetCheckSeverity.WARN
    shown = {name: value.value for name, value in gate.metadata.items() if name.startswith("gate/")}
    assert shown == {
        "gate/judged": 1,
        "gate/promoted": 0,
        "gate/n": 64,
        "gate/difference": 0.01,
        "gate/low": -0.02,
        "gate/high": 0.04,
        "gate/minimum_detectable_effect": 0.03,
    }
    assert invalid.severity == dg.AssetCheckSeverity.ERROR, "training has lost the format"
    assert invalid.metadata["actions/invalid_rate"].value == 0.3
    assert invalid.metadata["actions/incumbent_invalid_rate"].value == 0.01
