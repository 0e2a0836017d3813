"""The mechanics of prediction markets, as properties and against the figures of the game."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from babylon_rl.simulation.predictions import (
    PRICINGS,
    Pool,
    PredictionError,
    Pricing,
    buy,
    payout,
    sell,
)

pools = st.builds(Pool, st.floats(20, 5000), st.floats(20, 5000))
amounts = st.floats(0.5, 500)
pricings = st.sampled_from(PRICINGS)
sides = st.booleans()


def test_the_game_s_own_example() -> None:
    """100 USD of YES in a fresh market: 83.26 shares at 1.1998, and a right prediction loses 16.64."""
    fill = buy(Pool(500, 500), True, 100)
    assert fill.shares == pytest.approx(83.26, abs=0.005)
    assert fill.price == pytest.approx(1.1998, abs=0.0001)
    assert fill.pool.yes_price == pytest.approx(0.590, abs=0.0005)
    assert payout(True, fill.shares, True) - fill.net == pytest.approx(-16.64, abs=0.005)


@given(pools, sides, amounts, pricings)
def test_a_purchase_keeps_the_product_and_raises_the_price(
    pool: Pool, side: bool, amount: float, pricing: Pricing
) -> None:
    fill = buy(pool, side, amount, pricing)
    assert fill.pool.yes * fill.pool.no == pytest.approx(pool.yes * pool.no, rel=1e-6)
    assert fill.pool.price(side) > pool.price(side)
    assert fill.pool.yes_price + fill.pool.price(False) == pytest.approx(1)
    assert fill.fee == pytest.approx(amount * 0.001)


@given(pools, sides, amounts)
def test_both_pricings_move_the_market_alike(pool: Pool, side: bool, amount: float) -> None:
    assert buy(pool, side, amount, "as_shipped").pool == buy(pool, side, amount, "as_specified").pool


@given(pools, sides, amounts)
def test_what_a_share_costs(pool: Pool, side: bool, amount: float) -> None:
    """p / (1 - p) as shipped and p as specified, between the prices before and after the trade."""
    for pricing in PRICINGS:
        cost = (lambda p: p / (1 - p)) if pricing == "as_shipped" else (lambda p: p)
        fill = buy(pool, side, amount, pricing)
        low, high = cost(pool.price(side)), cost(fill.pool.price(side))
        # Shares are kept to six decimals, so a fill of few shares has a coarse price.
        rounding = 1e-4 + 1e-6 / fill.shares
        assert low * (1 - rounding) <= fill.price <= high * (1 + rounding)


@given(pools, sides, amounts, pricings)
def test_selling_what_was_bought_costs_the_fees(
    pool: Pool, side: bool, amount: float, pricing: Pricing
) -> None:
    bought = buy(pool, side, amount, pricing)
    sold = sell(bought.pool, side, bought.shares, pricing)
    assert sold.gross == pytest.approx(bought.net, rel=1e-3, abs=1e-4)
    assert sold.net < amount
    assert (sold.pool.yes, sold.pool.no) == pytest.approx((pool.yes, pool.no), rel=1e-4)


@given(pools, sides, amounts, st.booleans())
def test_as_specified_a_market_is_solvent(pool: Pool, side: bool, amount: float, outcome: bool) -> None:
    """What a buyer can win beyond his stake is what the pool holds less of the winning side."""
    fill = buy(pool, side, amount, "as_specified")
    before, after = (p.yes if outcome else p.no for p in (pool, fill.pool))
    assert payout(side, fill.shares, outcome) <= fill.net + before - after + 1e-4


@pytest.mark.parametrize("amount", [0.0, -5.0, float("nan"), float("inf")])
def test_no_trade_without_a_positive_amount(amount: float) -> None:
    with pytest.raises(PredictionError, match="positive number"):
        buy(Pool(500, 500), True, amount)
    with pytest.raises(PredictionError, match="positive number"):
        sell(Pool(500, 500), True, amount)


@pytest.mark.parametrize("trade", [buy, sell])
def test_no_trade_in_an_empty_market(trade) -> None:
    """The game's tick creates markets with empty reserves, in which nothing can be bought."""
    with pytest.raises(PredictionError, match="no liquidity"):
        trade(Pool(0, 0), True, 10)
    assert Pool(0, 0).yes_price == 0.5
