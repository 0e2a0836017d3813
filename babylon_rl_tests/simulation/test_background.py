"""Questions in the background: opened, traded and resolved as the game does it."""

from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from babylon_rl.database.connection import connect
from babylon_rl.outcomes.market import derive_outcomes
from babylon_rl.simulation.predictions import PRICINGS, Pricing
from babylon_rl_tests.simulation.conftest import everything, holding, one, simulate

pytestmark = pytest.mark.anyio

START = datetime(2026, 10, 1, tzinfo=UTC)
RESOLVED = START + timedelta(days=3)


@pytest.mark.parametrize("pricing", PRICINGS)
async def test_a_question_is_resolved_after_three_days(
    dsn: str, connection: asyncpg.Connection, pricing: Pricing
) -> None:
    await simulate(dsn, holding(), days=4, agents=1, pricing=pricing)
    question = await one(connection, 'SELECT * FROM "Question" WHERE "questionNumber" = 1')
    market = await one(connection, 'SELECT * FROM "Market" WHERE "id" = $1', question["id"])
    history = await connection.fetch(
        'SELECT * FROM "PredictionPriceHistory" WHERE "marketId" = $1 ORDER BY "createdAt", "id"::numeric',
        question["id"],
    )
    assert (question["status"], question["resolvedOutcome"]) == ("resolved", question["outcome"])
    assert (market["resolved"], market["resolution"]) == (True, question["outcome"])
    assert question["updatedAt"] == market["updatedAt"] == RESOLVED == question["resolutionDate"]

    *trades, last = history
    assert (last["eventType"], last["source"], last["createdAt"]) == ("resolution", "system", RESOLVED)
    assert last["yesPrice"] == trades[-1]["yesPrice"] not in (0.0, 1.0)
    assert len(trades) == 72 and {(row["eventType"], row["source"]) for row in trades} == {
        ("trade", "npc_trade")
    }
    for row in history:
        assert row["yesPrice"] == pytest.approx(float(row["noShares"] / (row["yesShares"] + row["noShares"])))
    assert float(last["yesShares"] * last["noShares"]) == pytest.approx(250_000, rel=1e-3)

    positions = await connection.fetch('SELECT * FROM "Position" WHERE "marketId" = $1', question["id"])
    assert positions
    for row in positions:
        won = row["side"] == question["outcome"]
        assert (row["status"], row["shares"], row["outcome"]) == ("resolved", 0, won)
        assert row["resolvedAt"] == RESOLVED and row["questionId"] == 1
        shares = float(row["amount"] / row["avgPrice"]) if row["avgPrice"] else 0.0
        assert float(row["pnl"]) == pytest.approx((shares if won else 0) - float(row["amount"]), abs=0.05)
    winners = await one(
        connection,
        """
        SELECT coalesce(sum("amount"), 0) AS paid FROM "BalanceTransaction"
         WHERE "type" = 'pred_resolve_win' AND "relatedId" = $1
        """,
        question["id"],
    )
    assert float(winners["paid"]) == pytest.approx(
        sum(float(row["amount"] + row["pnl"]) for row in positions if row["outcome"]), abs=0.1
    )


async def test_the_pipeline_learns_the_answer_when_it_is_resolved(
    dsn: str, connection: asyncpg.Connection
) -> None:
    await simulate(dsn, holding(), days=4, agents=1)
    question = await one(connection, 'SELECT * FROM "Question" WHERE "questionNumber" = 1')
    now = datetime(2026, 11, 1, tzinfo=UTC)
    outcomes = {
        window: {
            market.market_id: market.outcome
            for market in (await derive_outcomes(connection, window, now=now)).predictions
        }
        for window in ("2026-10-03T23:00", "2026-10-04T00:00", "2026-10-04T01:00")
    }
    assert outcomes["2026-10-03T23:00"][question["id"]] == "UNRESOLVED"
    assert outcomes["2026-10-04T00:00"][question["id"]] == ("YES" if question["outcome"] else "NO")
    assert question["id"] not in outcomes["2026-10-04T01:00"]


async def test_two_questions_a_day_and_rumours_about_them(dsn: str, connection: asyncpg.Connection) -> None:
    await simulate(dsn, holding(), days=5, agents=1)
    questions = await connection.fetch('SELECT * FROM "Question" ORDER BY "questionNumber"')
    assert [row["questionNumber"] for row in questions] == list(range(1, 11))
    assert len({row["text"] for row in questions}) == 10
    assert {row["createdDate"].hour for row in questions} == {0, 12}
    assert sum(row["status"] == "active" for row in questions) == 6
    rumours = await connection.fetch(
        'SELECT e."pointsToward", e."visibility", q."outcome" FROM "WorldEvent" e'
        ' JOIN "Question" q ON q."questionNumber" = e."relatedQuestion"'
    )
    right = sum((row["pointsToward"] == "YES") == row["outcome"] for row in rumours)
    assert 0.5 < right / len(rumours) < 1
    assert {row["visibility"] for row in rumours} == {"public"}
    articles = await connection.fetch('SELECT * FROM "Post" ORDER BY "timestamp", "id"')
    assert [row["type"] for row in articles] == ["article"] * 10
    assert all(
        row["articleTitle"] == f"Now trading: {question['text']}"
        for row, question in zip(articles, questions, strict=True)
    )


async def test_interrupted_days_go_on_identically(server, template: str, dsn: str) -> None:
    """The state of markets and positions survives its columns' decimals."""
    other = server.create(template)
    try:
        await simulate(dsn, holding(), days=5, agents=1)
        for _ in range(5):
            await simulate(server.dsn(other), holding(), days=1, agents=1)
        first, second = await connect(dsn), await connect(server.dsn(other))
        assert await everything(first) == await everything(second)
        await first.close()
        await second.close()
    finally:
        server.drop(other)
