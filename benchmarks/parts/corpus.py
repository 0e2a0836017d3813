"""Synthetic recorded rows of the size that real ones have: ten steps, a prompt each, 30 KB of JSON."""

import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import cache
from typing import Any

import asyncpg
import numpy as np

from babylon_rl.windows import window_id_at

AGENTS = 20
STEPS = 10

_COLUMNS = (
    *("id", "trajectoryId", "agentId", "startTime", "endTime", "durationMs", "windowId", "scenarioId"),
    *("stepsJson", "rewardComponentsJson", "metricsJson", "metadataJson", "totalReward", "episodeLength"),
    *("finalStatus", "finalBalance", "finalPnL", "createdAt", "updatedAt"),
)


@cache
def _words() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    words = ["".join(rng.choice(letters, size)) for size in rng.integers(2, 11, 20_000)]
    weights = 1 / np.arange(1, len(words) + 1)
    return np.array(words), weights / weights.sum()


def steps_json(seed: int) -> str:
    """A `stepsJson` of about 30 KB; its words are Zipf-distributed, so it compresses like prompts do."""
    rng = np.random.default_rng(seed)
    words, weights = _words()

    def text(characters: int) -> str:
        return " ".join(rng.choice(words, characters // 6, p=weights))

    system = text(600)
    return json.dumps([_step(number, system, text, rng) for number in range(STEPS)])


def _step(number: int, system: str, text: Any, rng: np.random.Generator) -> dict[str, Any]:
    state = {"agentBalance": 941.2, "agentPnL": round(float(rng.normal(0, 50)), 2), "openPositions": 2}
    return {
        "stepNumber": number,
        "timestamp": 1_790_000_000_000 + number,
        "environmentState": state | {"activeMarkets": 9},
        "providerAccesses": [
            {"providerName": "BABYLON_MARKETS", "data": {"text": text(300)}, "purpose": "context"}
        ],
        "llmCalls": [
            {
                "model": "qwen/qwen3-32b",
                "systemPrompt": system,
                "userPrompt": text(1200),
                "response": text(200),
                "temperature": 0.7,
                "maxTokens": 300,
                "purpose": "action",
                "latencyMs": 812.25,
            }
        ],
        "action": {
            "actionType": "BUY_SHARES",
            "parameters": {"ticker": "$SOL", "shares": 22, "price": 131.4},
            "success": True,
            "result": {"executed": True, "pnl": 18.2},
        },
        "reward": 0.182,
    }


async def add_agents(game: asyncpg.Connection) -> list[str]:
    """Makes the agents and returns their ids."""
    agents = [f"agent-{number:02}" for number in range(AGENTS)]
    await game.executemany(
        'INSERT INTO "User" ("id", "isAgent", "updatedAt") VALUES ($1, true, now()) ON CONFLICT DO NOTHING',
        [(agent,) for agent in agents],
    )
    return agents


async def add_rows(
    game: asyncpg.Connection,
    prefix: str,
    starts: Sequence[datetime],
    agents: Sequence[str],
    texts: Sequence[str],
) -> None:
    """Inserts one row per start; agents and texts take turns."""
    names = ", ".join(f'"{column}"' for column in _COLUMNS)
    places = ", ".join(f"${i}" for i in range(1, len(_COLUMNS) + 1))
    rows = []
    for number, start in enumerate(starts):
        window, end = window_id_at(start), start + timedelta(seconds=50)
        identity = (f"{prefix}-{number:07}", f"{prefix}-{number:07}", agents[number % len(agents)])
        columns = (
            texts[number % len(texts)],
            "{}",
            "{}",
            "{}",
            0.0,
            STEPS,
            "completed",
            1000.0,
            0.0,
            end,
            end,
        )
        rows.append((*identity, start, end, 50_000, window, window, *columns))
    await game.executemany(f'INSERT INTO "trajectories" ({names}) VALUES ({places})', rows)
