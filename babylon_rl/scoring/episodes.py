"""An episode: everything one agent did in one window, in time order. It is the member of a GRPO group.

A row of the game is one tick of an agent, who may have 60 of them in an hour; agents are compared by their
hour.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from itertools import pairwise
from typing import Any

import msgspec
import numpy as np

from babylon_rl.outcomes.order_value import OrderValue, milliseconds
from babylon_rl.records.lean import LeanAction, LeanCall, LeanStep, LeanTrajectory
from babylon_rl.records.reader import WindowRead
from babylon_rl.records.steps import Action, LlmCall, Step
from babylon_rl.records.trajectory import RecordedTrajectory
from babylon_rl.windows import window_range

PENDING = "pending"
INVALID = "invalid"
ORDER_ACTIONS = frozenset(
    {
        "open_perp_position",
        "close_perp_position",
        "buy_prediction_shares",
        "sell_prediction_shares",
        "buy_shares",
        "sell_shares",
        "open_perp",
        "close_perp",
        "buy_prediction",
        "sell_prediction",
        "open_long",
        "open_short",
        "close_position",
        "buy_yes",
        "buy_no",
        "buy",
        "sell",
        "trade",
        "trading_decision",
    }
)
"""Action types that ask the market for something, in lower case, over all known writers."""


class Decision(msgspec.Struct, frozen=True):
    """What one step of an episode did, and what came of it."""

    pnl: float
    """USD at the horizon: of the orders that it opened, and what closing others early made against holding
    them."""
    invalid: bool


class Episode(msgspec.Struct, kw_only=True):
    """One agent's window; amounts in USD."""

    window_id: str
    agent_id: str
    trajectory_ids: list[str]
    """In time order, as are `steps` and `calls`."""
    steps: list[Step]
    calls: list[LlmCall]
    """Steps and calls are empty for an episode of the lean view; `scoring.groups.with_calls` brings them."""
    policy_versions: list[str]
    """Versions of our policies that answered calls, sorted; empty for agents played by others."""
    actions: int
    """Decisions, holds and invalid ones included."""
    invalid_actions: int
    """Answers that were no order, and orders that the market refused."""
    horizon: str
    attributed_pnl: float | None
    """Value at the horizon of the orders opened in the window; None if nothing tells."""
    pnl_source: str
    """`orders`, `lifetime_difference` (a fallback without order values: mostly older decisions),
    `lifetime_reset` (no such difference, because the agent's account was reset in between) or `none`."""
    start_equity: float | None
    """Balance plus the margin of open positions at the first step."""
    trades: int
    """Orders opened."""
    wins: int
    losses: int
    pending_orders: int
    """Orders whose horizon has not passed in the recorded prices."""
    unpriced_orders: int
    """Orders that no rule of the game gives a value to."""
    decisions: list[Decision] = []
    """One per step, in order; empty if the orders were not valued."""
    lean_trainable: bool = False
    """In the lean view: whether a call that can be trained was recorded."""

    @property
    def trainable(self) -> bool:
        """Whether at least one call carries the tokens and logprobs of a policy of ours."""
        return self.lean_trainable or any(call.has_tokens for call in self.calls)

    @property
    def invalid_share(self) -> float:
        """Share of the actions that were invalid."""
        return self.invalid_actions / self.actions if self.actions else 0.0


def build_episodes(
    window_read: WindowRead[Any], order_values: Sequence[OrderValue] | None, *, horizon: str = "1h"
) -> list[Episode]:
    """Returns one episode per agent of a window, by agent id.

    Args:
        window_read: The window's trajectories, in any order; the lean view is enough to score them.
        order_values: What its orders were worth; None if they were not valued, which makes the difference
            of the lifetime P&L the fallback.
        horizon: Which of an order's values counts. The other ones are ignored: no order is paid twice.
    """
    rows: dict[str, list[RecordedTrajectory | LeanTrajectory]] = defaultdict(list)
    for trajectory in window_read.trajectories:
        rows[trajectory.agent_id].append(trajectory)
    orders: dict[str, list[OrderValue]] = defaultdict(list)
    for value in order_values or ():
        if value.horizon == horizon:
            orders[value.agent_id].append(value)
    return [
        _episode(
            window_read.window_id,
            sorted(rows[agent_id], key=lambda row: (row.start_time, row.trajectory_id)),
            orders[agent_id] if order_values is not None else None,
            horizon,
        )
        for agent_id in sorted(rows)
    ]


def is_decision(action: Action | LeanAction) -> bool:
    """Whether the recorder knew what the agent did."""
    return action.action_type.lower() != PENDING


def is_invalid(action: Action | LeanAction) -> bool:
    """Whether the answer was no order, or an order that the market refused. A hold is neither."""
    kind = action.action_type.lower()
    return kind == INVALID or (kind in ORDER_ACTIONS and not action.success and action.error is not None)


def _episode(
    window_id: str,
    rows: Sequence[RecordedTrajectory | LeanTrajectory],
    orders: list[OrderValue] | None,
    horizon: str,
) -> Episode:
    steps = [step for row in rows for step in row.steps]
    calls = [call for step in steps for call in step.llm_calls]
    actions = [step.action for step in steps if is_decision(step.action)]
    known = [order.value for order in orders or () if order.value is not None]
    pnl, source = (sum(known), "orders") if orders is not None else _lifetime_difference(rows, steps)
    return Episode(
        window_id=window_id,
        agent_id=rows[0].agent_id,
        trajectory_ids=[row.trajectory_id for row in rows],
        steps=[step for step in steps if isinstance(step, Step)],
        calls=[call for call in calls if isinstance(call, LlmCall)],
        lean_trainable=any(isinstance(call, LeanCall) and call.has_tokens for call in calls),
        policy_versions=sorted({call.policy_version for call in calls if call.policy_version}),
        actions=len(actions),
        invalid_actions=sum(map(is_invalid, actions)),
        horizon=horizon,
        attributed_pnl=pnl,
        pnl_source=source,
        start_equity=_start_equity(steps),
        trades=len(orders) if orders is not None else sum(map(_is_trade, actions)),
        wins=sum(value > 0 for value in known),
        losses=sum(value < 0 for value in known),
        pending_orders=sum(not order.matured for order in orders or ()),
        unpriced_orders=sum(order.value is None for order in orders or ()),
        decisions=_decisions(window_id, steps, orders) if orders is not None else [],
    )


def _decisions(
    window_id: str, steps: Sequence[Step | LeanStep], orders: Sequence[OrderValue]
) -> list[Decision]:
    """What each step opened and closed: an order is the doing of the last step that had begun by then."""
    pnl = np.zeros(len(steps))
    times = np.array([math.nan if step.timestamp is None else float(step.timestamp) for step in steps])
    if np.isfinite(times).all():
        by_time, end = np.argsort(times, kind="stable"), window_range(window_id)[1]
        for order in orders:
            pnl[_step_at(order.opened_at, times, by_time)] += order.opening
            if order.closed_at is not None and order.closed_at < end:
                pnl[_step_at(order.closed_at, times, by_time)] += order.closing
    elif steps:  # nobody knows which step did what
        pnl += sum(order.value or 0.0 for order in orders) / len(steps)
    return [Decision(float(part), is_invalid(step.action)) for part, step in zip(pnl, steps, strict=True)]


def _step_at(moment: datetime, times: np.ndarray, by_time: np.ndarray) -> int:
    place = np.searchsorted(times[by_time], milliseconds(moment), side="right") - 1
    return int(by_time[max(0, place)])


def _is_trade(action: Action | LeanAction) -> bool:
    return action.success and action.action_type.lower() in ORDER_ACTIONS


def _start_equity(steps: Sequence[Step | LeanStep]) -> float | None:
    for step in steps:
        state = step.environment_state
        equity = state.equity if state.equity is not None else state.agent_balance
        if equity is not None:
            return float(equity)
    return None


def _lifetime_difference(
    rows: Sequence[RecordedTrajectory | LeanTrajectory], steps: Sequence[Step | LeanStep]
) -> tuple[float | None, str]:
    """How far the lifetime P&L moved; a row's `finalPnL` is that of a whole life and is never summed."""
    levels = [
        float(s.environment_state.agent_pnl) for s in steps if s.environment_state.agent_pnl is not None
    ]
    first_final = len(levels)
    levels += [row.final_pnl for row in reversed(rows) if row.final_pnl is not None][:1]
    if not first_final or len(levels) < 2:
        return None, "none"
    if any(before != 0 and after == 0 for before, after in pairwise(levels)):
        # No trade brings a life's result back to zero to the cent: the game began the account anew.
        return None, "lifetime_reset"
    return levels[-1] - levels[0], "lifetime_difference"
