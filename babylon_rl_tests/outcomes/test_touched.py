"""Coverage: whatever the window's agents named or traded is in its outcomes, resolved, open or unknown."""

import pytest

from babylon_rl.outcomes.market import derive_outcomes, touched_instruments
from babylon_rl.records.reader import refresh_window_rows
from babylon_rl_tests.game_rows import (
    WINDOW,
    add_company,
    add_market,
    add_order,
    add_quote,
    add_trade,
    add_trajectory,
    at,
    insert,
    step,
)

pytestmark = pytest.mark.anyio


def named(**parameters):
    return step(action={"actionType": "TRADING_DECISION", "parameters": parameters, "success": True})


async def outcomes_of(connection):
    await refresh_window_rows(connection, connection)
    touched = await touched_instruments(connection, connection, WINDOW)
    return touched, await derive_outcomes(connection, WINDOW, touched=touched)


async def test_markets_of_trades_positions_and_recorded_actions_are_covered(connection):
    await add_company(connection)
    for market in ("market-1", "market-2", "market-3"):
        # Resolved before the window, so that only the agents' interest brings them in.
        await add_market(connection, market, resolved=True, resolution=True, updatedAt=at(-300))
    await add_trade(connection, market="market-1")
    await insert(
        connection,
        "Position",
        id="p",
        userId="agent-1",
        marketId="market-2",
        side=True,
        shares=1,
        avgPrice=1,
        createdAt=at(3),
        updatedAt=at(3),
    )
    await add_trajectory(connection, steps=[named(marketId="market-3"), named(ticker="$AURUM", side="long")])
    touched, outcomes = await outcomes_of(connection)
    assert touched == ["$AURUM", "market-1", "market-2", "market-3"]
    assert [market.market_id for market in outcomes.predictions] == ["market-1", "market-2", "market-3"]
    for market in outcomes.predictions:
        assert market.outcome == "YES" and "resolved_before" in market.flags
    assert outcomes.unknown == []


async def test_deleted_markets_and_unknown_tickers_are_named(connection):
    await add_company(connection)
    await add_trade(connection, market="market-of-yesterday")
    await add_order(connection, ticker="$BTC", organizationId="?")
    await add_trajectory(connection, steps=[named(market="Will it rain?"), named(ticker="Aurum")])
    _, outcomes = await outcomes_of(connection)
    assert outcomes.unknown == ["$BTC", "Will it rain?", "market-of-yesterday"]


async def test_rows_of_npcs_and_of_other_windows_touch_nothing(connection):
    await add_trajectory(connection, steps=[named(marketId="m-1")], windowId="2026-10-01T15:00")
    await add_trajectory(connection, steps=[named(marketId="m-2")], isEvaluation=True)
    await add_trajectory(connection, steps=[step()])
    touched, _ = await outcomes_of(connection)
    assert touched == []


async def test_what_npcs_and_agents_trade_is_volume(connection):
    await add_company(connection)
    await add_market(connection)
    await add_trade(connection, amount=100.0)
    await add_trade(connection, amount=float("nan"))
    npc = {"npcActorId": "npc", "action": "buy_yes", "executedAt": at(10)}
    await insert(
        connection, "NPCTrade", id="1", marketType="prediction", marketId="market-1", amount=40.0, price=62.0,
        **npc,
    )  # fmt: skip
    await insert(
        connection, "NPCTrade", id="2", marketType="perp", ticker="aurum", amount=250.0, price=100.0, **npc
    )
    await add_trajectory(connection)
    _, outcomes = await outcomes_of(connection)
    assert outcomes.predictions[0].volume == 140
    assert outcomes.stocks[0].volume == 250


async def test_prices_in_cents_are_read_as_probabilities(connection):
    await add_market(connection)
    await add_quote(connection, 62.0, at(10), source="npc_trade")
    _, outcomes = await outcomes_of(connection)
    assert outcomes.predictions[0].final_probability == 0.62


async def test_a_text_that_two_markets_share_dates_neither(connection):
    for market in ("market-1", "market-2"):
        await add_market(
            connection, market, question="Will it happen?", resolved=True, resolution=True, updatedAt=at(40)
        )
    question = {"questionNumber": 7, "scenarioId": 1, "outcome": True, "rank": 1, "status": "resolved"}
    await insert(
        connection, "Question", id="question-7", text="Will it happen?", resolutionDate=at(0),
        updatedAt=at(20), **question,
    )  # fmt: skip
    _, outcomes = await outcomes_of(connection)
    assert [(m.market_id, m.flags[0]) for m in outcomes.predictions] == [
        ("market-1", "time_from:market"),
        ("market-2", "time_from:market"),
    ]


async def test_a_question_that_was_closed_without_its_market_is_told(connection):
    await add_market(connection)
    question = {"questionNumber": 7, "scenarioId": 1, "outcome": True, "rank": 1, "status": "resolved"}
    await insert(
        connection, "Question", id="market-1", text="Will market-1 happen?", resolutionDate=at(0),
        updatedAt=at(20), **question,
    )  # fmt: skip
    _, outcomes = await outcomes_of(connection)
    (market,) = outcomes.predictions
    assert market.outcome == "UNRESOLVED" and "question_closed_market_open" in market.flags
