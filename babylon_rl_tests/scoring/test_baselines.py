"""The agents' effects: what they remove, what they leave alone, and that nothing looks ahead."""

import msgspec
import numpy as np
import pytest

from babylon_rl.scoring.baselines import Earlier, agent_effects, without_effects
from babylon_rl.scoring.groups import RewardedDecision, ScoredGroup, group_of, leave_one_out
from babylon_rl.scoring.local import Score
from babylon_rl_tests.scoring.made import episode

AGENTS = [f"agent-{number}" for number in range(8)]
WINDOWS = [f"2026-10-{day:02d}T{hour:02d}:00" for day in (1, 2) for hour in range(24)]


def played(spread: float, seed: int = 0) -> tuple[list[ScoredGroup], list[Earlier], np.ndarray]:
    """Groups of rewards = the agent's own level + the window's + luck, as history, and the luck alone."""
    rng = np.random.default_rng(seed)
    levels, luck = spread * rng.normal(size=len(AGENTS)), rng.normal(size=(len(WINDOWS), len(AGENTS)))
    groups = []
    for number, window in enumerate(WINDOWS):
        rewards = levels + luck[number] + 3 * rng.normal()
        episodes = [episode(agent, 1.0, window_id=window) for agent in AGENTS]
        scores = [Score(agent, float(reward), {}) for agent, reward in zip(AGENTS, rewards, strict=True)]
        groups.append(group_of(episodes, scores, "pnl", "1"))
    history = [Earlier(group.window_id, m.agent_id, m.advantage) for group in groups for m in group.members]
    return groups, history, luck


def advantages(groups: list[ScoredGroup]) -> np.ndarray:
    return np.array([[member.advantage for member in group.members] for group in groups])


def test_agents_that_differ_leave_the_advantages_and_the_decisions_stay() -> None:
    groups, history, luck = played(spread=2.0)
    changed, figures = without_effects(groups, history)
    before, after = advantages(groups)[24:], advantages(changed)[24:]
    wanted = np.array([leave_one_out(row) for row in luck])[24:]
    assert after.var() < 0.5 * before.var(), "the agents' own levels were most of it"
    assert np.corrcoef(after.ravel(), wanted.ravel())[0, 1] > 0.95
    assert figures["baseline/variance_removed"] > 0.4 and figures["baseline/agent_effect_rms"] > 1
    assert np.allclose(after.sum(axis=1), 0), "still leave-one-out"


@pytest.mark.parametrize("seed", range(5))
def test_equal_agents_lose_almost_nothing(seed: int) -> None:
    groups, history, _ = played(spread=0.0, seed=seed)
    changed, _ = without_effects(groups, history)
    assert advantages(changed).var() < 1.03 * advantages(groups).var()


def test_nothing_looks_ahead() -> None:
    groups, history, _ = played(spread=2.0)
    at = 30
    changed, _ = without_effects(groups, history)
    # The orders of the window just before are paid during this one, and this one's are its own.
    unknown = set(WINDOWS[at - 1 :])
    altered = [Earlier(e.window_id, e.agent_id, 1e6) if e.window_id in unknown else e for e in history]
    again, _ = without_effects(groups, altered)
    assert again[at] == changed[at] and again[at + 2] != changed[at + 2]


def test_a_longer_horizon_waits_longer() -> None:
    _, history, _ = played(spread=2.0)
    day_one = [e for e in history if e.window_id < "2026-10-02T00:00"]
    effects = agent_effects(day_one, [(window, "24h") for window in WINDOWS])
    # 05:00 is paid at 06:00 of the next day; the sixth window counts from then.
    assert [window for window, found in effects.items() if found][:1] == ["2026-10-02T06:00"]
    assert not any(agent_effects(day_one, [(window, "resolution") for window in WINDOWS]).values())


def test_agents_that_were_never_seen_count_as_average() -> None:
    groups, history, _ = played(spread=2.0)
    known = [e for e in history if e.agent_id != "agent-0"]
    changed, _ = without_effects(groups, known)
    effects = agent_effects(known, [(WINDOWS[40], "1h")])[WINDOWS[40]]
    own = np.array([effects.get(agent, 0.0) for agent in AGENTS])
    assert "agent-0" not in effects and own.any()
    assert np.allclose(advantages(changed)[40], advantages(groups)[40] - leave_one_out(own))


def test_few_windows_change_nothing() -> None:
    groups, history, _ = played(spread=2.0)
    changed, figures = without_effects(groups[:6], history)
    assert changed == groups[:6] and figures == {"baseline/windows_with_effects": 0.0}


def test_an_hours_effect_is_taken_from_its_decisions_in_equal_shares() -> None:
    groups, history, _ = played(spread=2.0)
    split = [
        msgspec.structs.replace(
            group,
            members=[
                msgspec.structs.replace(m, decisions=[RewardedDecision(0.0, m.advantage / 4)] * 4)
                for m in group.members
            ],
        )
        for group in groups
    ]
    changed, _ = without_effects(split, history)
    for group in changed:
        for member in group.members:
            assert sum(one.advantage for one in member.decisions) == pytest.approx(member.advantage)
    assert advantages(changed)[24:].var() < 0.5 * advantages(groups)[24:].var()
