"""Snapshots in both formats, examinations, their metrics, comparisons, reports, and the commands."""

import csv
import json
import re
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from babylon_rl.benchmark.babylon_format import file_name, from_babylon, to_babylon
from babylon_rl.benchmark.company import populations
from babylon_rl.benchmark.comparison import Result, ResultError, compare, player_result, read_results
from babylon_rl.benchmark.exam import Player, play, rules
from babylon_rl.benchmark.measures import ImpossibleMetricsError, check, drawdown, measure, sharpe
from babylon_rl.benchmark.report import baseline, write_report
from babylon_rl.benchmark.snapshot import (
    Perpetual,
    Snapshot,
    SnapshotConfig,
    SnapshotError,
    generate,
    read,
    write,
)
from babylon_rl.policy.engine import EmbeddedEngine
from babylon_rl_tests.benchmark.players import Fixed, Skilled
from babylon_rl_tests.test_cli import babylon, environment, error_of

__all__ = ["environment"]
pytestmark = pytest.mark.anyio

DAY = SnapshotConfig(seed=5, predictions=3)


async def examined(*players: Player, seeds: int = 1, ticks: int = 288) -> Result:
    found, snapshots = [], [generate(SnapshotConfig(seed=seed, ticks=ticks)) for seed in range(seeds)]
    for market in snapshots:
        found += [player_result(r, market, r.player) for r in await play(market, players)]
    return Result(snapshots=[market.id for market in snapshots], players=found)


@pytest.mark.parametrize("suffix", [".json", ".json.zst"])
def test_a_snapshot_is_read_as_it_was_written(tmp_path: Path, suffix: str) -> None:
    market = generate(DAY)
    write(market, tmp_path / f"x{suffix}")
    assert read(tmp_path / f"x{suffix}") == market and market.id.startswith("snapshot-")


def test_babylons_format_keeps_prices_markets_and_headlines(tmp_path: Path) -> None:
    market = generate(DAY)
    plain = to_babylon(market)
    assert set(plain) >= {"id", "version", "createdAt", "duration", "tickInterval", "initialState", "ticks"}
    assert plain["version"] == "1.0.0" and file_name(market) == "benchmark-week-1440-300-3-4-8-5.json"
    (tmp_path / "x.json").write_text(json.dumps(plain))
    again = read(tmp_path / "x.json")
    for name in (
        "perpetuals",
        "predictions",
        "headlines",
        "decisions",
        "ticks",
        "tick_seconds",
        "created_at",
        "seed",
    ):
        assert getattr(again, name) == getattr(market, name), name
    assert json.loads(json.dumps(to_babylon(again))) == json.loads(json.dumps(plain))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda plain: plain.update(version="2.0.0"),
        lambda plain: plain["groundTruth"].pop("marketOutcomes"),
        lambda plain: plain["ticks"].pop(3),
        lambda plain: plain["initialState"]["perpetualMarkets"][0].update(price=-1),
        lambda plain: plain.update(tickInterval=0),
        lambda plain: plain.update(tickInterval="x"),
    ],
)
def test_a_babylon_file_that_is_not_whole_is_refused_by_name(spoil) -> None:
    plain = to_babylon(generate(DAY))
    spoil(plain)
    with pytest.raises(SnapshotError):
        from_babylon(plain)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": "x"}', "\x00\x01"])
def test_what_is_no_snapshot_is_said(tmp_path: Path, content: str) -> None:
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(SnapshotError, match="is no snapshot"):
        read(tmp_path / "x.json")
    with pytest.raises(SnapshotError, match="cannot be read"):
        read(tmp_path / "missing.json")


@pytest.mark.parametrize(
    ("name", "value"), [("seed", -1), ("ticks", 0), ("perpetuals", 0), ("tick_seconds", 0)]
)
def test_a_configuration_out_of_range_is_refused_by_name(name: str, value: int) -> None:
    with pytest.raises(SnapshotError, match=name):
        generate(msgspec.structs.replace(SnapshotConfig(), **{name: value}))


async def test_skill_shows_and_the_oracle_is_best() -> None:
    result = await examined(
        Player("poor", policy=Skilled("p", folly=0.5)),
        Player("good", policy=Skilled("g", 1.0)),
        seeds=96,
        ticks=72,
    )
    [found] = compare(result)
    assert found.verdict == "better" and found.pnl_delta > 0 and found.optimality_delta > 0
    assert found.difference["n"] == 96 and "hours" in found.reason


async def test_the_tiny_model_is_examined(base_engine: EmbeddedEngine) -> None:
    market = generate(SnapshotConfig(ticks=24))
    one, again = [
        (await play(market, [Player("base", policy=base_engine)]))[0] for _ in range(2)
    ]  # fmt: skip
    assert [d.answer for d in one.decisions] == [d.answer for d in again.decisions], (
        "equal seeds, equal answers"
    )
    metrics = measure(one, market)
    assert metrics.decisions == 8 and metrics.avg_response_ms > 0 and metrics.invalid <= 2


async def test_money_adds_up() -> None:
    market = generate(DAY)
    answer = '{"action": "buy_yes", "market": "market-0", "amount": 20}'
    players = [Player("bet", policy=Fixed("b", answer)), Player("random", rule=rules(market)["random"])]
    for record in await play(market, players, view="full"):
        metrics = measure(record, market)
        assert record.account.equity[-1] == pytest.approx(1000 + metrics.total_pnl)
        assert not record.account.open and record.account.cash >= 0
        assert len(record.account.equity) == market.ticks + 2
    bet = measure((await play(market, players[:1], view="full"))[0], market)
    assert bet.total_positions > 0 and bet.accuracy in (0.0, 1.0)
    assert bet.reputation_gained == (10 if market.predictions[0].outcome else -5) * bet.total_positions
    assert bet.refused > 0, "a resolved market takes no order"


def test_drawdown_follows_time() -> None:
    assert drawdown([100, 120, 90, 110, 80, 130]) == (pytest.approx(40 / 120), 40)
    assert drawdown([100, 110, 120]) == (0.0, 0.0) and drawdown([]) == (0.0, 0.0)
    assert drawdown([10, 0])[0] == 1.0 == drawdown([10, -5])[0]


async def test_every_hour_begins_with_the_bankroll_and_losses_are_counted() -> None:
    """A trader that loses everything every hour loses more than it ever had, and trades on."""
    prices = [100.0] + [100.0 * (0.5 if tick % 12 > 1 else 1.0) for tick in range(1, 61)]
    market = Snapshot(seed=0, ticks=60, decisions=list(range(1, 60, 12)), perpetuals=[Perpetual("X", prices)])
    answer = '{"action": "open_long", "market": "X", "amount": 9000, "leverage": 10}'
    [record] = await play(market, [Player("gambler", policy=Fixed("g", answer))])
    metrics = measure(record, market)
    assert metrics.total_trades == metrics.liquidations == 5 and metrics.refused == 0
    assert metrics.total_pnl == pytest.approx(-5 * 909) and metrics.max_drawdown == 1.0


def test_sharpe_is_annualised_and_zero_without_spread() -> None:
    market = generate(SnapshotConfig(ticks=12))
    assert sharpe(np.zeros(4), market) == 0 and sharpe(np.array([0.1]), market) == 0
    returns = np.array([0.01, 0.02, -0.01, 0.02])
    expected = returns.mean() / returns.std(ddof=1) * np.sqrt(365 * 24 * 4)
    assert sharpe(returns, market) == pytest.approx(expected), "four stretches in an hour of 12 ticks"


async def test_impossible_metrics_are_refused() -> None:
    market = generate(SnapshotConfig(ticks=12))
    metrics = measure((await play(market, [Player("h", rule=rules(market)["hold"])]))[0], market)
    for change in (
        {"accuracy": 1.5},
        {"sharpe": float("nan")},
        {"correct_predictions": 3},
        {"win_rate": 0.5},
    ):
        with pytest.raises(ImpossibleMetricsError):
            check(type(metrics)(**{**metrics.to_dict(), **change}))


async def test_momentum_follows_the_last_hour() -> None:
    rising = [100.0 * 1.01**t for t in range(37)]
    market = Snapshot(seed=0, ticks=36, decisions=[12, 24], perpetuals=[Perpetual("UP", rising)])
    [record] = await play(market, [Player("momentum", rule=rules(market)["momentum"])])
    assert [p.side for p in record.account.positions] == ["long", "long"] and record.account.equity[-1] > 1000


async def test_alpha_is_spent_over_the_checkpoints_that_are_tried() -> None:
    players = [Player(f"v{i}", policy=Skilled(f"v{i}", 0.3 + i / 10)) for i in range(4)]
    found = compare(await examined(*players), alpha=0.06)
    assert [one.difference["alpha"] for one in found] == pytest.approx([0.03, 0.01, 0.005])
    assert [one.number for one in found] == [1, 2, 3]


async def test_one_candidate_among_incumbents_and_all_candidates() -> None:
    markets = [generate(SnapshotConfig(seed=seed)) for seed in range(3)]
    good, poor = Player("good", policy=Skilled("g", 1.0)), Player("poor", policy=Skilled("p", 0.1))
    found = await populations(markets, good, poor, seats=3)
    assert found["among_incumbents"]["mean"] > found["all_candidates"]["mean"], (
        "they stand in each other's way"
    )
    alone = await populations(markets, good, poor, seats=3, impact=0.0)
    assert alone["on_others"]["mean"] == pytest.approx(0) and alone["all_candidates"]["mean"] > 0


async def test_a_report_needs_nothing_but_itself(tmp_path: Path) -> None:
    evil = "=1+1<script>alert(1)</script>"
    result = await examined(Player("a<b", policy=Fixed("a", evil)), Player("good", policy=Skilled("g", 0.9)))
    written = {path.name for path in write_report(tmp_path, result)}
    assert written == {
        "result.json", "comparison.json", "metrics.csv", "actions.csv", "comparison.csv", "report.html"
    }  # fmt: skip
    html = (tmp_path / "report.html").read_text()
    assert html.count("<svg") >= 3 and "<script" not in html and "a&lt;b" in html
    without_namespace = html.replace('xmlns="http://www.w3.org/2000/svg"', "")
    assert not re.search(r"https?://|<link|<img|url\(|@import", without_namespace)
    rows = list(csv.DictReader((tmp_path / "actions.csv").open()))
    assert len(rows) == 2 * 96 and rows[0]["answer"].startswith("'=1+1"), "no formula for a spreadsheet"
    summary = json.loads((tmp_path / "comparison.json").read_text())
    assert summary["best_run"]["player"] == "good" and summary["worst_run"]["player"] == "a<b"
    assert read_results([tmp_path]) == result == read_results([tmp_path / "result.json", tmp_path])
    shaped = baseline(result, "good", "x.json", generate(DAY).created_at)
    assert set(shaped) == {"model", "benchmark", "metrics", "timing", "runAt"}


async def test_results_that_share_nothing_cannot_be_compared(tmp_path: Path) -> None:
    with pytest.raises(ResultError, match="is no result"):
        read_results([tmp_path])
    one = await examined(Player("a", policy=Fixed("a", "HOLD")))
    with pytest.raises(ResultError, match="b did not play"):
        compare(one, "b")
    other = msgspec.structs.replace(one.players[0], player="b", snapshot="another")
    with pytest.raises(ResultError, match="share no snapshot"):
        compare(Result(snapshots=[], players=[*one.players, other]))


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(), lambda c: st.lists(c) | st.dictionaries(st.text(), c)))  # fmt: skip  # noqa: E501
@hypothesis_settings(max_examples=50)
def test_any_json_is_read_or_refused(value) -> None:
    try:
        from_babylon({"version": "1.0.0", "initialState": value, "groundTruth": value, "ticks": value})
    except SnapshotError:
        pass


def test_the_commands(environment: dict[str, str], tmp_path: Path) -> None:
    made = babylon(environment, "benchmark", "generate", "--seed", "0", "--ticks", "24", "--count", "2")
    assert made.returncode == 0, made.stderr
    names = [Path(line).name for line in made.stdout.split()]
    ran = babylon(environment, "benchmark", "run", *names, "--output", str(tmp_path / "r"), "--json")
    assert ran.returncode == 0, ran.stderr
    assert set(json.loads(ran.stdout)["players"]) == {
        "hold",
        "random",
        "momentum",
        "buy and hold",
        "headlines",
    }
    again = babylon(environment, "benchmark", "compare", str(tmp_path / "r"), "--incumbent", "random")
    assert again.returncode == 0 and "headlines" in again.stdout
    assert "is no result" in error_of(babylon(environment, "benchmark", "compare", str(tmp_path)))
    assert "cannot be read" in error_of(babylon(environment, "benchmark", "run", "nothing.json"))


def test_the_commands_about_verdicts(environment: dict[str, str]) -> None:
    assert "no model was judged yet" in error_of(babylon(environment, "benchmark", "verdicts"))
    shown = babylon(environment, "benchmark", "verdicts", "--json")
    assert json.loads(shown.stdout) == {"verdicts": []}
    assert "there is no model v0.0.1" in error_of(
        babylon(environment, "benchmark", "replay", "--candidate", "v0.0.1", "--yes")
    )
    assert (
        babylon(
            environment, "benchmark", "replay", "--candidate", "v0.0.1", "--embargo-hours", "71"
        ).returncode
        == 2
    )
