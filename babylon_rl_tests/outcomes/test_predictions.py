"""Orders on prediction markets on a real database: at each horizon, at liquidation value, when resolved."""

from datetime import timedelta
from typing import Any

import pytest

from babylon_rl.outcomes.cpmm import FEE_RATE, Pool, bought, sold
from babylon_rl.outcomes.pricing import (
    HypotheticalOrder,
    OrderValue,
    load_order_values,
    value_hypothetical,
    value_orders,
)
from babylon_rl.records.reader import refresh_window_rows
from babylon_rl_tests.game_rows import (
    START,
    WINDOW,
    add_company,
    add_market,
    add_position,
    add_price,
    add_quote,
    add_trade,
    add_trajectory,
    add_user,
    at,
)

pytestmark = pytest.mark.anyio
DAY = timedelta(hours=24)
LATER = START + 5 * DAY
NET = 1 - FEE_RATE
AFTER, SHARES = bought(Pool(500, 500), True, 100 * NET)


async def quote(connection, pool: Pool, moment, market: str = "market-1", **values):
    await add_quote(
        connection, pool.yes_price, moment, market, yesShares=pool.yes, noShares=pool.no, **values
    )


@pytest.fixture
async def market(connection):
    """A market whose reserves were 500 and 500, one agent of the window, and prices until `LATER`."""
    await add_company(connection)
    await add_price(connection, 100, LATER)
    await add_market(connection)
    await quote(connection, Pool(500, 500), at(-60))
    await add_trajectory(connection, "agent-1")
    await refresh_window_rows(connection, connection)
    return connection


async def value(connection, now=LATER) -> dict[tuple[str, str], OrderValue]:
    values = await value_orders(connection, connection, WINDOW, now)
    found = {(v.order_id, v.horizon): v for v in values}
    assert found == {(v.order_id, v.horizon): v for v in await load_order_values(connection, WINDOW)}
    return found


async def test_an_order_is_worth_what_selling_it_would_bring(market):
    order = await add_trade(market, price=99.9 / SHARES)
    await quote(market, AFTER, at(5))
    up, _ = bought(AFTER, True, 50)
    await quote(market, up, at(40))
    await quote(market, AFTER, at(600))
    values = await value(market)
    _, proceeds = sold(up, True, SHARES)
    assert values[order, "1h"].value == pytest.approx(proceeds * NET - 100, abs=1e-4)
    # Back where the order left the market: the money comes back, and the fees are gone.
    assert values[order, "24h"].value == pytest.approx(99.9 * NET - 100, abs=1e-4)
    assert (values[order, "1h"].kind, values[order, "1h"].instrument, values[order, "1h"].side) == (
        "prediction",
        "market-1",
        "yes",
    )
    assert values[order, "1h"].matured and values[order, "24h"].matured


async def test_the_own_purchase_does_not_mark_the_order_up(market):
    """At the displayed price the position would stand at 0.59 x 83.26; nobody pays that, nor the odds."""
    order = await add_trade(market, price=99.9 / SHARES)
    await quote(market, AFTER, at(5))
    assert (await value(market))[order, "1h"].value == pytest.approx(99.9 * NET - 100, abs=1e-4)


@pytest.mark.parametrize(("side", "answer", "paid"), [("yes", True, 1), ("yes", False, 0), ("no", False, 1)])
async def test_a_resolution_pays_one_for_a_share_that_was_right(market, side, answer, paid):
    order = await add_trade(market, side=side, price=99.9 / SHARES)
    await quote(market, AFTER, at(5))
    await market.execute(
        'UPDATE "Market" SET "resolved" = true, "resolution" = $1, "updatedAt" = $2', answer, at(5000)
    )
    await quote(market, AFTER, at(4000), eventType="resolution", source="system")
    found = (await value(market))[order, "resolution"]
    assert found.value == pytest.approx(SHARES * paid - 100, abs=1e-4) and found.matured
    # 83.26 shares pay 83.26 USD: being right at one half costs money in this game (family 24).
    assert (found.value or 0.0) < 0


async def test_without_a_resolution_the_third_horizon_waits(market):
    order = await add_trade(market)
    found = (await value(market))[order, "resolution"]
    assert (found.value, found.matured) == (None, False)


async def test_a_resolution_before_the_horizon_ends_it(market):
    order = await add_trade(market, price=99.9 / SHARES)
    await market.execute(
        'UPDATE "Market" SET "resolved" = true, "resolution" = true, "updatedAt" = $1', at(30)
    )
    values = await value(market, at(40))
    for horizon in ("1h", "24h", "resolution"):
        assert values[order, horizon].value == pytest.approx(SHARES - 100, abs=1e-4)
        assert values[order, horizon].matured


async def test_resolved_without_an_answer_is_no_resolution(market):
    order = await add_trade(market, price=99.9 / SHARES)
    await quote(market, AFTER, at(5))
    await market.execute(
        'UPDATE "Market" SET "resolved" = true, "resolution" = NULL, "updatedAt" = $1', at(30)
    )
    values = await value(market)
    assert values[order, "resolution"].value is None and not values[order, "resolution"].matured
    assert values[order, "1h"].value == pytest.approx(99.9 * NET - 100, abs=1e-4)


@pytest.mark.parametrize("spelling", ["yes", "YES", "Yes", "true", "buy_yes"])
async def test_spellings_of_a_side(market, spelling):
    order = await add_trade(market, side=spelling)
    assert (await value(market))[order, "1h"].side == "yes"


async def test_what_has_no_side_no_price_or_no_market_has_no_value(market):
    odd = [
        await add_trade(market, side="maybe"),
        await add_trade(market, price=0.0),
        await add_trade(market, price=float("nan")),
        await add_trade(market, amount=0.0),
        await add_trade(market, market="market-of-yesterday"),
    ]
    values = await value(market)
    assert [values[order, "1h"].value for order in odd] == [None] * 5
    assert all(values[order, "1h"].matured for order in odd), "they do not keep the window waiting"


async def test_a_market_made_without_reserves_has_no_value(market):
    await add_market(market, "dead", yesShares=0, noShares=0)
    order = await add_trade(market, market="dead")
    assert (await value(market))[order, "24h"].value is None


async def test_what_was_sold_counts_with_what_it_brought(market):
    order = await add_trade(market, price=99.9 / SHARES)
    await quote(market, AFTER, at(5))
    await add_trade(market, action="close", amount=60.0, price=1.5, executedAt=at(20))
    values = await value(market)
    _, proceeds = sold(AFTER, True, SHARES - 40)
    one = values[order, "1h"]
    assert one.value == pytest.approx((60 + proceeds) * NET - 100, abs=1e-4)
    assert one.closed_at == at(20) and one.held == pytest.approx(99.9 * NET - 100, abs=1e-4)
    assert one.opening + one.closing == pytest.approx(one.value)


async def test_inherited_shares_are_sold_first_and_are_no_orders_of_the_window(market):
    await add_trade(market, price=1.0, amount=50 / NET, executedAt=at(-100))
    order = await add_trade(market, price=99.9 / SHARES)
    await quote(market, AFTER, at(5))
    await add_trade(market, action="close", amount=50.0, price=1.0, executedAt=at(20))
    values = await value(market)
    assert {key[0] for key in values} == {order}
    assert values[order, "1h"].value == pytest.approx(99.9 * NET - 100, abs=1e-4)


async def test_an_order_that_was_sold_out_is_final(market):
    order = await add_trade(market, price=1.0, amount=100 / NET)
    await add_trade(market, action="close", amount=120.0, price=1.2, executedAt=at(20))
    values = await value(market, at(30))
    assert values[order, "resolution"].value == pytest.approx(120 * NET - 100 / NET)
    assert values[order, "resolution"].matured


async def test_a_position_that_no_trade_explains_is_an_order(market):
    explained = await add_trade(market, price=99.9 / SHARES)
    await add_position(market, createdAt=at(5, seconds=1))
    await add_market(market, "market-2")
    alone = await add_position(market, market="market-2")
    resolved = await add_position(
        market, market="market-2", side=False, shares=0, amount=99.9, status="resolved", createdAt=at(50)
    )
    await add_position(market, market="market-2", createdAt=at(-5))
    values = await value(market)
    assert {order for order, _ in values} == {explained, alone, resolved}
    assert values[alone, "1h"].size == pytest.approx(100, abs=0.01)
    assert values[resolved, "1h"].side == "no"


async def test_only_the_windows_agents_and_only_predictions(market):
    await add_user(market, "npc", isActor=True)
    await add_trade(market, "npc")
    await add_trade(market, marketType="perp", market=None, ticker="Aurum", side="long")
    await add_trade(market, executedAt=at(60))
    assert await value(market) == {}


async def test_trades_that_leave_no_history_show_in_the_present_reserves(market):
    """Agents in database mode add their shares to the bought side and write no price history."""
    order = await add_trade(market, price=99.9 / SHARES)
    await market.execute(
        'UPDATE "Market" SET "yesShares" = 583.26, "noShares" = 500, "updatedAt" = $1', at(6)
    )
    _, proceeds = sold(Pool(583.26, 500), True, SHARES)
    assert (await value(market))[order, "1h"].value == pytest.approx(proceeds * NET - 100, abs=1e-4)


# Hypothetical orders


def could_buy(size: float = 100, **values: Any) -> HypotheticalOrder:
    order: dict[str, Any] = {
        "order_id": "h",
        "kind": "prediction",
        "instrument": "market-1",
        "side": "YES",
        "at": at(5),
    }
    return HypotheticalOrder(size=size, **(order | values))


def could_open(size: float = 500, **values: Any) -> HypotheticalOrder:
    order: dict[str, Any] = {
        "order_id": "h",
        "kind": "perp",
        "instrument": "$AURUM",
        "side": "LONG",
        "at": at(5),
    }
    return HypotheticalOrder(size=size, leverage=10, **(order | values))


async def hypothetical(connection, order: HypotheticalOrder, now=LATER) -> dict[str, OrderValue]:
    return {v.horizon: v for v in await value_hypothetical(connection, [order], now)}


async def test_a_hypothetical_purchase_in_a_quiet_market_loses_its_fees(market):
    values = await hypothetical(market, could_buy())
    assert values["1h"].value == pytest.approx(99.9 * NET - 100, abs=1e-4)
    assert values["24h"].value == values["1h"].value
    assert values["resolution"].value is None
    assert await market.fetchval("SELECT count(*) FROM rl.order_value") == 0, "nothing is stored"


async def test_a_hypothetical_order_keeps_its_impact_among_the_trades_of_others(market):
    recorded, _ = bought(Pool(500, 500), True, 200)
    await quote(market, recorded, at(30))
    found = (await hypothetical(market, could_buy()))["1h"].value or 0.0
    counterfactual, _ = bought(AFTER, True, 200)
    _, proceeds = sold(counterfactual, True, SHARES)
    assert found == pytest.approx(proceeds * NET - 100, abs=1e-3)
    _, without_impact = sold(recorded, True, SHARES)
    assert found > without_impact * NET - 100


async def test_a_hypothetical_and_the_recorded_order_it_describes_are_worth_the_same(market):
    order = await add_trade(market, price=99.9 / SHARES)
    imagined = (await hypothetical(market, could_buy()))["1h"].value
    await quote(market, AFTER, at(5, seconds=1))
    recorded = (await value(market))[order, "1h"].value
    assert recorded == pytest.approx(imagined, abs=1e-3)


async def test_before_the_first_trade_a_market_had_equal_reserves(market):
    await add_market(market, "market-2", yesShares=0, noShares=0)
    await quote(market, AFTER, at(30), "market-2")
    values = await hypothetical(market, could_buy(instrument="market-2"))
    assert (values["1h"].value or -100) > 99.9 * NET - 100


async def test_hypothetical_perpetuals_enter_at_the_recorded_price_in_any_spelling(market):
    await add_price(market, 100, at(-30))
    await add_price(market, 103, at(40))
    for spelling in ("$AURUM", "aurum", "Aurum", "AURUM"):
        values = await hypothetical(market, could_open(instrument=spelling))
        assert values["1h"].value == pytest.approx(14)
    short = await hypothetical(market, could_open(side="open_short"))
    assert short["1h"].value == pytest.approx(-16)


async def test_what_could_not_have_been_ordered_has_no_value(market):
    await add_price(market, 100, at(-30))
    impossible = [
        could_buy(instrument="nowhere"),
        could_buy(side="perhaps"),
        could_buy(size=-5),
        could_buy(at=START - timedelta(days=40)),
        could_open(instrument="nobody"),
        could_open(side="sideways"),
        could_open(at=START - timedelta(days=40)),
        could_open(size=0),
    ]
    values = await value_hypothetical(market, impossible, LATER)
    assert [v.value for v in values] == [None] * len(values) and len(values) == 4 * 3 + 4 * 2
    assert await value_hypothetical(market, []) == []


async def test_nobody_buys_in_a_market_that_is_resolved(market):
    await market.execute(
        'UPDATE "Market" SET "resolved" = true, "resolution" = true, "updatedAt" = $1', at(1)
    )
    assert (await hypothetical(market, could_buy()))["1h"].value is None


async def test_a_horizon_needs_prices_beyond_it(market):
    await market.execute('DELETE FROM "StockPrice"')
    assert not (await hypothetical(market, could_buy()))["1h"].matured
    await quote(market, Pool(500, 500), at(66))
    values = await hypothetical(market, could_buy())
    assert values["1h"].matured and not values["24h"].matured
