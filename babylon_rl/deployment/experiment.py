"""The verdict on an experiment: promote, hold or roll back, from what agents did with it and without.

Promotion needs a gain in attributed P&L that is significant at whatever look it is found; a loss in P&L, more
invalid actions or more failures take the candidate back. Reward, win rate and latency are shown beside them.
Each metric is one confidence sequence over the pairs of blocks.
"""

from collections.abc import Mapping
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from babylon_rl.deployment import switchback
from babylon_rl.deployment.rollout_rows import Decision
from babylon_rl.deployment.sequential import Band, band

Floats = NDArray[np.float64]

Metric = Literal["pnl", "reward", "win_rate", "invalid", "failures", "latency_ms"]
METRICS: tuple[Metric, ...] = ("pnl", "reward", "win_rate", "invalid", "failures", "latency_ms")
BETTER_IS_LESS: frozenset[Metric] = frozenset({"invalid", "failures", "latency_ms"})
GUARDS: tuple[Metric, ...] = ("invalid", "failures")
"""Beside P&L, what takes a candidate back when it gets worse."""

START_EQUITY = 1000.0
"""USD that the game gives an agent; attributed P&L of an hour is clipped to it on both sides."""

LABELS: dict[Metric, str] = {
    "pnl": "attributed P&L (USD per agent and hour)",
    "reward": "reward",
    "win_rate": "win rate of orders",
    "invalid": "invalid actions (share)",
    "failures": "failed or fallback-served calls (share)",
    "latency_ms": "latency (ms)",
}


class MetricResult(msgspec.Struct, frozen=True):
    """One metric: candidate minus incumbent, in the metric's unit."""

    label: str
    band: Band
    candidate: float | None
    """Plain mean of the candidate's agent-windows; for the eye, not for the decision."""
    incumbent: float | None

    @property
    def worse(self) -> bool:
        return self.band.decided < 0

    @property
    def better(self) -> bool:
        return self.band.decided > 0


class Verdict(msgspec.Struct, frozen=True):
    """What follows from a look."""

    decision: Decision
    reason: str
    metrics: dict[Metric, MetricResult]
    pairs: int
    """Pairs of blocks with both versions in them."""
    windows: int
    """Hours measured."""
    left_out: dict[str, int]
    """Agent-windows whose P&L does not count, by reason."""


class Panel(msgspec.Struct, frozen=True):
    """What was measured: shape (agents, windows) from the experiment's first window on; nan for nothing.

    `draws` has the shape (agents, pairs), `percentages` (pairs,).
    """

    values: Mapping[Metric, Floats]
    candidate: NDArray[np.bool_]
    """Who played the candidate, shape (agents, windows)."""
    draws: Floats
    percentages: Floats
    block_windows: int
    left_out: Mapping[str, int] = {}


def judge(panel: Panel, *, alpha: float = 0.05, promote: bool = True) -> Verdict:
    """The verdict of one look; may be asked as often as there is something new.

    Args:
        alpha: Probability of any wrong P&L decision over all looks; each guard may spend half of it more.
        promote: Whether a gain promotes; False leaves that to an operator.
    """
    metrics: dict[Metric, MetricResult] = {
        name: _measure(panel, name, alpha if name == "pnl" else alpha / 2.0) for name in METRICS
    }
    pnl = metrics["pnl"]
    windows = int(np.isfinite(panel.values["pnl"]).any(axis=0).sum())
    decision, reason = _decide(metrics, promote)
    return Verdict(decision, reason, metrics, pnl.band.n, windows, dict(panel.left_out))


def _decide(metrics: Mapping[Metric, MetricResult], promote: bool) -> tuple[Decision, str]:
    pnl = metrics["pnl"]
    if pnl.worse:
        return "roll_back", f"{pnl.label} fell: {show(pnl.band)}"
    for name in GUARDS:
        if metrics[name].worse:
            return "roll_back", f"{metrics[name].label} rose: {show(metrics[name].band, flip=True)}"
    if pnl.better:
        reason = f"{pnl.label} rose: {show(pnl.band)}"
        return ("promote", reason) if promote else ("hold", f"{reason}; an operator promotes")
    return "hold", f"{pnl.label} is undecided: {show(pnl.band)}"


def show(found: Band, *, flip: bool = False) -> str:
    """An interval in words, with n and the minimum detectable effect."""
    if found.mean is None:
        return "nothing measured yet"
    mean, low, high = found.mean, found.low, found.high
    if flip:
        mean, low, high = -mean, None if high is None else -high, None if low is None else -low
    if low is None or high is None or found.detectable is None:
        return f"{mean:+.4g} (n = {found.n} pairs of blocks, too few to decide)"
    return (
        f"{mean:+.4g} [{low:+.4g}, {high:+.4g}] (n = {found.n} pairs of blocks, "
        f"minimum detectable effect {found.detectable:.3g})"
    )


def _measure(panel: Panel, name: Metric, alpha: float) -> MetricResult:
    values = panel.values[name]
    candidate = values[panel.candidate & np.isfinite(values)]
    incumbent = values[~panel.candidate & np.isfinite(values)]
    # Every band points the same way: above zero means that the candidate is better.
    found = compare(-values if name in BETTER_IS_LESS else values, panel, alpha)
    return MetricResult(LABELS[name], found, _mean(candidate), _mean(incumbent))


def compare(values: Floats, panel: Panel, alpha: float) -> Band:
    """The confidence sequence of one metric over the pairs of blocks."""
    first, second = switchback.block_means(values, panel.block_windows)
    pairs = first.shape[-1]
    signs = switchback.signs(panel.draws[:, :pairs], panel.percentages[:pairs])
    differences, agents = switchback.contrasts(first, second, signs)
    return band(differences, agents, alpha)


def _mean(values: Floats) -> float | None:
    return float(values.mean()) if values.size else None


def to_report(verdict: Verdict) -> dict[str, Any]:
    """The verdict as JSON, for `rl.rollout_checks`, the CLI and the dashboard.

    Bands of metrics where less is better are turned round: a positive difference is always more of it.
    """
    metrics = {}
    for name, result in verdict.metrics.items():
        entry = msgspec.to_builtins(result)
        if name in BETTER_IS_LESS and result.band.mean is not None:
            flipped = entry["band"]
            low, high = flipped["low"], flipped["high"]
            flipped["mean"] = -flipped["mean"]
            flipped["low"] = None if high is None else -high
            flipped["high"] = None if low is None else -low
        metrics[name] = entry
    return {
        "decision": verdict.decision,
        "reason": verdict.reason,
        "pairs": verdict.pairs,
        "windows": verdict.windows,
        "leftOut": verdict.left_out,
        "metrics": metrics,
    }
