"""The gate's three answers, and seed 002's criteria."""

import json
import math

import numpy as np
import pytest

from babylon_rl.benchmark.criteria import SuccessMetrics, success_criteria
from babylon_rl.benchmark.gate import GateInputError, decide
from babylon_rl.benchmark.statistics import Interval, alpha_for, paired_interval


def interval(low: float, high: float, n: int = 256) -> Interval:
    return Interval((low + high) / 2, low, high, n, 0.025, "betting", 0.2)


def test_promotes_what_is_surely_better() -> None:
    verdict = decide(interval(0.01, 0.07), invalid_rate=0.01, incumbent_invalid_rate=0.0, incumbent="v0.0.3")
    assert verdict.decision == "promoted"
    for part in (
        "v0.0.3",
        "+0.0400",
        "[+0.0100, +0.0700]",
        "n = 256",
        "alpha 0.025",
        "minimum detectable effect",
    ):
        assert part in verdict.reason


@pytest.mark.parametrize(("low", "high"), [(-0.01, 0.07), (0.0, 0.07), (-0.05, 0.0)])
def test_is_inconclusive_where_chance_may_explain_it(low: float, high: float) -> None:
    verdict = decide(interval(low, high), invalid_rate=0.0, incumbent_invalid_rate=0.0)
    assert verdict.decision == "inconclusive" and "chance" in verdict.reason


def test_rejects_what_is_surely_worse() -> None:
    verdict = decide(interval(-0.07, -0.01), invalid_rate=0.0, incumbent_invalid_rate=0.0, threshold=-0.1)
    assert verdict.decision == "rejected"


def test_rejects_a_lost_format_only_when_it_is_worse_than_the_incumbents() -> None:
    lost = decide(interval(-0.05, 0.05), invalid_rate=0.5, incumbent_invalid_rate=0.1)
    assert lost.decision == "rejected" and "50.0% against 10.0%" in lost.reason
    same = decide(interval(-0.05, 0.05), invalid_rate=0.5, incumbent_invalid_rate=0.5)
    assert same.decision == "inconclusive"


@pytest.mark.parametrize(
    ("rate", "incumbent_rate", "decision"),
    [
        (0.05, 0.0, "promoted"),
        (0.051, 0.0, "inconclusive"),
        (0.12, 0.10, "promoted"),
        (0.13, 0.10, "inconclusive"),
    ],
)
def test_a_better_earner_may_not_answer_notably_worse(
    rate: float, incumbent_rate: float, decision: str
) -> None:
    verdict = decide(interval(0.01, 0.07), invalid_rate=rate, incumbent_invalid_rate=incumbent_rate)
    assert verdict.decision == decision


def test_the_threshold_moves_the_bar() -> None:
    assert decide(
        interval(0.01, 0.07), invalid_rate=0, incumbent_invalid_rate=0, threshold=0.02
    ).decision == ("inconclusive")


@pytest.mark.parametrize("rate", [-0.1, 1.1, math.nan])
def test_refuses_an_impossible_rate(rate: float) -> None:
    with pytest.raises(GateInputError, match="share between 0 and 1"):
        decide(interval(0, 1), invalid_rate=rate, incumbent_invalid_rate=0.0)


def test_refuses_an_interval_that_is_not_finite() -> None:
    with pytest.raises(GateInputError, match="not finite"):
        decide(interval(math.nan, 1), invalid_rate=0.0, incumbent_invalid_rate=0.0)


def test_a_verdict_is_plain_data() -> None:
    verdict = decide(
        interval(0.01, 0.07), invalid_rate=0, incumbent_invalid_rate=0, over_base=interval(0.1, 0.2)
    )
    record = json.loads(json.dumps(verdict.to_dict()))
    assert record["decision"] == "promoted" and record["over_base"]["low"] == 0.1


def test_null_candidates_are_rarely_promoted_over_a_whole_period() -> None:
    rng = np.random.default_rng(0)
    promoted = 0
    for _ in range(40):
        for k in range(1, 6):
            losses = np.where(rng.random(64) < 0.02, -0.9, 0.02 * 0.9 / 0.98)
            difference = paired_interval(losses, alpha=alpha_for(k, 0.05))
            promoted += decide(difference, invalid_rate=0, incumbent_invalid_rate=0).decision == "promoted"
    assert promoted <= 2


def test_criteria_in_the_seeds_order() -> None:
    metrics = SuccessMetrics(
        groups=24,
        ranked_groups=23,
        losses=[1.0, 0.9, 0.95, 0.2, 0.1, 0.15],
        gain=interval(0.05, 0.15),
        base_return=0.02,
        win_rate=interval(-0.02, 0.04),
        invalid_rate=interval(-0.06, -0.02),
        timing=interval(-0.2, -0.1),
    )
    criteria = success_criteria(metrics)
    assert [c.status for c in criteria] == ["met", "met", "met", "not measurable", "met", "not met"]
    assert "10 % of it is 0.0020" in criteria[2].figure
    assert "detectable from" in criteria[3].figure


def test_unmeasured_criteria_say_so() -> None:
    assert {c.status for c in success_criteria(SuccessMetrics())} == {"not measurable"}


def test_noise_is_not_a_falling_loss() -> None:
    loss = success_criteria(SuccessMetrics(losses=[0.1, -0.2, 0.3, 0.0, 0.2, -0.1, 0.25, 0.05]))[1]
    assert loss.status == "not measurable" and "detectable change" in loss.figure
    assert success_criteria(SuccessMetrics(losses=[0.1, 0.11, 0.9, 0.91]))[1].status == "not met"


def test_fewer_errors_counts_the_distance_on_its_own_side() -> None:
    open_ended = Interval(-0.01, -0.03, 0.20, 256, 0.05, "betting", 0.1)
    figure = success_criteria(SuccessMetrics(invalid_rate=open_ended))[4].figure
    assert float(figure.split("detectable from ")[1]) > 0.2
