"""Does the watch over a rollout decide rightly, although it looks all the time? A/A tests and worse models.

    python benchmarks/rollout.py [--quick] [--json]

Experiments in a market whose agents differ for good, carry positions over and move the price together
(`parts/rollout_world.py`), decided by what decides in production: `deployment.assignment`, `switchback` and
`sequential`, at every pair of blocks. Some are replayed look by look through `experiment.judge` itself, which
has to say the same of P&L, and is then asked about everything that it looks at: reward, win rate, invalid
actions, failures and latency too, of equal models and of candidates with more invalid actions or failures.

Beside it, on equal models: a t-test at every window over the same switchback, and the same confidence
sequence where agents keep their version for good.

A regression is 0.3 standard deviations of the paired difference: of the difference between the candidates'
and the others' mean P&L in one window, each agent compared with its own mean.
"""

import argparse
import json
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from parts.machine import machine
from parts.rollout_world import (
    STUBBORN,
    Worlds,
    other_metrics,
    pair_contrasts,
    paired_deviation,
    play,
    play_sticky,
    window_differences,
)

from babylon_rl.deployment.experiment import GUARDS, METRICS, Metric, Panel, judge
from babylon_rl.deployment.sequential import FIRST_LOOK, bands_over_time
from babylon_rl.settings import Settings

AGENTS, WINDOWS, SHARE = 20, 400, 50.0
REGRESSION = 0.3
CHUNK = 100
"""Experiments at a time: they are as large as memory allows, not larger."""

Floats = NDArray[np.float64]


def first_looks(low: Floats, high: Floats) -> NDArray[np.int64]:
    """Pairs until each experiment is decided, negative for a rollback; 0 where it never is."""
    better, worse = low > 0, high < 0
    decided = better | worse
    look = decided.argmax(axis=1) + 1
    sign = np.where(worse.any(axis=1) & (np.take_along_axis(worse, look[:, None] - 1, 1)[:, 0]), -1, 1)
    return np.where(decided.any(axis=1), look * sign, 0)


def switchbacks(
    seed: int, runs: int, block: int, alpha: float, effect: float = 0.0, **market: float
) -> tuple[NDArray[np.int64], list[Worlds]]:
    """Decisions of many experiments, and their worlds chunk by chunk (only the first chunk is kept)."""
    rng, decisions, kept = np.random.default_rng(seed), [], []
    for _ in range(0, runs, CHUNK):
        worlds = play(rng, CHUNK, AGENTS, WINDOWS, block, effect, SHARE, **market)
        _, low, high = bands_over_time(*pair_contrasts(worlds, block, SHARE), alpha)
        decisions.append(first_looks(low, high))
        kept = kept or [worlds]
    return np.concatenate(decisions), kept


def naive_promotions(worlds: Worlds) -> NDArray[np.bool_]:
    """Whether a t-test over all agent-hours so far, at 5 % and at every window, ever finds a gain."""
    mask, pnl = worlds.candidate, worlds.pnl
    sides = []
    for chosen in (mask, ~mask):
        n = np.maximum(chosen.sum(axis=1).cumsum(axis=1), 2)
        total = np.where(chosen, pnl, 0.0).sum(axis=1).cumsum(axis=1)
        squares = np.where(chosen, pnl**2, 0.0).sum(axis=1).cumsum(axis=1)
        mean = total / n
        sides.append((mean, (squares / n - mean**2) / (n - 1)))
    (mine, mine_error), (theirs, theirs_error) = sides
    t = (mine - theirs) / np.sqrt(mine_error + theirs_error)
    return (t[:, FIRST_LOOK:] > 1.96).any(axis=1)


def sticky_promotions(worlds: Worlds, alpha: float) -> NDArray[np.bool_]:
    """The same confidence sequence over windows, where agents keep their version."""
    differences = window_differences(worlds)
    known = np.isfinite(differences)
    _, low, high = bands_over_time(np.where(known, differences, 0.0), known.astype(float), alpha)
    return first_looks(low, high) > 0


def judged(
    worlds: Worlds, experiment: int, block: int, alpha: float, others: Mapping[Metric, Floats] | None = None
) -> int:
    """The same experiment look by look through `judge`: as `first_looks`."""
    nothing = np.full_like(worlds.pnl, np.nan)
    measured = {name: nothing for name in METRICS} | {"pnl": worlds.pnl} | dict(others or {})
    for look in range(FIRST_LOOK, worlds.draws.shape[2] + 1):
        until = look * 2 * block
        panel = Panel(
            {name: values[experiment, :, :until] for name, values in measured.items()},  # type: ignore[misc]
            worlds.candidate[experiment, :, :until],
            worlds.draws[experiment, :, :look],
            np.full(look, SHARE),
            block,
        )
        decision = judge(panel, alpha=alpha).decision
        if decision != "hold":
            return look if decision == "promote" else -look
    return 0


def everything_judged(runs: int, block: int, alpha: float) -> dict[str, Any]:
    """What `judge` makes of all metrics together; a guard rises by `REGRESSION` of its paired deviation."""
    rng = np.random.default_rng(4)
    found: dict[str, list[int]] = {"equal": []} | {name: [] for name in GUARDS}
    for _ in range(0, runs, CHUNK):
        worlds = play(rng, min(CHUNK, runs), AGENTS, WINDOWS, block, 0.0, SHARE)
        others = other_metrics(rng, worlds)
        for case, decisions in found.items():
            measured = dict(others)
            if case != "equal":
                rise = REGRESSION * paired_deviation(replace(worlds, pnl=others[case]))  # type: ignore[index]
                measured[case] = others[case] + rise * worlds.candidate  # type: ignore[index]
            decisions += [judged(worlds, one, block, alpha, measured) for one in range(len(worlds.pnl))]
    decided = {case: np.array(decisions) for case, decisions in found.items()}
    figures = {
        "all_metrics_runs": len(decided["equal"]),
        "all_metrics_false_promotion": share(decided["equal"] > 0),
        "all_metrics_false_rollback": share(decided["equal"] < 0),
        "all_metrics_false_rollback_ci": interval(decided["equal"] < 0),
    }
    for name in GUARDS:
        figures[f"{name}_rises_rolled_back"] = share(decided[name] < 0)
        figures[f"{name}_rises_rolled_back_ci"] = interval(decided[name] < 0)
    return figures


def measure(quick: bool) -> dict[str, Any]:
    settings = Settings(_env_file=None)
    block, alpha = settings.rollout_block_windows, settings.rollout_alpha
    runs = 200 if quick else 2000
    equal, (worlds,) = switchbacks(1, runs, block, alpha)
    deviation = paired_deviation(worlds)
    worse, _ = switchbacks(2, runs, block, alpha, -REGRESSION * deviation)
    longer, (remembering,) = switchbacks(5, runs, block, alpha, **STUBBORN)
    loss = -REGRESSION * paired_deviation(remembering)
    worse_longer, _ = switchbacks(6, runs, block, alpha, loss, **STUBBORN)
    rng = np.random.default_rng(3)
    sticky, naive = [], []
    for _ in range(0, runs, CHUNK):
        sticky.append(sticky_promotions(play_sticky(rng, CHUNK, AGENTS, WINDOWS, SHARE), alpha))
        naive.append(naive_promotions(play(rng, CHUNK, AGENTS, WINDOWS, block, 0.0, SHARE)))
    replayed = range(3 if quick else 10)
    naive_found, sticky_found = np.concatenate(naive), np.concatenate(sticky)
    found = -worse[worse < 0] * 2 * block
    return {
        "runs": runs,
        "aa_false_promotion": share(equal > 0),
        "aa_false_promotion_ci": interval(equal > 0),
        "aa_false_rollback": share(equal < 0),
        "naive_false_promotion": share(naive_found),
        "naive_false_promotion_ci": interval(naive_found),
        "sticky_false_promotion": share(sticky_found),
        "sticky_false_promotion_ci": interval(sticky_found),
        "regressions_rolled_back": share(worse < 0),
        "regressions_rolled_back_ci": interval(worse < 0),
        "regressions_promoted": share(worse > 0),
        "median_windows_to_detect": float(np.median(found)) if len(found) else None,
        "stubborn_false_promotion": share(longer > 0),
        "stubborn_false_promotion_ci": interval(longer > 0),
        "stubborn_rolled_back": share(worse_longer < 0),
        "stubborn_rolled_back_ci": interval(worse_longer < 0),
        "first_decision_windows": FIRST_LOOK * 2 * block,
        "paired_deviation_usd": round(deviation, 3),
        "judge_agrees": all(judged(worlds, one, block, alpha) == equal[one] for one in replayed),
        "agents": AGENTS,
        "windows": WINDOWS,
        "block_windows": block,
        "alpha": alpha,
    } | everything_judged(20 if quick else 300, block, alpha)


def share(found: NDArray[np.bool_]) -> float:
    return round(float(found.mean()), 4)


def interval(found: NDArray[np.bool_]) -> list[float]:
    """Wilson's 95 % interval of a share."""
    n, p, z = len(found), float(found.mean()), 1.96
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return [round(float(max(0.0, centre - half)), 4), round(float(min(1.0, centre + half)), 4)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="200 experiments of each kind instead of 2,000")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    arguments = parser.parse_args()
    started = time.perf_counter()
    figures = measure(arguments.quick)
    print(
        f"equal models promoted        {figures['aa_false_promotion']:.1%} {figures['aa_false_promotion_ci']}"
    )
    print(f"  by a t-test at each window {figures['naive_false_promotion']:.1%}")
    print(f"  with sticky assignment     {figures['sticky_false_promotion']:.1%}")
    print(
        f"worse models taken back      {figures['regressions_rolled_back']:.1%} within {WINDOWS} windows, "
        f"half of them within {figures['median_windows_to_detect']}"
    )
    print(f"  no sooner than             {figures['first_decision_windows']} windows")
    print(
        f"where markets remember more  {figures['stubborn_false_promotion']:.1%} promoted, "
        f"{figures['stubborn_rolled_back']:.1%} taken back"
    )
    print(
        f"equal in all metrics         {figures['all_metrics_false_promotion']:.1%} promoted, "
        f"{figures['all_metrics_false_rollback']:.1%} taken back"
    )
    for name in GUARDS:
        print(f"more {name:<9} taken back    {figures[f'{name}_rises_rolled_back']:.1%}")
    print(f"judge() agrees               {figures['judge_agrees']}")
    figures |= {"quick": arguments.quick, "seconds": round(time.perf_counter() - started, 1)}
    if arguments.json:
        print(json.dumps(figures | {"machine": machine("numpy")}))


if __name__ == "__main__":
    main()
