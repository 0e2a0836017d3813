"""The hidden cases of markets and orders (`babylon.md` section 8), each with the row that provokes it."""

import math
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from babylon_rl.outcomes.market import derive_outcomes
from babylon_rl.outcomes.pricing import HypotheticalOrder, value_hypothetical, value_orders
from babylon_rl.outcomes.sync import sync_window
from babylon_rl.records.reader import refresh_window_rows
from babylon_rl_tests.game_rows import (
    START,
    WINDOW,
    add_company,
    add_market,
    add_order,
    add_position,
    add_price,
    add_question,
    add_quote,
    add_trade,
    add_trajectory,
    add_user,
    at,
    insert,
)

pytestmark = pytest.mark.anyio
NOW = START + timedelta(days=10)


async def outcomes(db, window: str = WINDOW):
    await refresh_window_rows(db.game, db.rl)
    return (await sync_window(db.game, db.rl, window, now=NOW)).outcomes


async def shown(connection) -> dict[str, dict]:
    rows = await connection.fetch('SELECT * FROM "market_outcomes" ORDER BY "id"')
    return {row["stockTicker"] or row["predictionMarketId"]: dict(row) for row in rows}


async def test_family_08_what_the_columns_cannot_hold_is_clipped_with_a_flag(connection, db):
    long_name = "effective-authoritarianism"  # 26 letters, and the column has 20
    for company, start, end in (
        ("moon", 1.0, 11.0),
        ("giant", 2e8, 2e8),
        ("dust", 0.004, 0.004),
        (long_name, 100.0, 100.0),
    ):
        await add_company(connection, company)
        await add_price(connection, start, at(-1), company)
        await add_price(connection, end, at(30), company)
    found = {stock.organization_id: stock for stock in (await outcomes(db)).stocks}
    assert found["moon"].change_percent == 1000 and found["moon"].flags == ["clipped:changePercent"]
    assert found["giant"].flags == ["clipped:startPrice", "clipped:endPrice"]
    assert found["dust"].change_percent == 0 and found["dust"].start_price == 0.004
    rows = await shown(connection)
    assert rows["MOON"]["changePercent"] == Decimal("999.99")
    assert rows["GIANT"]["startPrice"] == Decimal("99999999.99")
    assert rows["DUST"]["startPrice"] == 0
    assert "EFFECTIVEAUT" in rows


async def test_family_09_zero_prices_no_prices_echoes_and_equal_times(connection, db):
    for company in ("zero", "none", "echo", "tie"):
        await add_company(connection, company, initial=None)
    await add_price(connection, 0.0, at(-1), "zero")
    await add_price(connection, 5.0, at(10), "zero")
    await add_price(connection, 10.0, at(-1), "echo")
    for minute, price in ((10, 11.0), (20, 12.0)):
        await add_price(connection, price, at(minute), "echo")
        await add_price(connection, price, at(minute), "echo", change=0.0, changePercent=0.0)
    await add_price(connection, 1.0, at(-1), "tie")
    await add_price(connection, 3.0, at(10), "tie", id="z-last")
    await add_price(connection, 2.0, at(10), "tie", id="a-first")
    found = {stock.organization_id: stock for stock in (await outcomes(db)).stocks}
    assert (found["zero"].start_price, found["zero"].flags) == (5.0, ["start_is_first_inside"])
    assert (found["none"].start_price, found["none"].change_percent) == (None, None)
    assert found["none"].flags == ["no_prices"] and found["none"].sentiment == "NEUTRAL"
    assert (found["echo"].moves, found["echo"].end_price) == (2, 12.0)
    assert found["tie"].end_price == 3.0


async def test_family_10_markets_without_an_answer_are_explicitly_unresolved(connection, db):
    await add_market(connection, "open")
    await add_market(connection, "lost", resolved=True, resolution=None, updatedAt=at(30))
    await add_market(connection, "half-way")
    await add_question(connection, "half-way", status="resolved", resolvedOutcome=None, updatedAt=at(10))
    for market in ("twin-1", "twin-2"):
        await add_market(
            connection, market, question="Same words?", resolved=True, resolution=False, updatedAt=at(40)
        )
    await add_question(connection, "q-17", text="Same words?", status="resolved", updatedAt=at(1))
    await add_market(
        connection, "renamed", question="By text", resolved=True, resolution=True, updatedAt=at(50)
    )
    await add_question(connection, "q-18", text="By text", status="resolved", updatedAt=at(20))
    await add_trajectory(connection)
    await add_trade(connection, market="deleted")
    found = await outcomes(db)
    by_id = {market.market_id: market for market in found.predictions}
    assert {name: market.outcome for name, market in by_id.items()} == {
        "open": "UNRESOLVED",
        "lost": "UNRESOLVED",
        "half-way": "UNRESOLVED",
        "twin-1": "NO",
        "twin-2": "NO",
        "renamed": "YES",
    }
    assert "resolved_without_answer" in by_id["lost"].flags
    assert "question_closed_market_open" in by_id["half-way"].flags
    assert by_id["twin-1"].flags[0] == "time_from:market", "a shared text dates neither"
    assert (by_id["renamed"].resolved_at, by_id["renamed"].flags[0]) == (at(20), "time_from:question")
    assert found.unknown == ["deleted"]
    rows = await connection.fetch("SELECT market_id, outcome FROM rl.market_resolutions ORDER BY market_id")
    assert [tuple(row) for row in rows] == [("renamed", "YES"), ("twin-1", "NO"), ("twin-2", "NO")]
    assert (await shown(connection))["open"]["outcome"] == "UNRESOLVED"


async def test_family_11_a_resolution_counts_in_its_own_hour_whatever_moves_updated_at(connection, db):
    resolved = START + timedelta(days=3, minutes=7)
    await add_market(
        connection,
        resolved=True,
        resolution=True,
        updatedAt=resolved + timedelta(hours=9),
        onChainResolved=True,
    )
    await add_quote(connection, 0.7, at(10))
    await add_quote(connection, 0.93, resolved, eventType="resolution", source="system")
    at_trade = (await outcomes(db)).predictions[0]
    assert (at_trade.outcome, at_trade.final_probability) == ("UNRESOLVED", 0.7)
    own = (await outcomes(db, "2026-10-04T14:00")).predictions[0]
    assert (own.outcome, own.resolved_at, own.final_probability) == ("YES", resolved, 0.7)
    assert (await outcomes(db, "2026-10-04T23:00")).predictions == [], "the on-chain update is no resolution"


async def test_family_16_repeated_exports_leave_one_row_per_instrument(connection, db):
    await add_company(connection)
    for number in ("theirs-1", "theirs-2"):
        await insert(connection, "market_outcomes", id=number, windowId=WINDOW, stockTicker="AURUM")
    await outcomes(db)
    await outcomes(db)
    rows = await connection.fetch('SELECT "id" FROM "market_outcomes" WHERE "stockTicker" = \'AURUM\'')
    ours = [row["id"] for row in rows if row["id"].startswith("babylon-rl-")]
    assert len(ours) == 1 and len(rows) == 3, "and the rows of other writers are left alone"


async def test_family_17_positions_without_a_user_and_rows_of_strangers_pay_nobody(connection, db):
    await add_company(connection)
    await add_price(connection, 100, NOW)
    await add_trajectory(connection, "agent-1")
    order = await add_order(connection, "agent-1")
    await add_order(connection, "nobody-in-particular")
    await refresh_window_rows(db.game, db.rl)
    values = await value_orders(db.game, db.rl, WINDOW, NOW)
    assert {value.order_id for value in values} == {order}


@pytest.mark.parametrize("side", ["long", "LONG", "Long", " long "])
@pytest.mark.parametrize("ticker", ["$WASHINGTONPOST", "washington-post", "The Post", "WASHINGTONPO"])
async def test_family_22_spellings_of_side_and_ticker(connection, db, side, ticker):
    await add_company(connection, "washington-post", name="The Post")
    await add_price(connection, 100, at(-1), "washington-post")
    await add_price(connection, 103, at(30), "washington-post")
    await add_price(connection, 103, NOW, "washington-post")
    await add_trajectory(connection)
    order = await add_order(connection, ticker=ticker, organizationId="?", side=side)
    await refresh_window_rows(db.game, db.rl)
    values = await value_orders(db.game, db.rl, WINDOW, NOW)
    found = next(value for value in values if (value.order_id, value.horizon) == (order, "1h"))
    assert (found.instrument, found.side, found.value) == ("WASHINGTONPO", "long", pytest.approx(14))


@pytest.mark.parametrize("side", ["YES", "yes", "true", "buy_yes"])
async def test_family_22_spellings_of_a_prediction_s_side(connection, db, side):
    await add_market(connection)
    await add_price_of_game(connection)
    await add_trajectory(connection)
    order = await add_trade(connection, side=side)
    await refresh_window_rows(db.game, db.rl)
    values = await value_orders(db.game, db.rl, WINDOW, NOW)
    assert {(v.order_id, v.side) for v in values} == {(order, "yes")}
    assert all(v.value is not None for v in values if v.horizon != "resolution")


async def add_price_of_game(connection) -> None:
    await add_company(connection)
    await add_price(connection, 100, NOW)


async def test_family_22_engine_tickers_that_collide_mean_neither(connection, db):
    for company in ("washington-post", "washington-porto"):
        await add_company(connection, company)
        await add_price(connection, 50, at(-1), company)
    await add_price(connection, 80, at(30), "washington-post")
    await add_price(connection, 50, NOW, "washington-post")
    await add_trajectory(connection)
    entry: dict[str, Any] = {"entryPrice": 50.0, "liquidationPrice": 45.5}
    order = await add_order(connection, ticker="WASHINGTONPO", organizationId="?", **entry)
    exact = await add_order(connection, ticker="WASHINGTONPO", organizationId="washington-post", **entry)
    await refresh_window_rows(db.game, db.rl)
    values = {
        v.order_id: v.value for v in await value_orders(db.game, db.rl, WINDOW, NOW) if v.horizon == "1h"
    }
    assert values == {order: -1.0, exact: pytest.approx(299)}, "nobody's price is guessed"
    flags = {stock.organization_id: stock.flags for stock in (await outcomes(db)).stocks}
    assert "ticker_shared" in flags["washington-post"]


async def test_family_23_cents_beside_probabilities_and_costs_above_one(connection, db):
    await add_market(connection)
    await add_user(connection, "npc", isActor=True)
    npc = {"npcActorId": "npc", "marketType": "prediction", "marketId": "market-1", "action": "buy_yes"}
    await insert(connection, "NPCTrade", id="1", amount=30.0, price=62.0, executedAt=at(10), **npc)
    await add_quote(connection, 62.0, at(10), source="npc_trade")
    await add_price_of_game(connection)
    await add_trajectory(connection)
    order = await add_trade(connection, price=1.1998)
    found = (await outcomes(db)).predictions[0]
    assert (found.final_probability, found.volume) == (0.62, 130.0)
    values = await value_orders(db.game, db.rl, WINDOW, NOW)
    worth = next(v.value for v in values if (v.order_id, v.horizon) == (order, "1h"))
    assert worth is not None and -100 < worth < 0, "83 shares at 1.1998, which is no price in cents"


@pytest.mark.parametrize("amount", [math.nan, math.inf, 0.0, -5.0])
async def test_family_07_amounts_that_are_none_never_enter_a_sum(connection, db, amount):
    await add_market(connection)
    await add_price_of_game(connection)
    await add_trajectory(connection)
    await add_trade(connection, amount=amount)
    good = await add_position(connection, side=False)
    await refresh_window_rows(db.game, db.rl)
    values = [v for v in await value_orders(db.game, db.rl, WINDOW, NOW) if v.horizon == "1h"]
    assert [v.order_id for v in values if v.value is not None] == [good]
    total = await connection.fetchval("SELECT sum(value) FROM rl.order_value")
    assert math.isfinite(total)
    assert (await outcomes(db)).predictions[0].volume == 0.0


async def test_the_hidden_answer_moves_nothing(connection, db):
    """`Question.outcome` is there from the creation; neither outcomes nor values may depend on it."""
    await add_market(connection)
    await add_question(connection, "market-1", outcome=True)
    await add_price_of_game(connection)
    await add_trajectory(connection)
    await add_trade(connection)
    first = (await outcomes(db)).sha256, await value_orders(db.game, db.rl, WINDOW, NOW)
    order: dict[str, Any] = {"order_id": "h", "kind": "prediction", "instrument": "market-1", "side": "no"}
    imagined = [HypotheticalOrder(size=9, at=at(9), **order)]
    before = await value_hypothetical(db.game, imagined, NOW)
    await connection.execute('UPDATE "Question" SET "outcome" = false')
    assert first == ((await outcomes(db)).sha256, await value_orders(db.game, db.rl, WINDOW, NOW))
    assert before == await value_hypothetical(db.game, imagined, NOW)
    assert (await derive_outcomes(db.game, WINDOW)).predictions[0].outcome == "UNRESOLVED"
