"""Trajectories, order values and episodes made by hand, for the tests of scoring."""

import json
from typing import Any

from babylon_rl.outcomes.pricing import OrderValue
from babylon_rl.records.lean import LeanTrajectory
from babylon_rl.records.reader import WindowRead
from babylon_rl.records.steps import decode_steps
from babylon_rl.records.trajectory import RecordedTrajectory
from babylon_rl.scoring.episodes import Episode
from babylon_rl_tests.game_rows import WINDOW, at, call


def trajectory(agent: str, steps: list[dict], minute: float = 5, **values: Any) -> RecordedTrajectory:
    row = {
        "id": f"row-{agent}-{minute}",
        "trajectory_id": f"{agent}-{minute}",
        "agent_id": agent,
        "window_id": WINDOW,
        "scenario_id": WINDOW,
        "start_time": at(minute),
        "end_time": at(minute + 1),
        "final_pnl": 0.0,
        "final_balance": 1000.0,
        "final_status": "completed",
        "is_training_data": True,
        "is_evaluation": False,
        "window_hours": 1,
        "steps": decode_steps(json.dumps(steps)),
        "fingerprint": "f",
    }
    return RecordedTrajectory(**row | values)


def window(*trajectories: RecordedTrajectory | LeanTrajectory) -> WindowRead[Any]:
    return WindowRead[Any](WINDOW, list(trajectories), {}, [])


def order(agent: str, value: float | None, horizon: str = "1h", **values: Any) -> OrderValue:
    row = {
        "order_id": f"{agent}-{value}",
        "agent_id": agent,
        "window_id": WINDOW,
        "kind": "perp",
        "instrument": "AURUM",
        "side": "long",
        "size": 500.0,
        "opened_at": at(5),
        "horizon": horizon,
        "value": value,
        "matured": True,
        "liquidated": False,
    }
    return OrderValue(**row | values)


def episode(agent: str, pnl: float | None = 0.0, **values: Any) -> Episode:
    calls = decode_steps(json.dumps([{"llmCalls": [call()]}]))[0].llm_calls
    made = {
        "window_id": WINDOW,
        "agent_id": agent,
        "trajectory_ids": [f"{agent}-1"],
        "steps": [],
        "calls": calls,
        "policy_versions": ["v0.0.1"],
        "actions": 4,
        "invalid_actions": 0,
        "horizon": "1h",
        "attributed_pnl": pnl,
        "pnl_source": "orders",
        "start_equity": 1000.0,
        "trades": 1,
        "wins": int((pnl or 0) > 0),
        "losses": int((pnl or 0) < 0),
        "pending_orders": 0,
        "unpriced_orders": 0,
    }
    return Episode(**made | values)
