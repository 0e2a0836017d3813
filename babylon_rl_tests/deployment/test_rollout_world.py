"""The market in which `benchmarks/rollout.py` asks how well the watch decides: it has what it says it has."""

import numpy as np
import pytest

from babylon_rl.deployment.experiment import METRICS, Panel, judge
from benchmarks.parts.rollout_world import (
    Worlds,
    other_metrics,
    pair_contrasts,
    paired_deviation,
    play,
    play_sticky,
    window_differences,
)

RUNS, AGENTS, WINDOWS, BLOCK = 20, 12, 120, 3


@pytest.fixture(scope="module")
def worlds() -> Worlds:
    return play(np.random.default_rng(7), RUNS, AGENTS, WINDOWS, BLOCK, 0.0, 50.0)


def test_agents_switch_between_blocks_and_hold_within_them(worlds: Worlds) -> None:
    blocks = worlds.candidate.reshape(RUNS, AGENTS, -1, BLOCK)
    assert (blocks == blocks[..., :1]).all()
    pairs = blocks[..., 0].reshape(RUNS, AGENTS, -1, 2)
    assert (pairs[..., 0] != pairs[..., 1]).all() and worlds.candidate.mean() == 0.5
    sticky = play_sticky(np.random.default_rng(7), 2, AGENTS, WINDOWS, 50.0).candidate
    assert (sticky == sticky[..., :1]).all()


def test_agents_differ_for_good_remember_and_move_together(worlds: Worlds) -> None:
    halves = worlds.pnl.reshape(RUNS, AGENTS, 2, -1).mean(axis=-1)
    assert np.corrcoef(halves[..., 0].ravel(), halves[..., 1].ravel())[0, 1] > 0.2
    size = np.abs(worlds.pnl - worlds.pnl.mean(axis=1, keepdims=True)).mean(axis=1)
    assert np.corrcoef(size[:, 1:].ravel(), size[:, :-1].ravel())[0, 1] > 0.05
    own = np.abs(worlds.pnl - worlds.pnl.mean(axis=2, keepdims=True))
    some, others = own[:, : AGENTS // 2].mean(axis=1), own[:, AGENTS // 2 :].mean(axis=1)
    assert np.corrcoef(some.ravel(), others.ravel())[0, 1] > 0.2, "one price for all of them"


def test_an_effect_costs_what_it_says_and_the_contrasts_find_it() -> None:
    def played(effect: float) -> Worlds:
        return play(np.random.default_rng(7), RUNS, AGENTS, WINDOWS, BLOCK, effect, 50.0)

    equal, worse = played(0.0), played(-2.0)
    assert (equal.pnl - worse.pnl).mean() == pytest.approx(1.0, abs=0.02), "half of the time"
    lost = window_differences(worse) - window_differences(equal)
    assert -2.0 < np.nanmean(lost) < -1.0, "a part of it comes an hour late"
    before, agents = pair_contrasts(equal, BLOCK, 50.0)
    after, _ = pair_contrasts(worse, BLOCK, 50.0)
    assert agents.max() == AGENTS and -2.0 < (after - before)[agents > 0].mean() < -1.0
    assert paired_deviation(equal) > 1.0


def test_judge_reads_every_metric_of_it(worlds: Worlds) -> None:
    others = other_metrics(np.random.default_rng(8), worlds)
    assert {"pnl", *others} == set(METRICS)
    values = {"pnl": worlds.pnl[0]} | {name: metric[0] for name, metric in others.items()}

    def decision(**changed: np.ndarray) -> str:
        draws = worlds.draws[0]
        panel = Panel(values | changed, worlds.candidate[0], draws, np.full(draws.shape[1], 50.0), BLOCK)  # type: ignore[arg-type]
        verdict = judge(panel)
        assert all(result.band.low is not None for result in verdict.metrics.values())
        return verdict.decision

    assert decision() == "hold"
    for name in ("invalid", "failures"):
        assert decision(**{name: values[name] + 0.2 * worlds.candidate[0]}) == "roll_back"
