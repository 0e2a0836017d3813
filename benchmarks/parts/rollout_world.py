"""A market whose agents remember: what an experiment has to cope with, without any model.

Agents differ for good (an edge and a habit of being long or short), keep what they bought for some hours, and
move the price together. So their P&L is correlated over time and between agents, in calm and in wild hours,
and now and then somebody is liquidated. A worse candidate costs its agents something each hour, a part of it
only in the hour after: what a block begins with is what the block before has left behind.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from babylon_rl.deployment import switchback
from babylon_rl.deployment.assignment import arms
from babylon_rl.deployment.experiment import Metric

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

KEPT = 0.6
"""Share of a position that is still held an hour later."""
LATE = 0.3
"""Share of a candidate's effect that shows in the hour after."""
STUBBORN = {"kept": 0.85, "late": 0.5}
"""A market that remembers longer, for which nothing was tuned."""
IMPACT = 0.5
"""What the agents' mean trade does to the price, in standard deviations of an hour's return."""
EDGE, HABIT = 5.0, 0.5
"""Standard deviations of agents' persistent edge (USD an hour) and direction."""
SIZE = 10.0
"""USD that a position of one earns at a return of one standard deviation."""
LIQUIDATED, LIQUIDATION = 0.01, 100.0
"""How often in an hour somebody loses a margin, and the margin in USD."""

ACTIONS, ORDERS = 20, 3
"""An agent's actions and orders in an hour, at most."""
OUTAGE = 0.02
"""How often in an hour the upstream fails for everybody."""


@dataclass(frozen=True)
class Worlds:
    """Many independent experiments; shapes (runs, agents, windows), draws (runs, agents, pairs)."""

    pnl: Floats
    candidate: Bools
    draws: Floats


def play(
    rng: np.random.Generator,
    runs: int,
    agents: int,
    windows: int,
    block: int,
    effect: float,
    share: float,
    **market: float,
) -> Worlds:
    """Plays experiments of a candidate that changes P&L by `effect` USD per agent and hour."""
    pairs = windows // (2 * block)
    draws = rng.uniform(0, 100, (runs, agents, pairs))
    candidate = np.repeat(arms(draws, share).reshape(runs, agents, 2 * pairs), block, axis=-1)
    return Worlds(trade(rng, candidate, effect, **market), candidate, draws)


def play_sticky(rng: np.random.Generator, runs: int, agents: int, windows: int, share: float) -> Worlds:
    """The same without any effect, where agents keep their version for good."""
    draws = rng.uniform(0, 100, (runs, agents, 1))
    candidate = np.broadcast_to(draws < share, (runs, agents, windows))
    return Worlds(trade(rng, candidate, 0.0), candidate, draws)


def trade(
    rng: np.random.Generator, candidate: Bools, effect: float, kept: float = KEPT, late: float = LATE
) -> Floats:
    """P&L in USD of shape (runs, agents, windows); what is random does not look at who is a candidate."""
    runs, agents, windows = candidate.shape
    edge = rng.normal(0, EDGE, (runs, agents))
    habit = rng.normal(0, HABIT, (runs, agents))
    wild = np.exp(_persistent(rng, runs, windows) * 0.5)
    held, pnl = np.zeros((runs, agents)), np.empty(candidate.shape)
    for window in range(windows):
        traded = habit + rng.normal(0, 1, (runs, agents))
        held = kept * held + traded
        pushed = IMPACT * traded.mean(axis=1)
        moved = (rng.normal(0, 1, runs) + pushed) * wild[:, window]
        pnl[:, :, window] = edge + SIZE * held * moved[:, None]
    pnl -= LIQUIDATION * (rng.random(pnl.shape) < LIQUIDATED)
    before = np.concatenate([np.zeros((runs, agents, 1), dtype=bool), candidate[..., :-1]], axis=-1)
    return pnl + effect * ((1 - late) * candidate + late * before)


def other_metrics(rng: np.random.Generator, worlds: Worlds) -> dict[Metric, Floats]:
    """What else the watch measures, equal for both versions, in shapes as P&L; agents differ for good."""
    shape = worlds.pnl.shape
    spread = worlds.pnl.std(axis=1, keepdims=True)
    reward = (worlds.pnl - worlds.pnl.mean(axis=1, keepdims=True)) / spread
    orders = rng.integers(0, ORDERS + 1, shape)
    wins = rng.binomial(orders, 1 / (1 + np.exp(-worlds.pnl / SIZE)))
    clumsy = rng.beta(1, 30, shape[:2])[..., None]
    outage = 0.5 * (rng.random((shape[0], 1, shape[2])) < OUTAGE)
    load = np.exp(0.3 * _persistent(rng, shape[0], shape[2]))[:, None, :]
    distance = rng.lognormal(0, 0.3, shape[:2])[..., None]
    return {
        "reward": reward,
        "win_rate": np.where(orders > 0, wins / np.maximum(orders, 1), np.nan),
        "invalid": rng.binomial(ACTIONS, clumsy, shape) / ACTIONS,
        "failures": rng.binomial(ACTIONS, 0.002 + outage, shape) / ACTIONS,
        "latency_ms": 800.0 * load * distance * rng.lognormal(0, 0.2, shape),
    }


def _persistent(rng: np.random.Generator, runs: int, windows: int) -> Floats:
    """Calm and wild hours follow each other slowly: an autoregression of unit variance."""
    state, found = rng.normal(0, 1, runs), np.empty((runs, windows))
    for window in range(windows):
        state = 0.95 * state + np.sqrt(1 - 0.95**2) * rng.normal(0, 1, runs)
        found[:, window] = state
    return found


def window_differences(worlds: Worlds) -> Floats:
    """P&L: mean of the candidates minus that of the others in each window: shape (runs, windows)."""
    counts: Any = worlds.candidate.sum(axis=1)
    others = worlds.candidate.shape[1] - counts
    mine = np.where(worlds.candidate, worlds.pnl, 0.0).sum(axis=1)
    theirs = np.where(worlds.candidate, 0.0, worlds.pnl).sum(axis=1)
    both = (counts > 0) & (others > 0)
    difference = mine / np.maximum(counts, 1) - theirs / np.maximum(others, 1)
    return np.where(both, difference, np.nan)


def paired_deviation(worlds: Worlds) -> float:
    """Standard deviation of a window's paired difference: each agent compared with its own mean over time."""
    own = worlds.pnl - worlds.pnl.mean(axis=2, keepdims=True)
    return float(np.nanstd(window_differences(replace(worlds, pnl=own))))


def pair_contrasts(worlds: Worlds, block: int, share: float) -> tuple[Floats, Floats]:
    """The production code's contrasts and their weights: shapes (runs, pairs)."""
    first, second = switchback.block_means(worlds.pnl, block)
    return switchback.contrasts(first, second, switchback.signs(worlds.draws, share))
