"""What an examination says about a player: Babylon's metrics, and those that a trader is judged by.

Money in USD. Predictions are paid what they cost and what they brought, not by being right; drawdown follows
time, not the order of a list; directions count; a response time is the policy's, not the simulator's.
"""

import math
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from babylon_rl.benchmark.exam import Record
from babylon_rl.benchmark.snapshot import Snapshot
from babylon_rl.errors import BabylonError
from babylon_rl.outcomes.pricing import PREDICTION
from babylon_rl.simulation.trader import BANKROLL

SECONDS_PER_YEAR = 365 * 24 * 3600


class ImpossibleMetricsError(BabylonError):
    """Metrics that contradict each other; an examination's never do."""


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """One player on one snapshot."""

    total_pnl: float
    total_return: float
    """On the bankroll."""
    prediction_pnl: float
    total_positions: int
    """Prediction positions that were resolved."""
    correct_predictions: int
    incorrect_predictions: int
    accuracy: float
    """Of resolved predictions; 0 if there is none."""
    avg_pnl_per_position: float
    perp_pnl: float
    total_trades: int
    """Perpetual positions."""
    profitable_trades: int
    win_rate: float
    avg_pnl_per_trade: float
    liquidations: int
    max_drawdown: float
    """Largest fall of equity from an earlier peak, as a share of that peak; 1 where all of it was lost."""
    max_drawdown_usd: float
    sharpe: float
    """Mean over spread of the returns between decisions, by the square root of such stretches in a year."""
    decisions: int
    invalid: int
    refused: int
    holds: int
    posts_created: int
    reputation_gained: int
    avg_response_ms: float
    max_response_ms: float
    optimality_score: float
    """Percent of decisions that took the market and the direction that hindsight would have."""

    @property
    def badge(self) -> str:
        """Babylon's word for the optimality score."""
        for least, word in ((80, "Excellent"), (60, "Good"), (40, "Fair")):
            if self.optimality_score >= least:
                return word
        return "Poor"

    def to_dict(self) -> dict[str, Any]:
        """Plain values in the order of the fields."""
        return asdict(self)


def measure(record: Record, snapshot: Snapshot) -> Metrics:
    """The metrics of a player, checked."""
    account, decided = record.account, record.decisions
    bets = [position for position in account.positions if position.kind == PREDICTION]
    trades = [position for position in account.positions if position.kind != PREDICTION]
    resolved = [position for position in bets if position.right is not None]
    correct, won = sum(bool(p.right) for p in resolved), sum(p.pnl > 0 for p in trades)
    prediction_pnl, perp_pnl = sum(p.pnl for p in bets), sum(p.pnl for p in trades)
    share, fall = drawdown(account.equity)
    times = [1000 * decision.seconds for decision in decided]
    return check(
        Metrics(
            total_pnl=prediction_pnl + perp_pnl,
            total_return=(account.equity[-1] - BANKROLL) / BANKROLL,
            prediction_pnl=prediction_pnl,
            total_positions=len(resolved),
            correct_predictions=correct,
            incorrect_predictions=len(resolved) - correct,
            accuracy=_ratio(correct, len(resolved)),
            avg_pnl_per_position=_ratio(prediction_pnl, len(bets)),
            perp_pnl=perp_pnl,
            total_trades=len(trades),
            profitable_trades=won,
            win_rate=_ratio(won, len(trades)),
            avg_pnl_per_trade=_ratio(perp_pnl, len(trades)),
            liquidations=sum(p.liquidated for p in trades),
            max_drawdown=share,
            max_drawdown_usd=fall,
            sharpe=sharpe(returns_between_decisions(record, snapshot), snapshot),
            decisions=len(decided),
            invalid=sum(d.outcome == "invalid" for d in decided),
            refused=sum(d.outcome in ("refused", "unpriced") for d in decided),
            holds=sum(d.outcome == "hold" for d in decided),
            posts_created=sum(d.outcome == "post" for d in decided),
            reputation_gained=10 * correct - 5 * (len(resolved) - correct),
            avg_response_ms=_ratio(sum(times), len(times)),
            max_response_ms=max(times, default=0.0),
            optimality_score=100 * _ratio(sum(d.matched for d in decided), len(decided)),
        )
    )


def drawdown(equity: list[float]) -> tuple[float, float]:
    """Largest fall from an earlier peak in time order: as a share of the peak, and in USD."""
    path = np.array(equity, dtype=float)
    peak = np.maximum.accumulate(path)
    share = np.divide(peak - path, peak, out=np.zeros_like(path), where=peak > 0)
    return min(1.0, float(share.max(initial=0.0))), float((peak - path).max(initial=0.0))


def returns_between_decisions(record: Record, snapshot: Snapshot) -> np.ndarray:
    """Changes of equity over the bankroll from one decision to the next, and to the end."""
    path = record.account.equity
    return np.diff(np.array([*(path[tick] for tick in snapshot.decisions), path[-1]])) / BANKROLL


def sharpe(returns: np.ndarray, snapshot: Snapshot) -> float:
    """Annualised Sharpe ratio without a riskless rate; 0 where nothing varies."""
    spread = float(returns.std(ddof=1)) if returns.size > 1 else 0.0
    if spread < 1e-12:
        return 0.0
    stretch = snapshot.ticks * snapshot.tick_seconds / returns.size
    return float(returns.mean()) / spread * math.sqrt(SECONDS_PER_YEAR / stretch)


def check(metrics: Metrics) -> Metrics:
    """Returns metrics that can be.

    Raises:
        ImpossibleMetricsError: A number is not finite or out of range, or counts do not add up.
    """
    problem = next(
        (f"{f.name} is {v}" for f in fields(metrics) if not math.isfinite(v := getattr(metrics, f.name))), ""
    )
    for name in ("accuracy", "win_rate", "max_drawdown"):
        if not 0 <= getattr(metrics, name) <= 1:
            problem = problem or f"{name} is {getattr(metrics, name)}"
    if metrics.correct_predictions + metrics.incorrect_predictions != metrics.total_positions:
        problem = problem or "right and wrong predictions do not add up"
    if abs(metrics.accuracy - _ratio(metrics.correct_predictions, metrics.total_positions)) > 0.01:
        problem = problem or "the accuracy is not that of the predictions"
    if abs(metrics.win_rate - _ratio(metrics.profitable_trades, metrics.total_trades)) > 0.01:
        problem = problem or "the win rate is not that of the trades"
    if problem:
        raise ImpossibleMetricsError(f"impossible metrics: {problem}")
    return metrics


def _ratio(part: float, whole: int) -> float:
    return part / whole if whole else 0.0
