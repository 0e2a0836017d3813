"""Intervals hold their level where normal theory does not, and refuse what they cannot judge."""

import math

import numpy as np
import pytest

from babylon_rl.benchmark.statistics import (
    Interval,
    UnusableSampleError,
    alpha_for,
    betting_interval,
    mean,
    minimum_detectable_effect,
    paired_interval,
    skewness,
    studentised_interval,
    wealth_reaches,
    wilson_interval,
)


def _width(interval: Interval) -> float:
    return interval.high - interval.low


def liquidations(rng: np.random.Generator, shape: tuple[int, int], share: float = 0.01) -> np.ndarray:
    """Small gains and, rarely, the loss of nearly everything; mean 0.99 * 0.02 - 0.01 * 0.9."""
    return np.where(rng.random(shape) < share, -0.9, np.clip(rng.normal(0.02, 0.05, shape), -2, 2))


def test_the_gates_interval_covers_liquidation_shaped_differences() -> None:
    truth = 0.99 * 0.02 - 0.01 * 0.9
    samples = liquidations(np.random.default_rng(1), (400, 64))
    unit, unit_truth = (samples + 2) / 4, (truth + 2) / 4
    target = math.log(2 / 0.05)
    missed = wealth_reaches(unit, np.full(400, unit_truth), target)
    missed |= wealth_reaches(1 - unit, np.full(400, 1 - unit_truth), target)
    assert missed.mean() <= 0.05
    narrow = [studentised_interval(row) for row in samples]
    assert np.mean([i.low <= truth <= i.high for i in narrow]) < 0.9


def test_the_interval_is_the_hull_of_the_means_that_stand() -> None:
    sample = np.random.default_rng(2).normal(0.1, 0.3, 128)
    interval = paired_interval(sample)
    assert interval.method == "betting"
    assert -2 < interval.low < interval.mean < interval.high < 2
    assert interval.n == 128 and interval.sd == pytest.approx(sample.std(ddof=1))


def test_order_does_not_matter() -> None:
    sample = np.random.default_rng(3).normal(0, 0.2, 100)
    assert paired_interval(sample) == paired_interval(sample[::-1].tolist())


def test_mirrored_values_give_a_mirrored_interval_of_similar_width() -> None:
    sample = liquidations(np.random.default_rng(4), (1, 256))[0]
    there, back = paired_interval(sample), paired_interval(-sample)
    assert back.mean == pytest.approx(-there.mean)
    assert _width(back) == pytest.approx(_width(there), rel=0.1)


def test_width_approaches_students_when_spread_decides() -> None:
    samples = np.random.default_rng(5).normal(0, 0.3, (10, 512))
    ratios = [_width(paired_interval(s)) / _width(studentised_interval(s)) for s in samples]
    assert 1.0 < np.mean(ratios) < 1.3


def test_recalculated_bets_are_not_wider_than_the_plug_in() -> None:
    rng = np.random.default_rng(6)
    samples = [rng.normal(0, 0.3, 512) for _ in range(10)]
    star = [betting_interval(s, -2, 2) for s in samples]
    plug = [betting_interval(s, -2, 2, bets="plug_in") for s in samples]
    assert np.mean([_width(i) for i in star]) < np.mean([_width(i) for i in plug])


def test_a_sample_without_spread_is_still_uncertain_by_its_range() -> None:
    interval = paired_interval(np.zeros(128))
    assert interval.low == pytest.approx(-2 * math.log(40) / 128, rel=0.1)
    assert interval.low < 0 < interval.high


@pytest.mark.parametrize("edge", [-2.0, 2.0])
def test_values_on_a_bound(edge: float) -> None:
    interval = paired_interval(np.full(20, edge))
    assert interval.low <= edge <= interval.high and -2 <= interval.low and interval.high <= 2


def test_one_value_says_next_to_nothing() -> None:
    interval = paired_interval([0.5])
    assert interval.high - interval.low > 3


def test_smaller_alpha_is_wider() -> None:
    sample = np.random.default_rng(7).normal(0, 0.2, 128)
    assert paired_interval(sample, alpha=0.005).low < paired_interval(sample, alpha=0.05).low


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([], "at least 1"),
        ([0.1, math.nan], "value 1 of 2 is nan"),
        ([0.1, 2.5], r"2.5, outside \[-2.0, 2.0\]"),
    ],
)
def test_unusable_values_are_named(values: list[float], words: str) -> None:
    with pytest.raises(UnusableSampleError, match=words):
        paired_interval(values)


def test_alpha_must_be_a_level() -> None:
    for alpha in (0.0, 1.0, -0.1, math.nan):
        with pytest.raises(UnusableSampleError):
            paired_interval([0.1], alpha=alpha)


def test_student_without_correction_matches_the_textbook() -> None:
    interval = studentised_interval([1.0, 2.0, 3.0, 4.0, 5.0], correct_skewness=False)
    assert interval.low == pytest.approx(3 - 2.776445 * math.sqrt(2.5 / 5), abs=1e-5)
    with pytest.raises(UnusableSampleError):
        studentised_interval([1.0])


def test_halls_correction_moves_the_interval_towards_the_long_tail() -> None:
    sample = -np.random.default_rng(8).exponential(0.3, 64)
    assert skewness(sample) < 0
    plain, corrected = studentised_interval(sample, correct_skewness=False), studentised_interval(sample)
    assert corrected.low < plain.low and corrected.high < plain.high


def test_wilson() -> None:
    interval = wilson_interval(15, 20)
    assert (interval.low, interval.high) == (pytest.approx(0.5313, abs=1e-4), pytest.approx(0.8881, abs=1e-4))
    assert (wilson_interval(0, 5).low, wilson_interval(5, 5).high) == (0.0, 1.0)
    assert math.isnan(wilson_interval(0, 0).mean)
    with pytest.raises(UnusableSampleError):
        wilson_interval(6, 5)


def test_minimum_detectable_effect() -> None:
    assert minimum_detectable_effect(1.0, 196) == pytest.approx(0.2, abs=1e-3)
    sample = np.random.default_rng(9).normal(0, 0.3, 256)
    assert paired_interval(sample).minimum_detectable_effect() > minimum_detectable_effect(0.3, 256)


def test_a_true_effect_of_the_minimum_detectable_size_is_usually_found() -> None:
    rng = np.random.default_rng(10)
    effect = paired_interval(rng.normal(0, 0.3, 256)).minimum_detectable_effect()
    found = [paired_interval(rng.normal(effect, 0.3, 256)).low > 0 for _ in range(40)]
    assert 0.6 < np.mean(found) <= 1.0


def test_alpha_is_spent_once() -> None:
    levels = [alpha_for(k, 0.05) for k in range(1, 2000)]
    assert levels == sorted(levels, reverse=True)
    assert 0.0499 < sum(levels) <= 0.05
    with pytest.raises(UnusableSampleError):
        alpha_for(0)


def test_mean() -> None:
    assert mean([1.0, 2.0]) == 1.5 and math.isnan(mean([]))
