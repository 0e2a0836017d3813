"""Assignment by hash, the pairwise contrasts of a switchback, and the confidence sequence over them."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from babylon_rl.deployment.assignment import Assignment, arms, draw, pair_draws
from babylon_rl.deployment.sequential import band, bands_over_time, margins, tuning
from babylon_rl.deployment.switchback import block_means, contrasts, signs

ORIGIN = 1_790_000_000.0 - 1_790_000_000.0 % 3600
AGENTS = [f"agent-{number}" for number in range(200)]


def assignment(percentage: float, *, experiment: bool = True, block: int = 2, **fields: object) -> Assignment:
    values = {"origin": ORIGIN, "stages": ((ORIGIN, percentage),)} | fields
    return Assignment(1, "v0.0.2", "v0.0.1", "salt", experiment, block, **values)  # type: ignore[arg-type]


@given(st.text(), st.text(max_size=5), st.one_of(st.none(), st.integers(0, 10**6)))
def test_a_draw_is_a_share_and_always_the_same(agent: str, salt: str, pair: int | None) -> None:
    assert 0.0 <= draw(agent, salt, pair) < 100.0
    assert draw(agent, salt, pair) == draw(agent, salt, pair)


def test_draws_are_uniform_and_independent_between_pairs() -> None:
    drawn = pair_draws(AGENTS, 50, "s")
    assert abs(drawn.mean() - 50.0) < 1.0
    assert abs(np.corrcoef(drawn[:, 0], drawn[:, 1])[0, 1]) < 0.2
    assert drawn[3, 7] == draw(AGENTS[3], "s", 7)


@given(st.floats(0, 100), st.floats(0, 100))
def test_raising_the_share_moves_nobody_out(one: float, other: float) -> None:
    low, high = sorted((one, other))
    for experiment in (False, True):
        before, after = (assignment(p, experiment=experiment) for p in (low, high))
        for agent in AGENTS[:25]:
            for hour in range(8):
                at = ORIGIN + 3600.0 * hour + 1
                assert before.arm(agent, at) == "active" or after.arm(agent, at) == "candidate"


def test_nobody_and_everybody() -> None:
    for experiment in (False, True):
        for share, arm in ((0.0, "active"), (100.0, "candidate")):
            given_out = assignment(share, experiment=experiment)
            hours = [ORIGIN + 3600.0 * hour for hour in range(12)]
            assert {given_out.arm(agent, at) for agent in AGENTS for at in hours} == {arm}
    assert assignment(100.0).arm(None, ORIGIN) == "active", "who says not who it is gets what is proven"


def test_in_an_experiment_a_window_has_one_arm_and_a_pair_both() -> None:
    half = assignment(50.0)
    for agent in AGENTS[:40]:
        hours = [
            {half.arm(agent, ORIGIN + 3600.0 * hour + second) for second in (0.0, 1800.0, 3599.9)}
            for hour in range(16)
        ]
        assert all(len(window) == 1 for window in hours)
        played = [next(iter(window)) for window in hours]
        for start in range(0, 16, 4):
            first, second = played[start : start + 2], played[start + 2 : start + 4]
            assert len(set(first)) == len(set(second)) == 1 and first != second
    assert half.arm(AGENTS[0], ORIGIN - 1) == "active", "nobody before the first window"


def test_the_vectorised_arms_are_those_of_the_gateway() -> None:
    share = assignment(30.0)
    played = arms(pair_draws(AGENTS[:30], 5, "salt"), 30.0).reshape(30, 10)
    for number, agent in enumerate(AGENTS[:30]):
        for block in range(10):
            at = ORIGIN + 7200.0 * block
            assert (share.arm(agent, at) == "candidate") == played[number, block]


def test_a_share_changes_only_between_pairs() -> None:
    rising = assignment(10.0, stages=((ORIGIN, 10.0), (ORIGIN + 3600.0, 50.0)))
    assert [rising.percentage_at(ORIGIN + 3600.0 * hour) for hour in (0, 1, 3, 4)] == [10.0, 10.0, 10.0, 50.0]
    assert rising.next_pair_start(ORIGIN + 1) == ORIGIN + 4 * 3600.0
    assert rising.next_pair_start(ORIGIN + 4 * 3600.0) == ORIGIN + 4 * 3600.0
    assert rising.next_pair_start(ORIGIN - 5) == ORIGIN


def test_sticky_assignment_ignores_the_time() -> None:
    sticky = assignment(50.0, experiment=False)
    for agent in AGENTS[:20]:
        assert len({sticky.arm(agent, ORIGIN + 3600.0 * hour) for hour in range(48)}) == 1


def test_persistent_agents_and_common_shocks_cancel() -> None:
    rng = np.random.default_rng(1)
    agents, pairs, block = 12, 40, 2
    drawn = pair_draws(AGENTS[:agents], pairs, "x")
    played = np.repeat(arms(drawn, 50.0).reshape(agents, 2 * pairs), block, axis=1)
    values = 7.0 * rng.standard_normal((agents, 1)) + 5.0 * rng.standard_normal((1, 2 * block * pairs))
    first, second = block_means(values + 0.25 * played, block)
    differences, count = contrasts(first, second, signs(drawn, 50.0))
    assert count[count > 0] == pytest.approx(agents)
    # The effect is what remains; leaving one out makes it unbiased rather than exact in each pair.
    assert differences.mean() == pytest.approx(0.25, abs=0.05)
    nothing, _ = contrasts(*block_means(values, block), signs(drawn, 50.0))
    assert np.abs(nothing).max() < 1e-9


def test_the_contrast_is_fair_whatever_the_outcomes() -> None:
    """Over all assignments of four agents the mean contrast of fixed outcomes is zero."""
    outcomes = np.array([3.0, -1.0, 100.0, 0.5])[:, None], np.array([1.0, 2.0, -50.0, 0.0])[:, None]
    total = 0.0
    for number in range(16):
        sign = np.array([1 if number >> bit & 1 else -1 for bit in range(4)], dtype=np.int8)[:, None]
        difference, agents = contrasts(*outcomes, sign)
        total += float(difference[0] * agents[0])
    assert total == pytest.approx(0.0, abs=1e-9)


def test_what_is_missing_or_did_not_switch_says_nothing() -> None:
    first = np.array([[1.0, np.nan], [2.0, 1.0], [3.0, 4.0]])
    second = np.array([[0.0, 1.0], [0.0, np.nan], [0.0, 1.0]])
    difference, agents = contrasts(first, second, np.array([[1, 1], [-1, 1], [0, 0]], dtype=np.int8))
    assert agents.tolist() == [2.0, 0.0] and difference[1] == 0.0
    alone, one = contrasts(first[:1], second[:1], np.array([[1, 1]], dtype=np.int8))
    assert (alone[0], one.tolist()) == (1.0, [1.0, 0.0])


def test_the_band_is_the_papers() -> None:
    n, alpha = 80.0, 0.05
    r2 = tuning(60, alpha) ** 2
    # The same margin as TensorZero's asymptotic_confidence_sequences.rs for unit variance.
    theirs = math.sqrt((n * r2 + 1) / (n * n * r2) * math.log((n * r2 + 1) / alpha**2))
    assert margins(np.array([n]), alpha)[0] == pytest.approx(theirs)
    tuned = margins(np.array([60.0]), alpha)[0]
    assert 1.45 < tuned / (1.96 / math.sqrt(60)) < 1.65


def test_bands_close_in_and_the_newest_is_the_last() -> None:
    values = np.random.default_rng(3).normal(0.4, 1.0, 400)
    weights = np.full(400, 20.0)
    mean, low, high = bands_over_time(values, weights)
    assert np.isinf(low[:19]).all() and np.isfinite(low[19:]).all()
    newest = band(values, weights)
    assert (newest.n, newest.mean) == (400, pytest.approx(values.mean()))
    assert newest.low == pytest.approx(low[-1]) and newest.decided == 1
    assert newest.detectable is not None and newest.mean is not None
    assert newest.detectable > newest.mean - (newest.low or 0.0)
    assert band(values[:10], weights[:10]).decided == 0
    assert band(np.zeros(50), np.ones(50)).decided == 0, "no spread, no verdict"
    assert band(values[:0], weights[:0]).n == 0


def test_one_look_may_count_more_agents_than_another() -> None:
    values, weights = np.array([1.0, 4.0]), np.array([3.0, 1.0])
    mean, _, _ = bands_over_time(values, weights)
    assert mean[-1] == pytest.approx(7.0 / 4.0)


def test_a_false_alarm_is_rare_although_every_look_counts() -> None:
    rng = np.random.default_rng(11)
    values = rng.standard_t(4, (1500, 300))
    _, low, high = bands_over_time(values, np.ones_like(values))
    assert ((low > 0) | (high < 0)).any(axis=1).mean() < 0.05
