"""Orders of a window on a real database: which ones count, at which horizon, and what they were worth."""

import asyncio
from datetime import timedelta

import pytest

from babylon_rl.database.connection import connect
from babylon_rl.outcomes.pricing import OrderValue, load_order_values, value_orders
from babylon_rl.records.reader import refresh_window_rows
from babylon_rl_tests.game_rows import (
    START,
    WINDOW,
    add_company,
    add_order,
    add_price,
    add_trajectory,
    add_user,
    at,
)

pytestmark = pytest.mark.anyio
DAY = timedelta(hours=24)
LATER = START + 2 * DAY


@pytest.fixture
async def market(connection):
    """One company at 100 and one agent with a trajectory in the window."""
    await add_company(connection)
    await add_price(connection, 100, at(-10))
    await add_trajectory(connection, "agent-1")
    await refresh_window_rows(connection, connection)
    return connection


async def value(connection, now=LATER) -> dict[tuple[str, str], OrderValue]:
    values = await value_orders(connection, connection, WINDOW, now)
    assert values == await load_order_values(connection, WINDOW)
    return {(v.order_id, v.horizon): v for v in values}


async def test_value_at_each_horizon_net_of_both_fees(market):
    order = await add_order(market, openedAt=at(5))
    await add_price(market, 95, at(30))
    await add_price(market, 102, at(65))
    await add_price(market, 110, at(65, seconds=1))
    await add_price(market, 104, at(5) + DAY)
    await add_price(market, 120, LATER)
    values = await value(market)
    assert values[order, "1h"].value == pytest.approx(500 * 0.02 - 1)
    assert values[order, "24h"].value == pytest.approx(500 * 0.04 - 1)
    assert values[order, "1h"].instrument == "AURUM" and values[order, "1h"].window_id == WINDOW
    assert all(v.matured and not v.liquidated for v in values.values())


async def test_liquidation_on_the_way_loses_the_margin(market):
    long = await add_order(market)
    short = await add_order(market, side="SHORT", liquidationPrice=109.0)
    await add_price(market, 90.9, at(20))
    await add_price(market, 130, at(21))
    await add_price(market, 130, LATER)
    values = await value(market)
    assert values[long, "1h"].value == values[long, "24h"].value == -50.5
    assert values[short, "1h"].value == -50.5 and values[short, "1h"].liquidated


async def test_an_order_closed_earlier_is_worth_what_it_was_then(market):
    order = await add_order(market, closedAt=at(25))
    await add_price(market, 103, at(25))
    await add_price(market, 150, at(40))
    values = await value(market)
    assert values[order, "1h"].value == values[order, "24h"].value == pytest.approx(14)
    assert values[order, "24h"].matured


async def test_closing_early_has_a_value_of_its_own(market):
    order = await add_order(market, openedAt=at(5), closedAt=at(25))
    late = await add_order(market, openedAt=at(5), closedAt=at(65))
    await add_price(market, 103, at(25))
    await add_price(market, 98, at(64))
    soon = await value(market, at(50))
    assert (soon[order, "1h"].held, soon[order, "1h"].opening) == (None, pytest.approx(14))
    await add_price(market, 98, LATER)
    one = (await value(market))[order, "1h"]
    assert one.closed_at == at(25) and one.value == pytest.approx(14)
    assert one.opening == one.held == pytest.approx(-11), "held, it would have lost"
    assert one.opening + one.closing == pytest.approx(one.value) and one.closing == pytest.approx(25)
    at_the_horizon = (await value(market))[late, "1h"]
    assert at_the_horizon.closed_at is None and at_the_horizon.closing == 0


async def test_what_the_engine_liquidated_nobody_closed(market):
    order = await add_order(market, closedAt=at(21))
    await add_price(market, 90.9, at(20))
    await add_price(market, 130, LATER)
    one = (await value(market))[order, "1h"]
    assert (one.liquidated, one.closed_at, one.closing) == (True, None, 0)


@pytest.mark.parametrize(
    ("opened", "counts"),
    [(at(0), True), (at(60) - timedelta(milliseconds=1), True), (at(60), False), (at(-0.001), False)],
)
async def test_an_order_belongs_to_the_window_it_was_opened_in(market, opened, counts):
    await add_order(market, openedAt=opened)
    await add_price(market, 101, LATER)
    assert bool(await value(market)) is counts


async def test_only_orders_of_the_windows_agents_count(market):
    await add_user(market, "npc", isActor=True)
    await add_order(market, "npc")
    await add_order(market, "nobody")
    await add_price(market, 101, LATER)
    assert await value(market) == {}


@pytest.mark.parametrize(
    ("now", "recorded", "matured"),
    [
        (at(70), at(65), {"1h": True, "24h": False}),
        (at(69), at(65), {"1h": False, "24h": False}),
        (LATER, at(64), {"1h": False, "24h": False}),
        (LATER, LATER, {"1h": True, "24h": True}),
    ],
)
async def test_a_horizon_matures_when_clock_and_prices_have_passed_it(market, now, recorded, matured):
    order = await add_order(market, openedAt=at(5))
    await add_price(market, 101, recorded)
    values = await value(market, now)
    assert {horizon: values[order, horizon].matured for horizon in ("1h", "24h")} == matured


async def test_valuing_again_replaces_and_never_adds(market):
    order = await add_order(market)
    await add_price(market, 102, at(65))
    first = await value(market, at(40))
    assert not first[order, "1h"].matured
    await add_price(market, 110, LATER)
    assert (await value(market))[order, "1h"].matured
    stamp = await market.fetchval("SELECT max(valued_at) FROM rl.order_value")
    await value(market)
    assert await market.fetchval("SELECT count(*) FROM rl.order_value") == 2
    assert await market.fetchval("SELECT max(valued_at) FROM rl.order_value") == stamp
    await market.execute('DELETE FROM "PerpPosition"')
    assert await value(market) == {}


@pytest.mark.parametrize(
    "bad",
    [{"size": 0.0}, {"size": float("nan")}, {"leverage": 0}, {"entryPrice": 0.0}, {"side": "sideways"}],
)
async def test_an_order_without_a_value_says_so(market, bad):
    order = await add_order(market, **bad)
    good = await add_order(market)
    await add_price(market, 102, at(65))
    await add_price(market, 102, LATER)
    values = await value_orders(market, market, WINDOW, LATER)
    found = {v.order_id: v.value for v in values if v.horizon == "1h"}
    assert found == {order: None, good: pytest.approx(9)}


@pytest.mark.parametrize("spelling", ["$AURUM", "aurum", "Aurum", "AURUM"])
async def test_all_spellings_of_an_asset_find_its_prices(market, spelling):
    order = await add_order(market, ticker=spelling, organizationId="unknown")
    await add_price(market, 102, at(65))
    await add_price(market, 102, LATER)
    found = (await value(market))[order, "1h"]
    assert (found.instrument, found.value) == ("AURUM", pytest.approx(9))


async def test_prices_that_are_none_are_left_out(market):
    order = await add_order(market)
    await add_price(market, 102, at(10))
    for worthless in (float("nan"), float("inf"), 0.0, -5.0):
        await add_price(market, worthless, at(20))
    await add_price(market, 102, LATER)
    assert (await value(market))[order, "1h"].value == pytest.approx(9)


async def test_prices_of_one_millisecond_count_in_the_order_of_their_ids(market):
    order = await add_order(market)
    await add_price(market, 105, at(65), id="b")
    await add_price(market, 101, at(65), id="a")
    await add_price(market, 100, LATER)
    assert (await value(market))[order, "1h"].value == pytest.approx(24)


async def test_without_any_price_nothing_moved_and_nothing_matured(market):
    await market.execute('DELETE FROM "StockPrice"')
    order = await add_order(market)
    found = (await value(market))[order, "1h"]
    assert found.value == -1 and not found.matured


async def test_two_valuations_at_once(market, dsn):
    for _ in range(20):
        await add_order(market)
    await add_price(market, 102, LATER)
    other = await connect(dsn)
    try:
        await asyncio.gather(
            value_orders(market, market, WINDOW, LATER), value_orders(other, other, WINDOW, LATER)
        )
    finally:
        await other.close()
    assert len(await value(market)) == 40
