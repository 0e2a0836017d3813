"""Does the gate keep its promises? False promotions in a year, coverage, power, and the order of a replay.

    python benchmarks/gate.py [--quick] [--json]

- False promotions: years in which a model that is no better is tried every day, each on fresh markets, and
  somebody looks after every market. A year has one incumbent, so it is one budget period. Beside it: the same
  years judged by Student's interval at 5 % each day, looked at once and every 64 markets.
- Coverage: 95 % intervals for the mean of differences that a rare liquidation skews; the worst shape and n.
- Power: how often a true difference of the printed minimum detectable effect gets its lower end above zero.
- Replay: policies of known skill, better and worse than the incumbent, ordered by decision replay on recorded
  days in a real database; the area under the curve of "is it better?".

Everything that judges is what the gate itself calls (`babylon_rl.benchmark`, `babylon_rl.deployment`).
"""

import argparse
import json
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray
from parts.gate_replay import replay_order
from parts.gate_shapes import LIQUIDATIONS, SHAPES, Array, differences, population
from parts.machine import machine

from babylon_rl.benchmark.arena import GATE_WINDOWS
from babylon_rl.benchmark.gate import decide
from babylon_rl.benchmark.statistics import (
    DIFFERENCE_RANGE,
    alpha_for,
    paired_interval,
    studentised_interval,
    wealth_reaches,
    wilson_interval,
)
from babylon_rl.simulation.play import RETURN_BOUND

BOUND = 2 * RETURN_BOUND
ALPHA = 0.05
DAYS = 365
SIZES = (64, 256, 1024)
LOOK_EVERY = 64
BOOTSTRAP_DRAWS = 300


def years(count: int, quick: bool) -> dict[str, Any]:
    """Share of null years with a promotion, by the gate with peeking and by a naive interval."""
    rng = np.random.default_rng(1)
    sources = [*differences(2_000 if quick else 20_000).values()]
    sources += [population(name, rng, bound=BOUND) for name in LIQUIDATIONS]
    nulls = [source - source.mean() for source in sources]
    promoted = np.zeros(count, dtype=bool)
    naive_once, naive_peeking, confirmed = (np.zeros(count, dtype=bool) for _ in range(3))
    for day in range(1, DAYS + 1):
        shape = nulls[day % len(nulls)]
        values = np.clip(rng.choice(shape, (count, GATE_WINDOWS)), -BOUND, BOUND)
        alpha = alpha_for(day, ALPHA)
        reached = _above_zero(values, alpha)
        promoted |= reached
        for year in np.flatnonzero(reached):
            interval = paired_interval(values[year], -BOUND, BOUND, alpha)
            verdict = decide(interval, invalid_rate=0.0, incumbent_invalid_rate=0.0)
            confirmed[year] |= verdict.decision == "promoted"
        sums, squares = values.cumsum(axis=1), (values**2).cumsum(axis=1)
        for n in range(LOOK_EVERY, GATE_WINDOWS + 1, LOOK_EVERY):
            mean = sums[:, n - 1] / n
            error = np.sqrt(np.maximum(squares[:, n - 1] / n - mean**2, 1e-12) / n)
            above = mean - 1.96 * error > 0
            naive_peeking |= above
            if n == GATE_WINDOWS:
                naive_once |= above
    interval = wilson_interval(int(promoted.sum()), count)
    return {
        "false_promotion_year": float(promoted.mean()),
        "false_promotion_year_ci": [interval.low, interval.high],
        "false_promotion_year_fixed_n": float(confirmed.mean()),
        "naive_year": float(naive_once.mean()),
        "naive_year_peeking": float(naive_peeking.mean()),
        "years": count,
    }


def coverage(repeats: int, widths: int) -> dict[str, Any]:
    """Worst coverage of each construction over shapes and sizes, and the gate's width over Student's."""
    low, high = DIFFERENCE_RANGE
    rng = np.random.default_rng(2)
    table: dict[str, dict[str, dict[str, float]]] = {}
    for shape in SHAPES:
        source = population(shape, rng, bound=high)
        truth = float(source.mean())
        for n in SIZES:
            samples = rng.choice(source, (repeats, n))
            unit, mean = (samples - low) / (high - low), np.full(repeats, (truth - low) / (high - low))
            target = float(np.log(2 / ALPHA))
            missed = wealth_reaches(unit, mean, target) | wealth_reaches(1 - unit, 1 - mean, target)
            plain = [studentised_interval(row, ALPHA, correct_skewness=False) for row in samples]
            hall = [studentised_interval(row, ALPHA) for row in samples]
            boot = _bootstrap(samples[: repeats // 4], rng)
            chosen = [paired_interval(row, low, high, ALPHA) for row in samples[:widths]]
            table.setdefault(shape, {})[str(n)] = {
                "betting": float(1 - missed.mean()),
                "studentised": float(np.mean([i.low <= truth <= i.high for i in plain])),
                "studentised_corrected": float(np.mean([i.low <= truth <= i.high for i in hall])),
                "bootstrap": float(np.mean((boot[0] <= truth) & (truth <= boot[1]))),
                "width_ratio": float(
                    np.median([i.high - i.low for i in chosen]) / np.median([i.high - i.low for i in plain])
                ),
            }
    cells = [(shape, row) for shape, sizes in table.items() for row in sizes.values()]
    methods = ("betting", "studentised", "studentised_corrected", "bootstrap")
    return {
        "coverage": min(row["betting"] for shape, row in cells if shape in LIQUIDATIONS),
        "worst_coverage": {method: min(row[method] for _, row in cells) for method in methods},
        "coverage_table": table,
    }


def power(repeats: int, quick: bool) -> dict[str, Any]:
    """How often the true difference that a comparison prints as detectable is found by another such one: the
    mean over comparisons, each with its own printed effect."""
    rng = np.random.default_rng(3)
    alpha = alpha_for(1, ALPHA)
    found = {}
    sources = differences(2_000 if quick else 20_000)
    sources |= {name: population(name, rng, bound=BOUND) for name in LIQUIDATIONS}
    for name, source in sources.items():
        null = source - source.mean()
        intervals = [
            paired_interval(rng.choice(null, GATE_WINDOWS).clip(-BOUND, BOUND), -BOUND, BOUND, alpha)
            for _ in range(20 if quick else 100)
        ]
        printed = np.array([interval.minimum_detectable_effect() for interval in intervals])
        effects = np.linspace(printed.min(), printed.max(), 8)
        powers = []
        for effect in effects:
            # A gain that a bound cuts off is made up for by the others, so that the mean is the effect.
            shifted = np.clip(null + effect, -BOUND, BOUND)
            shifted = np.clip(shifted + effect - shifted.mean(), -BOUND, BOUND)
            values = rng.choice(shifted, (repeats, GATE_WINDOWS))
            powers.append(float(_above_zero(values, alpha).mean()))
        found[name] = {
            "minimum_detectable_effect": float(np.median(printed)),
            "power": float(np.interp(printed, effects, powers).mean()),
        }
    return {"power": min(one["power"] for one in found.values()), "power_table": found}


def _above_zero(values_R_n: NDArray[Any], alpha: float) -> NDArray[np.bool_]:
    """The gate's own test of "the mean is at most zero", refuted as soon as the wealth reaches its target:
    that is what somebody finds who looks after every market."""
    unit_R_n: Array = (values_R_n + BOUND) / (2 * BOUND)
    return wealth_reaches(unit_R_n, np.full(len(unit_R_n), 0.5), float(np.log(2 / alpha)))


def _bootstrap(samples: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    n = samples.shape[1]
    counts = rng.multinomial(n, np.full(n, 1.0 / n), BOOTSTRAP_DRAWS).astype(np.float64)
    low, high = np.quantile(samples @ counts.T / n, (ALPHA / 2, 1 - ALPHA / 2), axis=1)
    return low, high


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer samples: a glance, not a figure")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    arguments = parser.parse_args()
    quick, started = arguments.quick, time.process_time()
    figures: dict[str, Any] = years(50 if quick else 1_000, quick)
    low, high = figures["false_promotion_year_ci"]
    print(
        f"a year of null candidates, one a day, looked at after every market: "
        f"{figures['false_promotion_year']:.1%} [{low:.1%}, {high:.1%}] of {figures['years']} years promote "
        f"one; Student's 95 % once a day: {figures['naive_year']:.1%}, looked at every "
        f"{LOOK_EVERY} markets: {figures['naive_year_peeking']:.1%}",
        flush=True,
    )
    figures |= coverage(200 if quick else 2_000, 3 if quick else 10)
    print("worst coverage of nominal 95 %: " + ", ".join(
        f"{method} {value:.1%}" for method, value in figures["worst_coverage"].items()
    ) + f"; on liquidations the gate's {figures['coverage']:.1%}", flush=True)  # fmt: skip
    for shape, sizes in figures["coverage_table"].items():
        cells = "  ".join(
            f"n {n}: {row['betting']:.1%} (Student {row['studentised']:.1%}), width × "
            f"{row['width_ratio']:.2f}"
            for n, row in sizes.items()
        )
        print(f"  {shape:<25}{cells}")
    figures |= power(200 if quick else 2_000, quick)
    print(f"power at the printed minimum detectable effect: {figures['power']:.1%} at worst", flush=True)
    for name, one in figures["power_table"].items():
        print(f"  {name:<25}{one['minimum_detectable_effect']:.4f}  {one['power']:.1%}")
    figures |= replay_order(seeds=2 if quick else 8, days=1 if quick else 10)
    print(
        f"replay: area under the curve {figures['replay_auc']:.3f}, {len(figures['replay_scores'])} "
        f"policies on {figures['replay_decisions']} recorded decisions each; {figures['replay_found']} of "
        "them told from the incumbent by the valid bound, "
        f"{figures['replay_wrong']} the wrong way"
    )
    figures |= {"quick": quick, "cpu_seconds": round(time.process_time() - started, 1)}
    print(f"{figures['cpu_seconds']:.0f} CPU seconds")
    if arguments.json:
        print(json.dumps(figures | {"machine": machine("numpy", "scipy", "asyncpg")}))


if __name__ == "__main__":
    main()
