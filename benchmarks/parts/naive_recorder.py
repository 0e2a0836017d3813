"""The naive recorder: a trajectory's JSON by `json.dumps`, then one awaited INSERT for each of its rows."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import msgspec

from babylon_rl.recorder.snowflake import snowflake
from babylon_rl.windows import window_id_at
from parts.recorded_play import START, Play

WINDOW = window_id_at(START)
_TRAJECTORY = """
INSERT INTO "trajectories" ("id", "trajectoryId", "agentId", "startTime", "endTime", "durationMs", "windowId",
    "episodeId", "scenarioId", "stepsJson", "rewardComponentsJson", "metricsJson", "metadataJson",
    "totalReward", "episodeLength", "finalStatus", "finalBalance", "finalPnL", "tradesExecuted",
    "postsCreated", "isTrainingData", "isEvaluation", "updatedAt")
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22,
    $23)
"""
_CALL = """
INSERT INTO "llm_call_logs" ("id", "trajectoryId", "stepId", "callId", "timestamp", "latencyMs", "model",
    "purpose", "actionType", "systemPrompt", "userPrompt", "response", "temperature", "maxTokens", "metadata")
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)
"""


def plain(steps: Sequence[Play]) -> list[dict[str, Any]]:
    """The steps as an agent without our records has them: dicts."""
    return [
        {
            "stepNumber": number,
            "timestamp": int(START.timestamp() * 1000) + 1000 * number,
            "environmentState": msgspec.to_builtins(step.state),
            "providerAccesses": [msgspec.to_builtins(step.access)],
            "llmCalls": [msgspec.to_builtins(step.call)],
            "action": msgspec.to_builtins(step.action),
            "reward": 0.1,
        }
        for number, step in enumerate(steps)
    ]


async def store(pool: asyncpg.Pool, agent: str, steps: Sequence[dict[str, Any]]) -> None:
    """Stores one trajectory and its calls."""
    trajectory, end = snowflake(), START + timedelta(minutes=1)
    reward = sum(step["reward"] for step in steps)
    metrics = {
        "episodeLength": len(steps),
        "finalStatus": "completed",
        "finalBalance": 1000.0,
        "finalPnL": 0.0,
    }
    metrics |= {"tradesExecuted": len(steps), "postsCreated": 0, "errorCount": 0}
    await pool.execute(
        _TRAJECTORY,
        *(snowflake(), trajectory, agent, START, end, 60_000, WINDOW),
        *(f"{WINDOW}-{int(end.timestamp() * 1000)}", WINDOW, json.dumps(steps)),
        *(json.dumps({"environmentReward": reward}), json.dumps(metrics)),
        *(json.dumps({"isTrainingData": True, "gameKnowledge": {}}), reward, len(steps), "completed"),
        *(1000.0, 0.0, len(steps), 0, True, False, datetime.now(UTC)),
    )
    for step in steps:
        number = step["stepNumber"]
        for index, call in enumerate(step["llmCalls"]):
            await pool.execute(
                _CALL,
                *(
                    snowflake(),
                    trajectory,
                    f"{trajectory}-step-{number}",
                    f"{trajectory}-call-{number}-{index}",
                ),
                *(
                    START + timedelta(seconds=number),
                    round(call["latencyMs"]),
                    call["model"],
                    call["purpose"],
                ),
                *(call.get("actionType"), call["systemPrompt"], call["userPrompt"], call["response"]),
                *(call["temperature"], call["maxTokens"], json.dumps({})),
            )
