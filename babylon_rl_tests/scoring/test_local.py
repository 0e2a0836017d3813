"""The local scorers: the seeds' formula to the digit, and a winsorised return that keeps its spread."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from babylon_rl.scoring.episodes import Decision
from babylon_rl.scoring.local import HeuristicScorer, PnlScorer, ScoringError, window_returns, winsorise
from babylon_rl_tests.scoring.made import episode


def seeds_score(pnl, wins, losses, actions):
    """As the seeds' `score_locally` computes it."""
    trades = wins + losses
    win_rate = wins / trades if trades else 0.5
    return 0.5 * max(0, min(1, (pnl + 1000) / 2000)) + 0.3 * win_rate + 0.2 * min(1, actions / 20)


@pytest.mark.parametrize("pnl", [-5000, -1000, -20, 0, 15, 1000, 9000])
@pytest.mark.parametrize(("wins", "losses", "actions"), [(0, 0, 0), (3, 1, 5), (0, 2, 20), (1, 0, 60)])
def test_the_heuristic_is_the_seeds(pnl, wins, losses, actions):
    (score,) = HeuristicScorer().score([episode("a", pnl, wins=wins, losses=losses, actions=actions)])
    assert score.reward == pytest.approx(seeds_score(pnl, wins, losses, actions))
    assert sum(score.components.values()) == pytest.approx(score.reward)


def test_weights_and_scales_are_settings():
    scorer = HeuristicScorer((1, 0, 0), pnl_scale=10, activity_scale=2, invalid_penalty=0)
    (score,) = scorer.score([episode("a", 5)])
    assert score.reward == 0.75
    assert scorer.version != HeuristicScorer().version


def test_scales_that_are_none_are_refused():
    with pytest.raises(ScoringError, match="pnl_scale"):
        HeuristicScorer(pnl_scale=float("nan"))
    with pytest.raises(ScoringError, match="activity_scale"):
        HeuristicScorer(activity_scale=0)


@pytest.mark.parametrize("scorer", [HeuristicScorer(invalid_penalty=0.5), PnlScorer(invalid_penalty=0.5)])
def test_invalid_actions_cost_their_share(scorer):
    clean, half, all_ = scorer.score(
        [episode("a"), episode("b", invalid_actions=2), episode("c", invalid_actions=4)]
    )
    assert half.components["invalid"] == -0.25 and all_.components["invalid"] == -0.5
    assert clean.reward > half.reward > all_.reward


def test_the_pnl_scorer_pays_the_return_on_start_equity():
    rich, poor, flat = PnlScorer(winsor=0).score(
        [episode("a", 50, start_equity=5000.0), episode("b", 50, start_equity=500.0), episode("c", 0)]
    )
    assert (rich.reward, poor.reward, flat.reward) == pytest.approx((0.01, 0.1, 0))


def test_an_unknown_equity_is_measured_by_the_others():
    returns = window_returns(
        [
            episode("a", 40, start_equity=None),
            episode("b", 40, start_equity=0.0),
            episode("c", 40, start_equity=2000.0),
            episode("d", None, start_equity=4000.0),
        ]
    )
    assert returns == pytest.approx([40 / 3000, 40 / 3000, 0.02, 0])
    assert window_returns([episode("a", 10, start_equity=None)]) == pytest.approx([0.01])


def test_returns_are_clipped():
    assert list(window_returns([episode("a", 1e9), episode("b", -1e9)])) == [1, -1]


def test_one_windfall_does_not_rule_the_group():
    values = winsorise(np.array([0.01, 0.02, -0.01, 0.03, 0.0, 0.9] * 4), 0.05)
    assert values.max() <= 0.9 and len(set(values)) > 2
    lone = winsorise(np.array([float(i) for i in range(40)] + [1e6]), 0.05)
    assert lone.max() < 40


@pytest.mark.parametrize("n", [2, 3, 8, 20, 60, 1000])
def test_one_trader_among_many_who_hold_keeps_the_spread(n):
    values = winsorise(np.array([0.0] * (n - 1) + [0.03]), 0.05)
    assert values[-1] > values[0] >= 0


@given(st.lists(st.floats(-1, 1).map(lambda x: round(x, 6)), min_size=1, max_size=50), st.floats(0, 0.49))
def test_winsorising_keeps_order_range_and_spread(values, share):
    before = np.array(values)
    after = winsorise(before, share)
    assert (np.diff(after[np.argsort(before, kind="stable")]) >= 0).all()
    assert before.min() <= after.min() and after.max() <= before.max()
    assert (np.ptp(after) > 0) == (np.ptp(before) > 0)


@pytest.mark.parametrize("winsor", [-0.1, 0.5, 1])
def test_a_share_that_is_none_is_refused(winsor):
    with pytest.raises(ScoringError, match="winsor"):
        PnlScorer(winsor=winsor)


def test_decisions_are_rewarded_by_their_own_return():
    first = episode("a", 60, decisions=[Decision(50.0, False), Decision(10.0, False)])
    second = episode("b", -30, start_equity=500.0, decisions=[Decision(-30.0, False), Decision(0.0, True)])
    one, two = PnlScorer(invalid_penalty=0.1, winsor=0).score([first, second])
    assert one.decisions == pytest.approx([0.05, 0.01])
    assert two.decisions == pytest.approx([-0.06, -0.1]), "an invalid answer costs the penalty, not its share"
    assert one.reward == pytest.approx(0.06), "the hour's reward stays what it was"


def test_a_decision_is_worth_no_more_than_the_account():
    made = [Decision(-30_000.0, False), Decision(900.0, False), Decision(1.0, False)]
    one, _ = PnlScorer().score([episode("a", 0, decisions=made), episode("b", 0, decisions=made[2:])])
    assert one.decisions == pytest.approx([-1, 0.9, 0.001]), "large orders keep their size beside small ones"


def test_decisions_are_rewarded_in_all_episodes_or_in_none():
    scores = PnlScorer().score(
        [episode("a", 1, decisions=[Decision(1.0, False)]), episode("b", 2, decisions=[])]
    )
    assert [score.decisions for score in scores] == [[], []]
    assert all(score.decisions == [] for score in HeuristicScorer().score([episode("a"), episode("b", 9)]))
