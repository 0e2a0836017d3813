"""Populations: one candidate among incumbents, all candidates, and what a transfer looks like."""

import pytest

from babylon_rl.benchmark.arena import held_out
from babylon_rl.benchmark.crowd import crowd, entry_prices
from babylon_rl.simulation.trader import Order
from babylon_rl_tests.benchmark.players import Skilled

pytestmark = pytest.mark.anyio


def test_each_order_pays_what_the_ones_before_it_added() -> None:
    buy, sell = Order("A", "long", 500.0), Order("A", "short", 1500.0)
    assert entry_prices(100.0, [buy, buy, sell, buy]) == pytest.approx(
        [100.0, 105.0, 110.25, 110.25 * 0.95]
    ), "500 of 10,000 USD is 5 %, and 5 % is the most"
    assert entry_prices(100.0, [Order("A", "long", 100.0), buy]) == pytest.approx([100.0, 101.0])
    assert entry_prices(100.0, [buy, buy], impact=0.0) == [100.0, 100.0]
    assert entry_prices(100.0, []) == []


async def test_without_impact_a_good_trader_gains_in_both_populations_and_harms_nobody() -> None:
    found = await crowd(Skilled("good", 0.9), Skilled("poor", 0.1), held_out("no impact", 128), impact=0.0)
    assert found.among_incumbents.low > 0 and found.all_candidates.low > 0
    assert found.on_others.mean == pytest.approx(0, abs=1e-12)
    assert found.all_candidates.mean == pytest.approx(found.among_incumbents.mean, rel=0.5)


async def test_with_the_games_impact_a_crowd_that_follows_one_signal_loses_what_one_of_it_gains() -> None:
    found = await crowd(Skilled("good", 1.0), Skilled("poor", 0.0), held_out("impact", 128))
    assert found.among_incumbents.low > 0
    assert found.all_candidates.high < found.among_incumbents.low
    summary = found.summary()
    assert summary["seats"] == 4 and summary["all_candidates"]["n"] == 128
    assert summary["returns"]["candidates"] < summary["returns"]["candidate"]


async def test_equal_policies_differ_in_nothing() -> None:
    found = await crowd(Skilled("a", 0.5), Skilled("b", 0.5), held_out("equal", 32), seats=3)
    for interval in (found.among_incumbents, found.on_others, found.all_candidates):
        assert interval.mean == pytest.approx(0, abs=1e-12) and interval.low <= 0 <= interval.high


async def test_one_seat_is_the_arena_with_one_trader() -> None:
    found = await crowd(Skilled("a", 1.0), Skilled("b", 0.0), held_out("one", 32), seats=1)
    assert found.on_others.mean == pytest.approx(0) and found.all_candidates.mean == pytest.approx(
        found.among_incumbents.mean
    )
