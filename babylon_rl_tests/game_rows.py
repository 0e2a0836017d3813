"""Rows as the game and its recorders write them, with short defaults; for the tests that read them back."""

import itertools
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg

_numbers = itertools.count(1)
WINDOW = "2026-10-01T14:00"
START = datetime(2026, 10, 1, 14, tzinfo=UTC)


def at(minutes: float, *, seconds: float = 0) -> datetime:
    """A moment so many minutes into `WINDOW`."""
    return START + timedelta(minutes=minutes, seconds=seconds)


def step(number: int = 0, **changes: Any) -> dict[str, Any]:
    """A step as the game's recorder writes it."""
    return {
        "stepNumber": number,
        "timestamp": 1_790_000_000_000 + number,
        "environmentState": {"agentBalance": 1000, "agentPnL": 0, "openPositions": 0},
        "providerAccesses": [],
        "llmCalls": [],
        "action": {"actionType": "HOLD", "parameters": {}, "success": True, "result": {"held": True}},
        "reward": 0,
    } | changes


def call(**changes: Any) -> dict[str, Any]:
    """An LLM call that our own policy answered."""
    return {
        "model": "babylon-tiny",
        "systemPrompt": "Trade perpetuals.",
        "userPrompt": "AURUM surge",
        "response": "HOLD",
        "temperature": 1,
        "maxTokens": 12,
        "purpose": "action",
        "promptTokenIds": [1, 2, 3],
        "tokenIds": [4, 5],
        "logprobs": [-0.5, -0.25],
        "policyVersion": "v0.0.1",
        "responseId": "response-1",
        "finishReason": "stop",
    } | changes


async def insert(connection: asyncpg.Connection, table: str, **values: Any) -> str:
    """Inserts one row of a game table and returns its id."""
    columns = ", ".join(f'"{column}"' for column in values)
    places = ", ".join(f"${i}" for i in range(1, len(values) + 1))
    await connection.execute(f'INSERT INTO "{table}" ({columns}) VALUES ({places})', *values.values())
    return values["id"]


async def add_user(connection: asyncpg.Connection, user_id: str, **values: Any) -> str:
    await connection.execute(
        'INSERT INTO "User" ("id", "updatedAt", "isAgent", "isTest", "isActor") VALUES ($1, $2, $3, $4, $5)'
        ' ON CONFLICT ("id") DO NOTHING',
        user_id,
        START,
        values.get("isAgent", True),
        values.get("isTest", False),
        values.get("isActor", False),
    )
    return user_id


async def add_trajectory(
    connection: asyncpg.Connection,
    agent: str = "agent-1",
    steps: list[dict] | str | None = None,
    **values: Any,
) -> str:
    """Inserts a trajectory of `WINDOW` (and its agent) and returns its trajectory id.

    `steps` may be text that is no JSON.
    """
    await add_user(connection, agent)
    number = next(_numbers)
    row = {
        "id": f"row-{number:06}",
        "trajectoryId": f"trajectory-{number:06}",
        "agentId": agent,
        "startTime": at(5),
        "endTime": at(6),
        "durationMs": 60_000,
        "windowId": WINDOW,
        "scenarioId": WINDOW,
        "stepsJson": steps
        if isinstance(steps, str)
        else json.dumps(steps if steps is not None else [step()]),
        "rewardComponentsJson": "{}",
        "metricsJson": "{}",
        "metadataJson": "{}",
        "totalReward": 0.0,
        "episodeLength": 1,
        "finalStatus": "completed",
        "finalBalance": 1000.0,
        "finalPnL": 0.0,
        "createdAt": at(6),
        "updatedAt": at(6),
    } | values
    await insert(connection, "trajectories", **row)
    return row["trajectoryId"]


async def add_company(
    connection: asyncpg.Connection, company: str = "aurum", *, initial: float | None = 100.0, **values: Any
) -> str:
    row = {
        "id": company,
        "name": company.replace("-", " ").title(),
        "description": "",
        "type": "company",
        "initialPrice": initial,
        "updatedAt": START,
    } | values
    return await insert(connection, "Organization", **row)


async def add_price(
    connection: asyncpg.Connection, price: float, moment: datetime, company: str = "aurum", **values: Any
) -> str:
    row = {
        "id": f"price-{next(_numbers):06}",
        "organizationId": company,
        "price": price,
        "change": 1.0,
        "changePercent": 1.0,
        "timestamp": moment,
    } | values
    return await insert(connection, "StockPrice", **row)


async def add_order(
    connection: asyncpg.Connection, agent: str = "agent-1", company: str = "aurum", **values: Any
) -> str:
    """Inserts a long position of 500 USD at 10x leverage and price 100, opened in `WINDOW`."""
    row = {
        "id": f"pos-{next(_numbers):06}",
        "userId": agent,
        "ticker": company.upper(),
        "organizationId": company,
        "side": "long",
        "entryPrice": 100.0,
        "currentPrice": 100.0,
        "size": 500.0,
        "leverage": 10,
        "liquidationPrice": 91.0,
        "unrealizedPnL": 0.0,
        "unrealizedPnLPercent": 0.0,
        "openedAt": at(5),
        "lastUpdated": at(5),
    } | values
    return await insert(connection, "PerpPosition", **row)


async def add_market(connection: asyncpg.Connection, market: str = "market-1", **values: Any) -> str:
    row = {
        "id": market,
        "question": f"Will {market} happen?",
        "yesShares": 500,
        "noShares": 500,
        "liquidity": 1000,
        "resolved": False,
        "endDate": START + timedelta(days=3),
        "createdAt": START - timedelta(days=1),
        "updatedAt": START - timedelta(days=1),
    } | values
    return await insert(connection, "Market", **row)


async def add_quote(
    connection: asyncpg.Connection, yes: float, moment: datetime, market: str = "market-1", **values: Any
) -> str:
    row = {
        "id": f"quote-{next(_numbers):06}",
        "marketId": market,
        "yesPrice": yes,
        "noPrice": 1 - yes,
        "yesShares": 500,
        "noShares": 500,
        "liquidity": 1000,
        "eventType": "trade",
        "source": "user_trade",
        "createdAt": moment,
    } | values
    return await insert(connection, "PredictionPriceHistory", **row)


async def add_trade(
    connection: asyncpg.Connection, agent: str = "agent-1", market: str | None = "market-1", **values: Any
) -> str:
    """Inserts an agent's purchase of YES shares for 100 USD, at 1.1998 USD a share, in `WINDOW`."""
    await add_user(connection, agent)
    row = {
        "id": f"trade-{next(_numbers):06}",
        "marketType": "prediction",
        "marketId": market,
        "action": "open",
        "side": "yes",
        "amount": 100.0,
        "price": 1.1998,
        "executedAt": at(5),
        "agentUserId": agent,
    } | values
    return await insert(connection, "AgentTrade", **row)


async def add_position(
    connection: asyncpg.Connection, agent: str = "agent-1", market: str = "market-1", **values: Any
) -> str:
    """Inserts an agent's position of 83.26 YES shares, opened in `WINDOW`."""
    await add_user(connection, agent)
    row = {
        "id": f"position-{next(_numbers):06}",
        "userId": agent,
        "marketId": market,
        "side": True,
        "shares": 83.263886,
        "avgPrice": 1.1998,
        "amount": 99.9,
        "createdAt": at(5),
        "updatedAt": at(5),
    } | values
    return await insert(connection, "Position", **row)


async def add_question(
    connection: asyncpg.Connection, question: str = "market-1", *, number: int | None = None, **values: Any
) -> str:
    """Inserts the open question of a market, with its hidden answer YES."""
    row = {
        "id": question,
        "questionNumber": number if number is not None else next(_numbers),
        "text": f"Will {question} happen?",
        "scenarioId": 1,
        "outcome": True,
        "rank": 1,
        "resolutionDate": START + timedelta(days=3),
        "updatedAt": START,
    } | values
    return await insert(connection, "Question", **row)
