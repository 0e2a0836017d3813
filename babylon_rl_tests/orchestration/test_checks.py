"""Asset checks: each explains itself, and shows the numbers behind its verdict, per window in a range run."""

import asyncpg
import dagster as dg
import pytest
from anyio import to_thread

from babylon_rl.orchestration import checks
from babylon_rl.orchestration.check_queries import checks_of
from babylon_rl.orchestration.partitions import daily, hourly
from babylon_rl.orchestration.resources import PostgresResource
from babylon_rl.orchestration.runs import partition_tags
from babylon_rl.settings import Settings
from babylon_rl.windows import windows_of_day

DAY = "2026-10-02"
WINDOWS = windows_of_day(DAY)
VERDICT = {
    "difference": {"mean": 0.01, "low": -0.02, "high": 0.04, "n": 64, "alpha": 0.05, "method": "betting"},
    "minimum_detectable_effect": 0.03,
    "invalid_rate": 0.3,
    "incumbent_invalid_rate": 0.01,
}


@dg.asset(name="scored_groups", partitions_def=hourly)
def windows() -> None:
    """Stands in for what the checks look at."""


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


@pytest.mark.parametrize("check", [spec for made in checks.ALL for spec in made.check_specs])
def test_every_check_says_what_it_means_and_what_its_severity_asks_for(check: dg.AssetCheckSpec):
    assert check.description and check.description[0].isupper() and len(check.description) > 80
    assert "WARN" in check.description or "ERROR" in check.description


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
    assert f"| {WINDOWS[2]} | thin | 2 of 3 agents |" in str(spread.metadata["windows"].value)
    assert "of another day" not in str(spread.metadata["windows"].value)
    assert share.passed and share.metadata["groups/measured"].value == 2
    assert WINDOWS[1] in str(share.metadata["windows"].value)
    assert WINDOWS[0] not in str(share.metadata["windows"].value)


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
        evaluate, benchmark, DAY, None, checks.candidate_beats_incumbent, checks.invalid_actions
    )
    gate, invalid = found["candidate_beats_incumbent"], found["invalid_actions"]
    assert not gate.passed and gate.severity == dg.AssetCheckSeverity.WARN
    shown = {name: value.value for name, value in gate.metadata.items() if name.startswith("gate/")}
    assert shown == {
        "gate/n": 64,
        "gate/difference": 0.01,
        "gate/low": -0.02,
        "gate/high": 0.04,
        "gate/minimum_detectable_effect": 0.03,
    }
    assert invalid.severity == dg.AssetCheckSeverity.ERROR, "training has lost the format"
