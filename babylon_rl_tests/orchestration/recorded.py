"""Recorded windows for the tests: rows as a recorder writes them, prices, and one order per agent."""

import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta

import asyncpg

from babylon_rl.records.steps import Action, EnvironmentState, LlmCall, Step, encode_steps
from babylon_rl.windows import window_range

COMPANY = "apex-corp"
TICKER = "APEXCORP"

_ROW = """
INSERT INTO "trajectories" ("id", "trajectoryId", "agentId", "startTime", "endTime", "durationMs", "windowId",
    "scenarioId", "stepsJson", "rewardComponentsJson", "metricsJson", "metadataJson", "totalReward",
    "episodeLength", "finalStatus", "finalBalance", "finalPnL", "createdAt", "updatedAt")
VALUES ($1, $1, $2, $3, $4, 60000, $5, $5, $6, '{}', '{}', '{}', 0, 2, 'completed', 1000, 0, $4, $4)
"""
_POSITION = """
INSERT INTO "PerpPosition" ("id", "userId", "ticker", "organizationId", "side", "entryPrice", "currentPrice",
    "size", "leverage", "liquidationPrice", "unrealizedPnL", "unrealizedPnLPercent", "openedAt",
    "lastUpdated")
VALUES ($1, $2, $3, $4, $5, 100, 100, 200, 2, $6, 0, 0, $7, $7)
"""
_PRICE = """
INSERT INTO "StockPrice" ("id", "organizationId", "price", "change", "changePercent", "timestamp")
VALUES ($1, $2, $3, 0.1, 0.1, $4)
"""


async def record_agents(game: asyncpg.Connection, agents: Sequence[str]) -> None:
    """Makes the players and the company that they trade."""
    for agent in agents:
        await game.execute(
            'INSERT INTO "User" ("id", "isAgent", "updatedAt") VALUES ($1, true, now())'
            " ON CONFLICT DO NOTHING",
            agent,
        )
    await game.execute(
        'INSERT INTO "Organization" ("id", "name", "description", "type", "initialPrice", "updatedAt")'
        " VALUES ($1, 'Apex', '', 'company', 100, now()) ON CONFLICT DO NOTHING",
        COMPANY,
    )


async def record_window(
    game: asyncpg.Connection, window_id: str, agents: Sequence[str], *, garbage: int = 0
) -> None:
    """Writes one row per agent with one order (longs earn, shorts lose), and `garbage` unreadable rows."""
    await record_agents(game, agents)
    start, _ = window_range(window_id)
    for minute in range(0, 150, 10):
        moment = start + timedelta(minutes=minute)
        await game.execute(_PRICE, _id(), COMPANY, 100 + (moment.hour * 60 + moment.minute) / 30, moment)
    for number, agent in enumerate(agents):
        at = start + timedelta(minutes=5 + number)
        side = "long" if number % 2 == 0 else "short"
        limit = 55.0 if side == "long" else 145.0
        await game.execute(_POSITION, _id(), agent, TICKER, COMPANY, side, limit, at)
        text = encode_steps([_order(side, at), _hold(at + timedelta(minutes=1))])
        await _row(game, agent, window_id, at, text)
    for number in range(garbage):
        await _row(game, agents[number % len(agents)], window_id, start, "{not json")


async def _row(game: asyncpg.Connection, agent: str, window_id: str, at: datetime, steps: str) -> None:
    await game.execute(_ROW, _id(), agent, at, at + timedelta(minutes=2), window_id, steps)


def _order(side: str, at: datetime) -> Step:
    action = Action(
        action_type="OPEN_PERP_POSITION",
        parameters={"ticker": TICKER, "side": side, "size": 200, "leverage": 2},
        success=True,
        result={"entryPrice": 100},
    )
    return _step(0, at, action, f"BUY ${TICKER}")


def _hold(at: datetime) -> Step:
    return _step(
        1, at, Action(action_type="HOLD", parameters={}, success=True, result={"held": True}), "HOLD"
    )


def _step(number: int, at: datetime, action: Action, answer: str) -> Step:
    call = LlmCall(
        model="babylon-tiny",
        system_prompt="You trade.",
        user_prompt="News: Apex rises.",
        response=answer,
        temperature=1.0,
        max_tokens=12,
        purpose="action",
        prompt_token_ids=[1, 2, 3],
        token_ids=[4, 5],
        logprobs=[-0.5, -0.7],
        policy_version="v0.0.0",
        response_id=_id(),
    )
    return Step(
        step_number=number,
        timestamp=at.timestamp() * 1000,
        environment_state=EnvironmentState(agent_balance=1000, agent_pnl=0, open_positions=0, equity=1000),
        provider_accesses=[],
        llm_calls=[call],
        action=action,
        reward=0.0,
    )


def _id() -> str:
    return secrets.token_hex(8)
