"""Windows to judge, made by hand: episodes with steps and a ground truth."""

import json
from collections.abc import Sequence
from typing import Any

from babylon_rl.outcomes.window_outcomes import News, PredictionOutcome, StockOutcome, WindowOutcomes
from babylon_rl.records.steps import Step, decode_steps
from babylon_rl.scoring.episodes import Episode
from babylon_rl.scoring.window_scorer import WindowToScore
from babylon_rl.windows import window_range
from babylon_rl_tests.game_rows import WINDOW, at, call
from babylon_rl_tests.scoring.made import episode

START_MS = window_range(WINDOW)[0].timestamp() * 1000


def order(minute: float = 5, said: str = "AURUM surges, long.", **parameters: Any) -> dict[str, Any]:
    """A step that opens a position."""
    return {
        "stepNumber": 0,
        "timestamp": START_MS + minute * 60_000,
        "environmentState": {"agentBalance": 950.0, "agentPnL": 12.5, "openPositions": 1, "equity": 1000.0},
        "providerAccesses": [
            {"providerName": "market_data", "data": {"AURUM": {"price": 101.25}}, "purpose": "trade"}
        ],
        "llmCalls": [call(response=said)],
        "action": {
            "actionType": "OPEN_PERP_POSITION",
            "parameters": {"ticker": "AURUM", "side": "long", "size": 500, "leverage": 10} | parameters,
            "success": True,
            "result": {"positionId": "pos-17", "entryPrice": 101.25},
        },
        "reward": 0,
    }


def hold(minute: float = 6, said: str = "HOLD", **changes: Any) -> dict[str, Any]:
    action = {"actionType": "HOLD", "parameters": {}, "success": True, "result": {"held": True}}
    return order(minute, said) | {"action": action} | changes


def steps(*raw: dict[str, Any]) -> list[Step]:
    return decode_steps(json.dumps(list(raw)))


def make_episode(agent: str, pnl: float | None, *raw: dict[str, Any], **values: Any) -> Episode:
    """An episode with steps; by default two of them that are the agent's own."""
    own = raw or (order(5, f"plan of {agent}", size=500 + abs(int(pnl or 0))), hold(7))
    values = {"steps": steps(*own), "trajectory_ids": [f"{agent}-1", f"{agent}-2"]} | values
    return episode(agent, pnl, **values)


def outcomes(window_id: str = WINDOW, **changes: Any) -> WindowOutcomes:
    made = {
        "window_id": window_id,
        "stocks": [_stock("AURUM", 100.0, 104.0), _stock("FERRO", 50.0, 47.5), _stock("STILL", 10.0, 10.0)],
        "predictions": [
            PredictionOutcome(
                market_id="market-1",
                question="Will AURUM close above 103?",
                outcome="YES",
                final_probability=0.81,
                resolved_at=at(50),
                flags=[],
            )
        ],
        "news": [News(kind="event", published_at=at(12), text="AURUM finds gold", organizations=["aurum"])],
    }
    return WindowOutcomes(**made | changes)


def make_window(
    pnls: Sequence[float | None] = (40.0, -35.0, 5.0, 90.0), window_id: str = WINDOW
) -> WindowToScore:
    """Agents `agent-0`, `agent-1`, … with these profits."""
    episodes = [
        make_episode(f"agent-{i}", pnl, window_id=window_id, trajectory_ids=[f"{window_id}-{i}"])
        for i, pnl in enumerate(pnls)
    ]
    return WindowToScore(window_id, episodes, outcomes(window_id))


def _stock(ticker: str, start: float, end: float) -> StockOutcome:
    change = (end - start) / start * 100
    return StockOutcome(
        ticker=ticker,
        organization_id=ticker.lower(),
        name=ticker.title(),
        start_price=start,
        end_price=end,
        change_percent=change,
        sentiment="BULLISH" if change > 0.5 else "BEARISH",
        moves=4,
        volume=1000.0,
        news=[],
        flags=[],
    )
