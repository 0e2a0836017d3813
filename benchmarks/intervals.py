"""Coverage and width of intervals for the mean of paired return differences on [-2, 2].

    python benchmarks/intervals.py [--quick] [--json]

Each shape is a population of a million differences with a known mean; samples are drawn from it. Coverage of
the betting intervals is judged by whether the true mean stands (the interval is the hull of the means that
stand, so its coverage is at least that); widths come from the intervals that the gate would print. The plain
percentile bootstrap is the baseline that the review of the design warned of.
"""

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray

from babylon_rl.benchmark.statistics import (
    DIFFERENCE_RANGE,
    Bets,
    betting_interval,
    paired_interval,
    studentised_interval,
    wealth_reaches,
)

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
LOWER, UPPER = DIFFERENCE_RANGE
ALPHA = 0.05
SIZES = (64, 128, 256, 512, 1024)
METHODS = ("betting", "betting_plug_in", "studentised", "studentised_corrected", "bootstrap")
POPULATION = 1_000_000
BOOTSTRAP_DRAWS = 500


def _liquidation(rng: np.random.Generator, probability: float, loss: float, gain: float, sd: float) -> Array:
    quiet = rng.normal(gain, sd, POPULATION)
    return np.where(rng.random(POPULATION) < probability, -loss, quiet)


def _heavy_tail(rng: np.random.Generator, probability: float, sd: float) -> Array:
    """Both sides may be liquidated, the candidate three times as often, with Pareto losses."""

    def side(centre: float, p: float) -> Array:
        loss = np.where(rng.random(POPULATION) < p, 0.1 + 0.1 * rng.pareto(1.5, POPULATION), 0.0)
        return np.clip(rng.normal(centre, sd, POPULATION) - loss, -1.0, 1.0)

    return side(0.03, probability) - side(0.0, probability / 3)


SHAPES: dict[str, Callable[[np.random.Generator], Array]] = {
    "normal, sd 0.05": lambda rng: rng.normal(0.0, 0.05, POPULATION),
    "normal, sd 0.3": lambda rng: rng.normal(0.0, 0.3, POPULATION),
    "skewed, sd 0.1": lambda rng: 0.1 * (1.0 - rng.exponential(1.0, POPULATION)),
    "skewed, sd 0.3": lambda rng: 0.3 * (1.0 - rng.exponential(1.0, POPULATION)),
    "liquidation 0.3 %": lambda rng: _liquidation(rng, 0.003, 1.5, 0.01, 0.05),
    "liquidation 1 %": lambda rng: _liquidation(rng, 0.01, 0.9, 0.02, 0.05),
    "liquidation 3 %": lambda rng: _liquidation(rng, 0.03, 0.5, 0.02, 0.1),
    "liquidation 5 %, wide": lambda rng: _liquidation(rng, 0.05, 1.0, 0.08, 0.2),
    "liquidation, heavy tail": lambda rng: _heavy_tail(rng, 0.06, 0.1),
}


def _bootstrap(samples_R_n: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    n = samples_R_n.shape[1]
    counts = rng.multinomial(n, np.full(n, 1.0 / n), BOOTSTRAP_DRAWS).astype(np.float64)
    means = samples_R_n @ counts.T / n
    low, high = np.quantile(means, (ALPHA / 2, 1 - ALPHA / 2), axis=1)
    return low, high


def measure(shape: str, n: int, repeats: int, widths: int) -> dict[str, dict[str, float]]:
    """Coverage (both ends, and the share of samples whose lower end exceeds the mean) and median widths."""
    seed = list(SHAPES).index(shape)
    population = np.clip(SHAPES[shape](np.random.default_rng(seed)), LOWER, UPPER)
    truth = float(population.mean())
    rng = np.random.default_rng((seed, n))
    samples = rng.choice(population, (repeats, n))
    unit, unit_truth = (samples - LOWER) / (UPPER - LOWER), (truth - LOWER) / (UPPER - LOWER)
    target = float(np.log(2 / ALPHA))
    result: dict[str, dict[str, float]] = {}

    def note(method: str, too_high: Mask, too_low: Mask, spans: Array) -> None:
        result[method] = {
            "coverage": float(1.0 - np.mean(too_high | too_low)),
            "low_misses": float(np.mean(too_high)),
            "width": float(np.median(spans)),
        }

    betting: tuple[tuple[str, Bets], ...] = (("betting", "star"), ("betting_plug_in", "plug_in"))
    for method, bets in betting:
        too_high = wealth_reaches(unit, np.full(repeats, unit_truth), target, bets)
        too_low = wealth_reaches(1 - unit, np.full(repeats, 1 - unit_truth), target, bets)
        chosen = [betting_interval(row, LOWER, UPPER, ALPHA, bets=bets) for row in samples[:widths]]
        note(method, too_high, too_low, np.array([i.high - i.low for i in chosen]))
    for method, corrected in (("studentised", False), ("studentised_corrected", True)):
        ends = [studentised_interval(row, ALPHA, correct_skewness=corrected) for row in samples]
        low, high = np.array([i.low for i in ends]), np.array([i.high for i in ends])
        note(method, low > truth, high < truth, high - low)
    low, high = _bootstrap(samples, rng)
    note("bootstrap", low > truth, high < truth, high - low)
    return result


def machine() -> dict[str, Any]:
    memory = round(psutil.virtual_memory().total / 2**30, 1)
    versions = {"python": platform.python_version(), "numpy": np.__version__}
    return {"cores": os.cpu_count(), "memory_gib": memory, "versions": versions}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer samples: a glance, not a figure")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    arguments = parser.parse_args()
    repeats, widths = (400, 4) if arguments.quick else (4000, 40)
    started = time.perf_counter()
    table: dict[str, dict[str, dict[str, dict[str, float]]]] = {}
    print(
        f"{'shape':<25}{'n':>5}  " + "".join(f"{m:>23}" for m in METHODS) + "   (coverage % / median width)"
    )
    for shape in SHAPES:
        for n in SIZES:
            row = measure(shape, n, repeats, widths)
            table.setdefault(shape, {})[str(n)] = row
            cells = (f"{100 * row[m]['coverage']:.1f} / {row[m]['width']:.3f}" for m in METHODS)
            print(f"{shape:<25}{n:>5}  " + "".join(f"{cell:>23}" for cell in cells), flush=True)
    cells = [row for sizes in table.values() for row in sizes.values()]
    worst = {m: min(row[m]["coverage"] for row in cells) for m in METHODS}
    ratio = {
        m: float(np.median([row[m]["width"] / row["studentised"]["width"] for row in cells])) for m in METHODS
    }
    default = paired_interval(np.zeros(2)).method
    print(f"{'worst coverage':<32}" + "".join(f"{100 * worst[m]:>22.1f}%" for m in METHODS))
    print(f"{'median width / studentised':<32}" + "".join(f"{ratio[m]:>23.2f}" for m in METHODS))
    print(f"the gate's default: {default}; {repeats} samples a cell, {time.perf_counter() - started:.0f} s")
    if arguments.json:
        figures = {"default": default, "worst_coverage": worst, "width_ratio": ratio, "table": table}
        figures |= {"alpha": ALPHA, "repeats": repeats, "quick": arguments.quick, "machine": machine()}
        print(json.dumps(figures | {"seconds": round(time.perf_counter() - started, 1)}))


if __name__ == "__main__":
    main()
