"""The pricer of prediction orders as properties: losses bounded, no mark to the own impact, monotone."""

from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from babylon_rl.outcomes.cpmm import FEE_RATE, Pool, bought
from babylon_rl.outcomes.pricing import Clock, PoolPath, PredictionOrder, price_predictions
from babylon_rl_tests.game_rows import START, at

CLOCK = Clock(START + timedelta(days=10), START + timedelta(days=10))
reserves = st.floats(50, 5e4)
pools = st.builds(Pool, reserves, reserves)
paths = st.lists(st.tuples(st.integers(-30, 3000), pools), min_size=1, max_size=12).map(
    lambda events: sorted(events, key=lambda event: event[0])
)
sides = st.booleans()
amounts = st.floats(1, 5e3)
answers = st.none() | st.booleans()


def path_of(events, answer=None, minute=2000) -> PoolPath:
    times, found = [at(-60), *(at(m) for m, _ in events)], [events[0][1], *(pool for _, pool in events)]
    return PoolPath(times, found, None if answer is None else at(minute), answer)


def order_of(side: bool, amount: float, **values: Any) -> PredictionOrder:
    row: dict[str, Any] = {"order_id": "o", "agent_id": "a", "market_id": "m", "side": side, "amount": amount}
    return PredictionOrder(**row | {"opened_at": at(5), "hypothetical": True} | values)


def values_of(order, path) -> dict[str, float]:
    found = price_predictions([order], {"m": path}, CLOCK)
    return {v.horizon: v.value for v in found if v.value is not None}


@given(events=paths, side=sides, amount=amounts, answer=answers)
def test_nothing_but_the_stake_can_be_lost(events, side, amount, answer):
    path = path_of(events, answer)
    _, shares = bought(path.pools[0], side, amount * (1 - FEE_RATE))
    assume(len({pool for pool in path.pools}) > 1)
    values = values_of(order_of(side, amount), path)
    assert values
    assert all(value >= -amount for value in values.values())


@given(pool=pools, side=sides, amount=amounts)
def test_a_market_in_which_nothing_happens_costs_both_fees(pool, side, amount):
    values = values_of(order_of(side, amount), path_of([(-30, pool)]))
    assert set(values) == {"1h", "24h"}
    for value in values.values():
        assert value == pytest.approx(amount * (1 - FEE_RATE) ** 2 - amount, rel=1e-6)


@given(pool=pools, side=sides, amount=amounts, other=amounts)
def test_money_on_the_same_side_helps_and_on_the_other_side_hurts(pool, side, amount, other):
    same, _ = bought(pool, side, other)
    against, _ = bought(pool, not side, other)
    still = values_of(order_of(side, amount), path_of([(-30, pool)]))["1h"]
    up = values_of(order_of(side, amount), path_of([(-30, pool), (20, same)]))["1h"]
    down = values_of(order_of(side, amount), path_of([(-30, pool), (20, against)]))["1h"]
    assert down <= still + 1e-6 * amount and still <= up + 1e-6 * amount


@given(events=paths, amount=amounts, answer=answers)
def test_yes_and_no_mirror_each_other(events, amount, answer):
    mirrored = [(minute, Pool(pool.no, pool.yes)) for minute, pool in events]
    yes = values_of(order_of(True, amount), path_of(events, answer))
    no = values_of(order_of(False, amount), path_of(mirrored, None if answer is None else not answer))
    assert yes.keys() == no.keys()
    for horizon, value in yes.items():
        assert no[horizon] == pytest.approx(value, rel=1e-6, abs=1e-6 * amount)


@given(pool=pools, side=sides, amount=amounts, answer=st.booleans(), minute=st.integers(6, 4000))
def test_a_share_pays_one_or_nothing_whenever_the_market_is_resolved(pool, side, amount, answer, minute):
    path = path_of([(-30, pool)], answer, minute)
    _, shares = bought(pool, side, amount * (1 - FEE_RATE))
    found = values_of(order_of(side, amount), path)
    assert found["resolution"] == pytest.approx((shares if side == answer else 0) - amount, rel=1e-9)
    assert (found["1h"] == found["resolution"]) or minute > 65


def _sizes(pool: Pool) -> tuple[float, float]:
    return pool.yes, pool.no


@given(events=paths, side=sides, amount=amounts, scale=st.floats(0.1, 10))
def test_only_relative_sizes_matter(events, side, amount, scale):
    pools = [pool for _, pool in events]
    for before, after in pairwise(pools):
        # Reserves have eight decimals; whether one moved must not hang on a rounding in the scaling.
        assume(
            all(
                old == new or abs(old - new) > 1e-6
                for old, new in zip(_sizes(before), _sizes(after), strict=True)
            )
        )
    scaled = [(minute, Pool(pool.yes * scale, pool.no * scale)) for minute, pool in events]
    one = values_of(order_of(side, amount), path_of(events))
    other = values_of(order_of(side, amount * scale), path_of(scaled))
    for horizon, value in one.items():
        assert other[horizon] == pytest.approx(value * scale, rel=1e-5, abs=1e-5 * amount * scale)
