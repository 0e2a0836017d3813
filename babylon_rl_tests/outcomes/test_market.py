"""Market outcomes on a real database: right at the edges of the hour, explicit where nothing is known."""

from datetime import timedelta

import pytest

from babylon_rl import windows
from babylon_rl.outcomes.market import OpenWindowError, derive_outcomes
from babylon_rl_tests.game_rows import (
    START,
    WINDOW,
    add_company,
    add_market,
    add_order,
    add_price,
    add_quote,
    add_user,
    at,
    insert,
)

pytestmark = pytest.mark.anyio
END = at(60)


async def stock(connection, organization="aurum"):
    outcomes = await derive_outcomes(connection, WINDOW)
    return next(found for found in outcomes.stocks if found.organization_id == organization)


async def predictions(connection, window=WINDOW):
    return {found.market_id: found for found in (await derive_outcomes(connection, window)).predictions}


async def test_a_stock_from_the_last_price_before_to_the_last_price_inside(connection):
    await add_company(connection)
    for price, moment in ((90, at(-30)), (100, at(0)), (107, at(10)), (104, at(59)), (200, END)):
        await add_price(connection, price, moment)
    found = await stock(connection)
    assert (found.start_price, found.end_price, found.sentiment) == (100, 104, "BULLISH")
    assert found.change_percent == pytest.approx(4)
    assert found.moves == 2 and found.flags == []


async def test_the_engines_repeated_rows_are_no_moves(connection):
    await add_company(connection)
    await add_price(connection, 100, at(-1))
    for minute in (10, 20):
        await add_price(connection, 100 - minute, at(minute))
        await add_price(connection, 100 - minute, at(minute), change=0.0)
    found = await stock(connection)
    assert found.moves == 2 and found.end_price == 80 and found.sentiment == "BEARISH"


@pytest.mark.parametrize(
    ("prices", "initial", "start", "end", "flags"),
    [
        ([], 100.0, 100, 100, ["start_is_initial"]),
        ([], None, None, None, ["no_prices"]),
        ([(50, at(10)), (60, at(20))], None, 50, 60, ["start_is_first_inside"]),
        ([(50, at(10))], 0.0, 50, 50, ["start_is_first_inside"]),
        ([(0.0, at(-1)), (50, at(10))], 40.0, 40, 50, ["start_is_initial"]),
        ([(float("nan"), at(-1)), (float("inf"), at(5))], 40.0, 40, 40, ["start_is_initial"]),
    ],
)
async def test_missing_and_worthless_prices(connection, prices, initial, start, end, flags):
    await add_company(connection, initial=initial)
    for price, moment in prices:
        await add_price(connection, price, moment)
    found = await stock(connection)
    assert (found.start_price, found.end_price, found.flags) == (start, end, flags)
    assert start is not None or found.change_percent is None


async def test_prices_of_one_millisecond_count_in_the_order_of_their_ids(connection):
    await add_company(connection)
    await add_price(connection, 100, at(-1))
    await add_price(connection, 120, at(30), id="b")
    await add_price(connection, 110, at(30), id="a")
    assert (await stock(connection)).end_price == 120


@pytest.mark.parametrize(
    ("price", "sentiment"),
    [(100.5, "NEUTRAL"), (100.51, "BULLISH"), (99.5, "NEUTRAL"), (99.49, "BEARISH"), (100, "NEUTRAL")],
)
async def test_sentiment_needs_more_than_half_a_percent(connection, price, sentiment):
    await add_company(connection)
    await add_price(connection, 100, at(-1))
    await add_price(connection, price, at(30))
    assert (await stock(connection)).sentiment == sentiment


async def test_volume_counts_openings_and_closings_inside(connection):
    await add_company(connection)
    await add_order(connection, size=500.0, openedAt=at(5), closedAt=at(20))
    await add_order(connection, size=100.0, openedAt=at(-5), closedAt=at(0))
    await add_order(connection, size=30.0, openedAt=at(10), closedAt=END, ticker="Aurum", organizationId="?")
    await add_order(connection, size=float("nan"), openedAt=at(10))
    assert (await stock(connection)).volume == 500 + 500 + 100 + 30


async def test_media_and_governments_are_no_stocks(connection):
    await add_company(connection, "times", type="media")
    assert (await derive_outcomes(connection, WINDOW)).stocks == []


async def test_news_are_public_events_and_articles_of_the_hour(connection):
    await add_company(connection)
    await add_company(connection, "boreal")
    event = {"eventType": "leak", "actors": ["boreal"]}
    await insert(connection, "WorldEvent", id="1", description="A plant closed", timestamp=at(5), **event)
    await insert(connection, "WorldEvent", id="2", description="$AURUM!", timestamp=at(-1), **event)
    await insert(
        connection, "WorldEvent", id="3", description="aurum", timestamp=at(6), visibility="private", **event
    )
    await add_user(connection, "times")
    post = {"authorId": "times", "timestamp": at(3)}
    await insert(connection, "Post", id="1", content="x", articleTitle="Aurum soars", type="article", **post)
    await insert(connection, "Post", id="2", content="aurum to the moon", type="post", **post)
    await insert(connection, "Post", id="3", content="old", type="article", deletedAt=at(4), **post)
    outcomes = await derive_outcomes(connection, WINDOW)
    assert [(n.kind, n.text, n.organizations) for n in outcomes.news] == [
        ("article", "Aurum soars", ["aurum"]),
        ("event", "A plant closed", ["boreal"]),
    ]
    assert {s.organization_id: s.news for s in outcomes.stocks} == {
        "aurum": ["Aurum soars"],
        "boreal": ["A plant closed"],
    }


async def test_an_open_market_is_explicitly_unresolved(connection):
    await add_market(connection)
    await add_quote(connection, 0.6, at(-30))
    await add_quote(connection, 0.7, at(59))
    await add_quote(connection, 0.9, END)
    found = (await predictions(connection))["market-1"]
    assert (found.outcome, found.final_probability, found.resolved_at) == ("UNRESOLVED", 0.7, None)


async def test_a_resolution_counts_in_its_own_hour(connection):
    await add_market(connection, resolved=True, resolution=True, updatedAt=at(900))
    await add_quote(connection, 0.8, at(20))
    await add_quote(connection, 1.0, at(30), eventType="resolution", source="system")
    found = (await predictions(connection))["market-1"]
    assert (found.outcome, found.final_probability, found.resolved_at) == ("YES", 0.8, at(30))
    assert found.flags == ["time_from:history"]
    before = (await predictions(connection, "2026-10-01T13:00"))["market-1"]
    assert (before.outcome, before.resolved_at) == ("UNRESOLVED", None)
    assert await predictions(connection, "2026-10-01T15:00") == {}


async def test_resolved_without_an_answer_stays_unresolved(connection):
    await add_market(connection, resolved=True, resolution=None, updatedAt=at(30))
    found = (await predictions(connection))["market-1"]
    assert found.outcome == "UNRESOLVED"
    assert "resolved_without_answer" in found.flags and "time_from:market" in found.flags


async def test_the_time_of_a_resolution_has_fallbacks(connection):
    await add_market(connection, resolved=True, resolution=False, updatedAt=at(500))
    question = {
        "questionNumber": 1,
        "text": "Will market-1 happen?",
        "scenarioId": 1,
        "outcome": True,
        "rank": 1,
    }
    await insert(
        connection,
        "Question",
        id="other-id",
        resolutionDate=at(0),
        status="resolved",
        updatedAt=at(40),
        **question,
    )
    assert (await predictions(connection))["market-1"].flags[0] == "time_from:question"
    await add_user(connection, "player")
    await insert(
        connection,
        "Position",
        id="p",
        userId="player",
        marketId="market-1",
        side=True,
        shares=0,
        avgPrice=1,
        resolvedAt=at(35),
        updatedAt=at(500),
    )
    found = (await predictions(connection))["market-1"]
    assert (found.outcome, found.resolved_at, found.flags[0]) == ("NO", at(35), "time_from:positions")


@pytest.mark.parametrize(
    ("yes", "no", "probability", "flag"),
    [
        (250, 750, 0.75, "probability_from:reserves"),
        (0, 0, 0.5, "probability_from:nothing"),
        (float("nan"), 1, 0.5, "probability_from:nothing"),
    ],
)
async def test_probability_without_history(connection, yes, no, probability, flag):
    await add_market(connection, yesShares=yes, noShares=no)
    found = (await predictions(connection))["market-1"]
    assert found.final_probability == probability and flag in found.flags


async def test_markets_of_later_hours_are_not_there_yet(connection):
    await add_market(connection, createdAt=END)
    assert await predictions(connection) == {}


@pytest.mark.parametrize("minutes", [-1, 30, 60, 64])
async def test_an_open_window_is_refused_with_the_time(connection, minutes):
    with pytest.raises(OpenWindowError, match="2026-10-01 15:05"):
        await derive_outcomes(connection, WINDOW, now=at(minutes))
    assert await derive_outcomes(connection, WINDOW, now=at(65))


async def test_an_unknown_window_is_refused(connection):
    with pytest.raises(windows.UnknownWindowError):
        await derive_outcomes(connection, "2026-10-01T14:30")


async def test_the_hidden_answer_is_never_read(connection):
    """An open market whose question already holds its answer stays open."""
    await add_market(connection)
    await insert(
        connection,
        "Question",
        id="market-1",
        questionNumber=1,
        text="Will market-1 happen?",
        scenarioId=1,
        outcome=True,
        rank=1,
        resolutionDate=START + timedelta(days=3),
        updatedAt=at(0),
    )
    first = await derive_outcomes(connection, WINDOW)
    await connection.execute('UPDATE "Question" SET "outcome" = false')
    assert await derive_outcomes(connection, WINDOW) == first
    assert first.predictions[0].outcome == "UNRESOLVED"
