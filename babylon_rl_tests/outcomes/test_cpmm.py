"""The market maker as properties: what the game's code does, whatever the reserves."""

import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from babylon_rl.outcomes.cpmm import FEE_RATE, NO, YES, Pool, bought, moved, sold
from babylon_rl.outcomes.perpetuals import PricingError
from babylon_rl.simulation import predictions

reserves = st.floats(20, 1e5)
pools = st.builds(Pool, reserves, reserves)
sides = st.booleans()
amounts = st.floats(1, 1e4)


def test_the_worked_example_of_the_game():
    """`babylon.md` 3.1: 100 USD of YES at one half are 83.26 shares, and YES goes to 0.590."""
    pool, shares = bought(Pool(500, 500), YES, 100 * (1 - FEE_RATE))
    assert shares == pytest.approx(83.26, abs=0.01)
    assert 99.9 / shares == pytest.approx(1.1998, abs=1e-4)
    assert pool.yes_price == pytest.approx(0.590, abs=1e-3)


@pytest.mark.parametrize(("price", "won"), [(0.5, -16.64), (0.8, -77.70), (0.2, 166.59)])
def test_a_right_prediction_at_one_half_or_more_loses_money(price, won):
    """`babylon.md` 3.1, numerically verified: what a winning order of 100 USD books."""
    pool = Pool(1000 * (1 - price), 1000 * price)
    _, shares = bought(pool, YES, 99.9)
    assert shares - 99.9 == pytest.approx(won, abs=0.01)


@given(pool=pools, side=sides, net=amounts)
def test_buying_and_selling_again_brings_the_money_back(pool, side, net):
    after, shares = bought(pool, side, net)
    again, proceeds = sold(after, side, shares)
    assert proceeds == pytest.approx(net, rel=1e-6)
    assert (again.yes, again.no) == pytest.approx((pool.yes, pool.no), rel=1e-6)


@given(pool=pools, side=sides, net=amounts)
def test_the_product_stays_and_the_price_moves_against_the_buyer(pool, side, net):
    after, shares = bought(pool, side, net)
    assert after.product == pytest.approx(pool.product, rel=1e-9)
    assert 0 < shares < (pool.yes if side else pool.no)
    assert (after.yes_price > pool.yes_price) is side or after.yes_price == pool.yes_price


@given(pool=pools, side=sides, shares=amounts)
def test_nobody_gets_the_displayed_price_for_a_share(pool, side, shares):
    """A mark at the displayed odds promises more than a sale brings."""
    _, proceeds = sold(pool, side, shares)
    own, other = (pool.yes, pool.no) if side else (pool.no, pool.yes)
    assert 0 < proceeds < min(other, shares * other / own) * (1 + 1e-9)


@given(pool=pools, net=amounts)
def test_yes_and_no_mirror_each_other(pool, net):
    _, yes = bought(pool, YES, net)
    _, no = bought(Pool(pool.no, pool.yes), NO, net)
    assert yes == no


@given(pool=pools, side=sides, net=amounts)
def test_it_is_the_market_of_the_simulation(pool, side, net):
    assume(net * (1 - FEE_RATE) > 1)
    fill = predictions.buy(predictions.Pool(pool.yes, pool.no), side, net)
    after, shares = bought(pool, side, net * (1 - FEE_RATE))
    assert shares == pytest.approx(fill.shares, abs=2e-6)
    assert (after.yes, after.no) == pytest.approx((fill.pool.yes, fill.pool.no), abs=2e-6)


@given(pool=pools, own=sides, others=st.lists(st.tuples(sides, amounts), max_size=6), net=amounts)
def test_an_order_is_carried_through_the_trades_of_others(pool, own, others, net):
    """Replaying the others' money on the pool with our order gives what would have happened."""
    ours, _ = bought(pool, own, net)
    recorded = pool
    for side, amount in others:
        after, _ = bought(recorded, side, amount)
        expected, _ = bought(ours, side, amount)
        ours = moved(ours, recorded, after)
        recorded = after
        assert (ours.yes, ours.no) == pytest.approx((expected.yes, expected.no), rel=1e-6)


@given(pool=pools, own=sides, net=amounts, factor=st.floats(0.5, 3))
def test_added_liquidity_adds_to_both_worlds(pool, own, net, factor):
    ours, _ = bought(pool, own, net)
    grown = moved(ours, pool, Pool(pool.yes * factor, pool.no * factor))
    assert grown.yes_price == pytest.approx(ours.yes_price, rel=1e-6)
    assert grown.product == pytest.approx(ours.product * factor**2, rel=1e-6)


@pytest.mark.parametrize("pool", [Pool(0, 0), Pool(0, 500), Pool(math.nan, 500), Pool(math.inf, 500)])
@pytest.mark.parametrize("trade", [bought, sold])
def test_a_market_without_reserves_has_no_price(pool, trade):
    with pytest.raises(PricingError, match="without liquidity"):
        trade(pool, YES, 10)


@pytest.mark.parametrize("quantity", [0, -1, math.nan, math.inf])
def test_a_trade_needs_a_positive_number(quantity):
    with pytest.raises(PricingError, match="must be a positive number"):
        bought(Pool(500, 500), YES, quantity)
