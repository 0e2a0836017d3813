"""The paragraph of a verdict holds the numbers from which a person can work it out again."""

import math
import re

import numpy as np
import pytest

from babylon_rl.benchmark.explanation import explain
from babylon_rl.benchmark.gate import Verdict, decide
from babylon_rl.benchmark.statistics import alpha_for, paired_interval


def verdict(shift: float, invalid: float = 0.0) -> Verdict:
    differences = np.random.default_rng(0).normal(shift, 0.1, 1024).clip(-1.2, 1.2)
    interval = paired_interval(differences, -1.2, 1.2, alpha_for(2))
    return decide(interval, invalid_rate=invalid, incumbent_invalid_rate=0.01, incumbent="v0.0.1")


def paragraph(one: Verdict, crowd: dict | None = None) -> str:
    returns = {"v0.0.3": 0.03, "v0.0.1": 0.01}
    return explain(
        one, candidate="v0.0.3", returns=returns, seed_key="abcdef" * 8, number=2, budget=0.05, crowd=crowd
    )


@pytest.mark.parametrize(
    ("shift", "invalid", "word"),
    [
        (0.05, 0.0, "promoted"),
        (-0.05, 0.0, "rejected"),
        (0.0, 0.0, "inconclusive"),
        (0.05, 0.1, "answers worse"),
    ],
)
def test_every_verdict_is_explained(shift: float, invalid: float, word: str) -> None:
    one = verdict(shift, invalid)
    text = paragraph(one)
    assert word in text and one.decision in text and "\n" not in text
    for figure in (one.difference.mean, one.difference.low, one.difference.high):
        assert f"{figure:+.4f}" in text


def test_the_arithmetic_of_the_paragraph_is_right() -> None:
    text = paragraph(verdict(0.02))
    sd, n, error = re.findall(r"standard error of ([\d.]+) / √(\d+) = (\d\.\d+)", text)[0]
    assert float(error) == pytest.approx(float(sd) / math.sqrt(int(n)), abs=1e-4)
    budget, number, following, alpha = re.findall(r"spend ([\d.]+) / \((\d+) × (\d+)\) = (\d\.\d+)", text)[0]
    assert float(alpha) == pytest.approx(float(budget) / (int(number) * int(following)), rel=1e-2)
    mean, z, by_hand = re.findall(r"only, ([+\-.\d]+) ± ([\d.]+) × [\d.]+ = \[([+\-.\d]+),", text)[0]
    assert float(by_hand) == pytest.approx(float(mean) - float(z) * float(error), abs=2e-4)


def test_the_populations_are_reported() -> None:
    part = {"mean": 0.01, "low": -0.02, "high": 0.04, "n": 256}
    text = paragraph(verdict(0.0), {"seats": 4, "among_incumbents": part, "all_candidates": part})
    assert "reported, not decided on" in text and "256 of the markets" in text
    assert "price impact" not in paragraph(verdict(0.0))
