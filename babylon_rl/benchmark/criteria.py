"""Seed 002's list of what a successful training looks like, each item met, not met or not measurable.

"Not measurable" is an answer: it says how large an effect would have had to be to show (`detectable`).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from babylon_rl.benchmark.statistics import Interval, mean, minimum_detectable_effect, studentised_interval

Status = Literal["met", "not met", "not measurable"]

RANKED_SHARE = 0.9
"""Share of the day's groups that must rank their members for "clear ranking" to be met."""

PNL_IMPROVEMENT = 0.10
"""Seed 002: "10%+ improvement in P&L"."""


@dataclass(frozen=True, slots=True)
class Criterion:
    """One line of the summary.

    Attributes:
        name: What seed 002 asks for.
        status: `met`, `not met` or `not measurable`.
        figure: The measured value, and where nothing can be said, the detectable one; for a person.
    """

    name: str
    status: Status
    figure: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SuccessMetrics:
    """What the criteria are judged by; None where it was not measured.

    The intervals are candidate minus base, paired by held-out market.

    Attributes:
        groups: Scored groups of the training batch's day.
        ranked_groups: Those among them whose rewards differ.
        losses: Training loss of each optimizer step, in order.
        gain: Return on start equity per market.
        base_return: Mean return of the base model on these markets.
        win_rate: Share of profitable trades.
        invalid_rate: Share of invalid actions (less is better).
        timing: Share of orders that the price then moved in favour of.
    """

    groups: int = 0
    ranked_groups: int = 0
    losses: Sequence[float] = ()
    gain: Interval | None = None
    base_return: float = math.nan
    win_rate: Interval | None = None
    invalid_rate: Interval | None = None
    timing: Interval | None = None


def success_criteria(metrics: SuccessMetrics) -> list[Criterion]:
    """The six measurable criteria of seed 002, in its order."""
    target = PNL_IMPROVEMENT * abs(metrics.base_return)
    earned = f"base earns {metrics.base_return:+.4f}, 10 % of it is {target:.4f}"
    return [
        _ranking(metrics.groups, metrics.ranked_groups),
        _loss(metrics.losses),
        _compare("P&L at least 10 % better than the base model", metrics.gain, target=target, note=earned),
        _compare("better win rate", metrics.win_rate),
        _compare("fewer errors", metrics.invalid_rate, less_is_better=True),
        _compare("better market timing", metrics.timing),
    ]


def _ranking(groups: int, ranked: int) -> Criterion:
    name = "rewards rank the agents clearly"
    if groups == 0:
        return Criterion(name, "not measurable", "no scored group")
    status: Status = "met" if ranked >= RANKED_SHARE * groups else "not met"
    return Criterion(name, status, f"{ranked} of {groups} groups rank their members")


def _loss(losses: Sequence[float]) -> Criterion:
    """Compares the means of the two halves; a policy-gradient loss is mostly noise, which the figure says."""
    name = "training loss falls"
    finite = [loss for loss in losses if math.isfinite(loss)]
    half = len(finite) // 2
    if half < 2:
        return Criterion(name, "not measurable", f"{len(finite)} optimizer steps")
    first, second = studentised_interval(finite[:half]), studentised_interval(finite[-half:])
    spread = math.hypot(first.sd, second.sd)
    figure = f"{mean(finite[:half]):+.4f} in the first half, {mean(finite[-half:]):+.4f} in the second"
    change, detectable = second.mean - first.mean, minimum_detectable_effect(spread, half)
    if abs(change) < 1.96 * spread / math.sqrt(half):
        return Criterion(name, "not measurable", f"{figure}; detectable change {detectable:.4f}")
    return Criterion(name, "met" if change < 0 else "not met", figure)


def _compare(
    name: str, interval: Interval | None, *, target: float = 0.0, less_is_better: bool = False, note: str = ""
) -> Criterion:
    if interval is None or not math.isfinite(target):
        return Criterion(name, "not measurable", "not measured")
    figure = str(interval) + (f"; {note}" if note else "")
    if less_is_better:
        interval = replace(interval, mean=-interval.mean, low=-interval.high, high=-interval.low)
    if interval.low > target:
        return Criterion(name, "met", figure)
    if interval.high < target:
        return Criterion(name, "not met", figure)
    detectable = target + interval.minimum_detectable_effect()
    return Criterion(name, "not measurable", f"{figure}; detectable from {detectable:.4f}")
