"""Groups: every window gets a verdict with a reason, advantages are leave-one-out, files are reproducible."""

import json
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from babylon_rl.records.lean import lean_trajectory
from babylon_rl.records.store import ArtifactStore
from babylon_rl.scoring.episodes import build_episodes
from babylon_rl.scoring.groups import (
    ScoredGroup,
    from_records,
    group_of,
    leave_one_out,
    reward_decisions,
    score_window,
    to_records,
    with_calls,
)
from babylon_rl.scoring.local import HeuristicScorer, PnlScorer, Score, ScoringError
from babylon_rl.scoring.reward_statistics import spearman, variance_shares
from babylon_rl_tests.game_rows import WINDOW, call, step
from babylon_rl_tests.scoring.made import episode, trajectory, window

FOUR = [episode("a", 30), episode("b", -10), episode("c", 0), episode("d", 5, invalid_actions=1)]


def score(episodes, min_agents=3, **options) -> ScoredGroup:
    return score_window(episodes, PnlScorer(), min_agents, **options)


def test_a_scored_window():
    group = score(FOUR)
    assert (group.status, group.reason, group.agents) == ("scored", "", 4)
    assert (group.window_id, group.scorer, group.horizon) == (WINDOW, "pnl", "1h")
    assert [member.agent_id for member in group.members] == ["a", "b", "c", "d"]
    assert sum(member.advantage for member in group.members) == pytest.approx(0)
    assert group.pnl_mean == 6.25


@pytest.mark.parametrize(
    ("episodes", "status", "reason"),
    [
        ([], "empty", "no readable trajectory"),
        (FOUR[:1], "thin", "1 of at least 3 agents"),
        (FOUR[:2], "thin", "2 of at least 3 agents"),
        (
            [*FOUR[:3], episode("e", 1, pending_orders=1)],
            "immature",
            "1 of 4 orders have not reached their 1h horizon",
        ),
        ([episode(agent, 7) for agent in "abc"], "no_spread", "all 3 rewards are 0.007"),
        ([episode(agent, 0) for agent in "abc"], "no_spread", "all 3 rewards are 0"),
    ],
)
def test_windows_that_carry_no_signal_say_why(episodes, status, reason):
    group = score(episodes, window_id=WINDOW)
    assert (group.window_id, group.status, group.reason) == (WINDOW, status, reason)
    assert all(member.advantage == 0 for member in group.members)


def test_agents_of_other_policies_set_the_baseline_but_are_not_trained():
    episodes = [episode("a", 30), episode("b", 0), episode("rules", 90, calls=[], policy_versions=[])]
    group = score(episodes)
    assert [member.agent_id for member in group.trainable] == ["a", "b"]
    without = score(episodes[:2], 2)
    assert group.members[0].advantage < 0 < without.members[0].advantage


def test_a_group_does_not_depend_on_the_order_of_its_episodes():
    shuffled = FOUR[:]
    random.Random(1).shuffle(shuffled)
    assert score(shuffled) == score(FOUR)


def test_records_come_back_and_hash_the_same(tmp_path):
    store = ArtifactStore(tmp_path)
    group = score(FOUR)
    artifact = store.put("groups", WINDOW, to_records(group))
    assert from_records(store.get(artifact.uri)) == group
    assert store.put("groups", WINDOW, to_records(score(FOUR[::-1]))) == artifact
    assert json.loads(json.dumps(to_records(group))) == to_records(group)
    empty = score([], window_id=WINDOW)
    assert from_records(to_records(empty)) == empty


@pytest.mark.parametrize(
    "scores",
    [
        [],
        [Score(e.agent_id, 0.5, {}) for e in FOUR[:3]],
        [Score(e.agent_id, 0.5, {}) for e in FOUR] + [Score("z", 1, {})],
        [Score(e.agent_id, float("nan"), {}) for e in FOUR],
        [Score(e.agent_id, float("inf"), {}) for e in FOUR],
    ],
)
def test_scores_that_do_not_fit_are_refused(scores):
    with pytest.raises(ScoringError):
        group_of(FOUR, scores, "judge", "1")


def test_an_empty_window_needs_its_id():
    with pytest.raises(ScoringError, match="window_id"):
        score([])


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=30))
def test_advantages_are_against_the_others(rewards):
    values = np.array(rewards)
    advantages = leave_one_out(values)
    if np.ptp(values) <= 1e-9:
        assert (advantages == 0).all()
        return
    for i, advantage in enumerate(advantages):
        assert advantage == pytest.approx(values[i] - np.delete(values, i).mean(), abs=1e-9)


@given(st.lists(st.tuples(st.integers(-5, 5), st.integers(-5, 5)), min_size=2, max_size=30))
def test_rank_correlation_is_scipys(pairs):
    from scipy.stats import spearmanr

    first, second = (np.array(column, float) for column in zip(*pairs, strict=True))
    found = spearman(first, second)
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        assert found is None
    else:
        assert found == pytest.approx(spearmanr(first, second)[0], abs=1e-9)


@given(st.lists(st.tuples(*[st.floats(-10, 10)] * 3), min_size=2, max_size=20))
def test_variance_shares_add_up(parts):
    scores = [Score(str(i), sum(p), dict(zip("xyz", p, strict=True))) for i, p in enumerate(parts)]
    if np.ptp([score.reward for score in scores]) > 1e-3:
        assert sum(variance_shares(scores).values()) == pytest.approx(1, abs=1e-6)


def test_pnl_makes_little_of_the_heuristics_variance_and_all_of_the_pnl_scorers():
    """On 1,000 $ accounts with an hourly P&L spread of some 10 $, as in the seeds' game."""
    rng = np.random.default_rng(0)
    episodes = [
        episode(
            f"agent-{i:02}",
            float(rng.normal(0, 10)),
            actions=int(rng.integers(1, 20)),
            wins=int(rng.integers(3)),
        )
        for i in range(20)
    ]
    heuristic = score_window(episodes, HeuristicScorer(), 3)
    pnl = score_window(episodes, PnlScorer(), 3)
    assert heuristic.pnl_variance_share is not None and abs(heuristic.pnl_variance_share) < 0.05
    assert pnl.pnl_variance_share == pytest.approx(1)
    assert pnl.pnl_spearman == pytest.approx(1, abs=0.02)


def test_a_judge_without_components_is_measured_by_correlation():
    scores = [Score(e.agent_id, (e.attributed_pnl or 0) / 100 + 0.3, {}) for e in FOUR]
    group = group_of(FOUR, scores, "judge", "1")
    assert group.variance_shares == {} and group.pnl_variance_share == pytest.approx(1)


@given(st.lists(st.lists(st.floats(-1, 1), min_size=1, max_size=6), min_size=2, max_size=6))
def test_a_decisions_baseline_is_the_others_decisions(rewards):
    for member, decisions in enumerate(reward_decisions(rewards)):
        others = [reward for number, own in enumerate(rewards) if number != member for reward in own]
        assert [one.reward for one in decisions] == rewards[member]
        for one in decisions:
            assert one.advantage == pytest.approx(one.reward - np.mean(others), abs=1e-9)


def test_calls_are_paid_for_their_decisions():
    rows = [
        trajectory("a", [step(llmCalls=[call(), call()]), step(), step(llmCalls=[call()])]),
        trajectory("b", [step(llmCalls=[call()])]),
    ]
    scores = [Score("a", 0.5, {}, [0.5, 0.0, -0.25]), Score("b", 0.25, {}, [0.25])]
    whole = group_of(build_episodes(window(*rows), []), scores, "pnl", "1")
    lean = group_of(build_episodes(window(*map(lean_trajectory, rows)), []), scores, "pnl", "1")
    assert with_calls(lean, rows) == whole
    first, second = whole.members
    assert first.advantages_of_calls() == pytest.approx([0.25, 0.25, -0.5])
    assert second.advantages_of_calls() == pytest.approx([0.25 - 0.25 / 3])
    assert from_records(to_records(whole)) == whole
    hours = group_of(build_episodes(window(*rows), []), [Score("a", 1, {}), Score("b", 0, {})], "judge", "1")
    assert hours.members[0].advantages_of_calls() == [1, 1, 1]


def test_a_group_that_was_stored_before_decisions_had_rewards_is_read():
    records = to_records(score(FOUR))
    for record in records[1:]:
        del record["decisions"], record["call_decisions"]
    assert from_records(records) == score(FOUR)
