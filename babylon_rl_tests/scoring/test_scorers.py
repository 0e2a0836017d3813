"""The scorer interface: chosen by settings, local scorers unchanged behind it, and a user's own function."""

import sys
from contextlib import asynccontextmanager

import pytest

from babylon_rl.scoring.agreement import flip_rate, kendall_tau, mean_of, mean_spread
from babylon_rl.scoring.dropout import dropout_rate, kept_agents
from babylon_rl.scoring.groups import SCORED, UNJUDGED, score_window
from babylon_rl.scoring.local import PnlScorer, ScoringError
from babylon_rl.scoring.scorers import local_scorer, open_scorer
from babylon_rl.scoring.window_scorer import WindowToScore
from babylon_rl.settings import Settings, SettingsError
from babylon_rl_tests.game_rows import WINDOW
from babylon_rl_tests.scoring.judge.made import outcomes
from babylon_rl_tests.scoring.made import episode

FOUR = [episode("a", 30), episode("b", -10), episode("c", 0), episode("d", 5, invalid_actions=1)]


@asynccontextmanager
async def no_database():
    raise AssertionError("a local scorer opens nothing")
    yield


@pytest.fixture
def chosen(monkeypatch: pytest.MonkeyPatch, tmp_path):
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "my_rewards.py").write_text(
        "calls = []\n"
        "def by_pnl(episodes, outcomes):\n"
        "    return {e.agent_id: e.attributed_pnl / 100 for e in episodes}\n"
        "async def by_truth(episodes, outcomes):\n"
        "    return {e.agent_id: i * outcomes.stocks[0].change_percent for i, e in enumerate(episodes)}\n"
        "def broken(episodes, outcomes):\n    raise KeyError('price')\n"
        "def forgets(episodes, outcomes):\n    return {episodes[0].agent_id: 1.0}\n"
        "def infinite(episodes, outcomes):\n    return {e.agent_id: float('inf') for e in episodes}\n"
        "def words(episodes, outcomes):\n    return {e.agent_id: 'good' for e in episodes}\n"
        "def listed(episodes, outcomes):\n    return [1.0 for e in episodes]\n"
        "number = 5\n"
    )
    yield lambda **changes: Settings(_env_file=None).model_copy(update=changes)
    sys.modules.pop("my_rewards", None)


async def scored(settings: Settings, window: WindowToScore | None = None):
    async with open_scorer(settings, no_database) as scorer:
        return (await scorer.score(window or WindowToScore(WINDOW, FOUR, outcomes()))).group


@pytest.mark.anyio
@pytest.mark.parametrize("name", ["pnl", "heuristic"])
async def test_local_scorers_are_what_they_were(chosen, name: str):
    settings = chosen(scorer=name)
    assert await scored(settings) == score_window(FOUR, local_scorer(settings), 3)
    assert (await scored(settings, WindowToScore(WINDOW, [], None))).status == "empty"


def test_only_local_scorers_are_local(chosen):
    assert isinstance(local_scorer(chosen(scorer="ruler"), "pnl"), PnlScorer)
    with pytest.raises(ScoringError, match="ruler is no local scorer"):
        local_scorer(chosen(scorer="ruler"))


@pytest.mark.anyio
@pytest.mark.parametrize(("name", "best"), [("by_pnl", "a"), ("by_truth", "d")])
async def test_a_function_of_ones_own_rewards(chosen, name: str, best: str):
    group = await scored(chosen(scorer="function", reward_function=f"my_rewards:{name}"))
    assert group.status == SCORED and group.scorer == "function"
    assert group.scorer_version.startswith(f"my_rewards:{name}:")
    assert max(group.members, key=lambda member: member.reward).agent_id == best


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("broken", "raised KeyError: 'price'"),
        ("forgets", "different agents"),
        ("infinite", "reward inf"),
        ("words", "is 'good'"),
        ("listed", "returned list"),
    ],
)
async def test_a_function_that_fails_leaves_the_window_unjudged(chosen, name: str, message: str):
    group = await scored(chosen(scorer="function", reward_function=f"my_rewards:{name}"))
    assert group.status == UNJUDGED and message in group.reason and group.members == []


@pytest.mark.anyio
async def test_a_function_waits_for_outcomes_and_thin_windows_stay_thin(chosen):
    settings = chosen(scorer="function", reward_function="my_rewards:by_pnl")
    assert (await scored(settings, WindowToScore(WINDOW, FOUR, None))).status == "immature"
    assert (await scored(settings, WindowToScore(WINDOW, FOUR[:2], outcomes()))).status == "thin"


@pytest.mark.anyio
@pytest.mark.parametrize("path", ["my_rewards:nothing", "no_such_module:f", "my_rewards:number"])
async def test_a_function_that_is_not_there_is_named(chosen, path: str):
    with pytest.raises(ScoringError, match=path.split(":")[1]):
        await scored(chosen(scorer="function", reward_function=path))


def test_a_function_scorer_needs_its_function(chosen, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SCORER", "function")
    with pytest.raises(SettingsError, match="REWARD_FUNCTION"):
        Settings(_env_file=None)
    monkeypatch.setenv("REWARD_FUNCTION", "rm -rf /")
    with pytest.raises(SettingsError, match="REWARD_FUNCTION"):
        Settings(_env_file=None)


def test_dropout_is_that_of_the_seeds():
    assert dropout_rate(5000, 1000) == pytest.approx(0.3), "uses 3500 of 5000"
    assert dropout_rate(1100, 1000) == pytest.approx(1 / 11)
    assert dropout_rate(900, 1000) == dropout_rate(900, None) == 0.0
    assert dropout_rate(5000, 1000, 0.1) == pytest.approx(0.1)


def test_dropout_is_deterministic_bounded_and_never_below_two():
    agents = [f"agent-{i}" for i in range(20)]
    kept = kept_agents(WINDOW, agents, 0.3)
    assert len(kept) == 14 and kept == kept_agents(WINDOW, agents, 0.3)
    assert set(kept) == set(kept_agents(WINDOW, list(reversed(agents)), 0.3)), "the order does not matter"
    assert kept != kept_agents("2026-10-01T15:00", agents, 0.3), "seeded by the window"
    for count in range(1, 12):
        few = kept_agents(WINDOW, agents[:count], 0.3)
        assert min(2, count) <= len(few) and count - len(few) <= 0.3 * count


def test_agreement_of_scorings():
    assert kendall_tau([1, 2, 3], [10, 20, 30]) == 1.0
    assert kendall_tau([1, 2, 3], [3, 2, 1]) == -1.0
    assert kendall_tau([1, 1, 1], [1, 2, 3]) is None
    assert kendall_tau([1, 2, 2, 3], [1, 2, 3, 3]) == pytest.approx(0.8)
    assert flip_rate([[1, 2, 3], [1, 3, 2]]) == pytest.approx(1 / 3)
    assert flip_rate([[1, 2, 3]]) is None
    assert mean_spread([[0.1, 0.5], [0.3, 0.5]]) == pytest.approx(0.1)
    assert mean_of([1.0, None, 3.0]) == 2.0 and mean_of([None]) is None


def test_kendall_equals_scipy():
    import numpy as np
    from scipy.stats import kendalltau

    rng = np.random.default_rng(0)
    for _ in range(50):
        n = rng.integers(2, 12)
        first, second = rng.integers(0, 5, n), rng.integers(0, 5, n)
        ours, theirs = kendall_tau(first, second), kendalltau(first, second).statistic  # type: ignore[attr-defined]
        assert (ours is None and np.isnan(theirs)) or ours == pytest.approx(theirs)
