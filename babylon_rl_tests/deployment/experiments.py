"""Experiments as they look in `rl`: calls that a gateway kept, trajectories, and orders with their values."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

import asyncpg
import numpy as np

from babylon_rl.deployment import rollout_rows
from babylon_rl.deployment.assignment import Assignment
from babylon_rl.windows import window_id_at

_CALL = """
INSERT INTO rl.llm_calls (response_id, started_at, latency_ms, agent_id, agent_verified, requested_model,
                          version, variant, rollout_id, fallback, attempts, stream, status, messages,
                          parameters, content_sha256, capture_level)
VALUES ($1, $2, $3, $4, $5, 'babylon-agent', $6, $7, $8, $9, 1, false, $10, '[]', '{}', '', 'process')
"""
_ROW = """
INSERT INTO rl.window_rows (trajectory_id, agent_id, window_id, start_time, created_at, fingerprint)
VALUES ($1, $2, $3, $4, $4, '') ON CONFLICT DO NOTHING
"""
_ORDER = """
INSERT INTO rl.order_value (order_id, horizon, agent_id, window_id, kind, instrument, side, size, opened_at,
                            value, matured)
VALUES ($1, '1h', $2, $3, 'perp', 'AURUM', 'long', 100, $4, $5, $6)
"""
_STATE = """
INSERT INTO rl.window_state (window_id, outcomes_status, outcomes_at) VALUES ($1, 'settled', now())
ON CONFLICT (window_id) DO UPDATE SET outcomes_status = 'settled', outcomes_at = now()
"""

AGENTS = [f"agent-{number}" for number in range(12)]


def full_hour(hours_ago: int) -> datetime:
    now = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    return now - timedelta(hours=hours_ago)


class Market:
    """Fills `rl` with what a game and its gateway leave behind."""

    def __init__(self, admin: asyncpg.Connection) -> None:
        self._admin = admin
        self._number = 0

    async def assignment(self) -> Assignment:
        row = await rollout_rows.running(self._admin)
        assert row is not None
        return await rollout_rows.read_assignment(self._admin, row)

    async def call(
        self,
        at: datetime,
        agent: str | None,
        version: str,
        variant: str,
        *,
        rollout: int | None = None,
        fallback: bool = False,
        status: int = 200,
        latency: float = 100.0,
        verified: bool = True,
    ) -> None:
        self._number += 1
        await self._admin.execute(
            _CALL,
            f"chatcmpl-{self._number}",
            at,
            latency,
            agent,
            verified,
            version,
            variant,
            rollout,
            fallback,
            status,
        )

    async def play(
        self,
        assignment: Assignment,
        windows: int,
        pnl: Callable[[int, int, bool], float],
        *,
        first: int = 0,
        agents: Sequence[str] = AGENTS,
        matured: bool = True,
        settled: bool = True,
        verified: bool = True,
        fallback: Callable[[int, int, bool], bool] = lambda *_: False,
    ) -> None:
        """Each agent asks once a window and gives one order worth `pnl(agent, window, candidate)` USD."""
        origin = datetime.fromtimestamp(assignment.origin, UTC)
        rows, orders = [], []
        for window in range(first, first + windows):
            at = origin + timedelta(hours=window, minutes=7)
            window_id = window_id_at(at)
            for number, agent in enumerate(agents):
                arm = assignment.arm(agent, at.timestamp())
                candidate = arm == "candidate"
                await self.call(
                    at,
                    agent,
                    assignment.version if candidate else assignment.incumbent,
                    arm,
                    rollout=assignment.rollout_id,
                    verified=verified,
                    fallback=fallback(number, window, candidate),
                )
                rows.append((f"{window_id} {agent}", agent, window_id, at))
                worth = float(pnl(number, window, candidate))
                orders.append((f"order {window_id} {agent}", agent, window_id, at, worth, matured))
            if settled:
                await self._admin.execute(_STATE, window_id)
        await self._admin.executemany(_ROW, rows)
        await self._admin.executemany(_ORDER, orders)


def noisy(effect: float, seed: int = 0) -> Callable[[int, int, bool], float]:
    """P&L with persistent agents, a common market and noise of 10 USD; `effect` USD with the candidate."""
    rng = np.random.default_rng(seed)
    edge, market = 20 * rng.standard_normal(1000), 15 * rng.standard_normal(10_000)
    return lambda agent, window, candidate: (
        edge[agent] + market[window] + 10 * rng.standard_normal() + effect * candidate
    )
