"""The pricer's rules as properties: antisymmetric, monotone, losses bounded, liquidation final."""

import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from babylon_rl.outcomes.perpetuals import PricingError, liquidation_price, trading_fee, value_perpetual

sides = st.sampled_from(["long", "short"])
sizes = st.floats(10, 1e6)
leverages = st.integers(1, 100)
prices = st.floats(0.01, 1e6)
paths = st.lists(st.floats(0.5, 2.0), max_size=30)


def test_the_worked_example_of_the_game():
    won = value_perpetual("long", 500, 10, 100, [101, 103])
    assert (won.value, won.pnl, won.fees, won.liquidated, won.exit_price) == (14.0, 15.0, 1.0, False, 103.0)
    lost = value_perpetual("SHORT", 500, 10, 100, [101, 103])
    assert (lost.value, lost.pnl) == (-16.0, -15.0)


@pytest.mark.parametrize(
    ("side", "leverage", "expected"),
    [("long", 5, 82), ("long", 10, 91), ("long", 100, 99.1), ("short", 5, 118)],
)
def test_liquidation_prices_of_the_game(side, leverage, expected):
    assert liquidation_price(side, 100, leverage) == pytest.approx(expected)


@pytest.mark.parametrize("tick", [91.0, 90.0, 10.0])
def test_liquidation_is_final_whatever_comes_after(tick):
    value = value_perpetual("long", 500, 10, 100, [95, tick, 300])
    assert value.liquidated and value.exit_price == tick
    assert value.value == -50 - 0.5


def test_a_liquidation_price_of_its_own():
    assert value_perpetual("long", 500, 10, 100, [90], liquidation=80).liquidated is False
    assert value_perpetual("short", 500, 5, 100, [121], liquidation=120).liquidated is True


def test_without_ticks_only_the_fees_are_lost():
    assert value_perpetual("short", 500, 10, 100, []).value == -1.0


@pytest.mark.parametrize(("size", "fee"), [(500, 0.5), (10, 0.01), (14.9, 0.01), (15, 0.02), (4, 0.0)])
def test_fees_are_rounded_to_cents(size, fee):
    assert trading_fee(size) == fee


@pytest.mark.parametrize(
    "bad",
    [
        {"side": "buy"},
        {"size": 0},
        {"size": math.nan},
        {"leverage": 0},
        {"entry_price": -1},
        {"entry_price": math.inf},
        {"prices": [100, math.nan]},
        {"prices": [100, 0]},
    ],
)
def test_what_has_no_value_is_refused(bad):
    order = {"side": "long", "size": 500, "leverage": 10, "entry_price": 100, "prices": [101]} | bad
    with pytest.raises(PricingError):
        value_perpetual(**order)


@given(size=sizes, leverage=leverages, entry=prices, path=paths)
def test_long_and_short_together_pay_the_fees(size, leverage, entry, path):
    ticks = [entry * factor for factor in path]
    long = value_perpetual("long", size, leverage, entry, ticks)
    short = value_perpetual("short", size, leverage, entry, ticks)
    assume(not long.liquidated and not short.liquidated)
    assert long.pnl == pytest.approx(-short.pnl, abs=1e-6)
    assert long.value + short.value == pytest.approx(-(long.fees + short.fees), abs=1e-6 * size)


@given(
    side=sides,
    size=sizes,
    leverage=leverages,
    entry=prices,
    exits=st.tuples(st.floats(0.1, 3), st.floats(0.1, 3)),
)
def test_a_better_exit_is_never_worth_less(side, size, leverage, entry, exits):
    low, high = (
        value_perpetual(side, size, leverage, entry, [entry * exit_]).value for exit_ in sorted(exits)
    )
    assert (high >= low - 1e-6 * size) if side == "long" else (low >= high - 1e-6 * size)


@given(side=sides, size=sizes, leverage=leverages, entry=prices, path=paths)
def test_no_more_than_margin_and_fees_can_be_lost(side, size, leverage, entry, path):
    value = value_perpetual(side, size, leverage, entry, [entry * factor for factor in path])
    assert value.value >= -size / leverage - trading_fee(size) - 1e-9 * size
    assert math.isfinite(value.value)
    if value.liquidated:
        assert value.value == pytest.approx(-size / leverage - trading_fee(size))


@given(side=sides, size=sizes, leverage=leverages, entry=prices, path=paths, scale=st.floats(0.01, 100))
def test_only_relative_prices_matter(side, size, leverage, entry, path, scale):
    one = value_perpetual(side, size, leverage, entry, [entry * factor for factor in path])
    limit = liquidation_price(side, entry, leverage)
    # Scaling may round a tick that lies on the liquidation price across it.
    assume(all(abs(entry * factor - limit) > 1e-6 * entry for factor in path))
    other = value_perpetual(side, size, leverage, entry * scale, [entry * scale * factor for factor in path])
    assert other.value == pytest.approx(one.value, rel=1e-6, abs=1e-6 * size)


@given(side=sides, size=sizes, leverage=leverages, entry=prices, path=paths, later=paths)
def test_a_liquidated_position_stays_liquidated(side, size, leverage, entry, path, later):
    first = value_perpetual(side, size, leverage, entry, [entry * factor for factor in path])
    assume(first.liquidated)
    assert value_perpetual(side, size, leverage, entry, [entry * f for f in path + later]) == first
