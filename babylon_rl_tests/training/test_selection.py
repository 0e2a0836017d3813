"""The seeds' flags: who is trained, who is left out, and that leaving out leaves no trace."""

from collections.abc import Sequence

import msgspec
import numpy as np
import pytest

from babylon_rl.policy.engine import EmbeddedEngine
from babylon_rl.scoring.groups import ScoredGroup, leave_one_out, reward_decisions
from babylon_rl.training.selection import Selection, select
from babylon_rl_tests.played import play_day


@pytest.fixture(scope="module")
def played(base_engine: EmbeddedEngine) -> list[ScoredGroup]:
    return play_day(base_engine, windows=3, agents=6, seed=3)


def members(groups: Sequence[ScoredGroup]) -> list[int]:
    return [len(group.members) for group in groups]


def test_everything_by_default(played: list[ScoredGroup]) -> None:
    kept, dropped = select(played, Selection())
    assert kept == played and not dropped


def test_windows_need_agents(played: list[ScoredGroup]) -> None:
    kept, dropped = select(played, Selection(min_agents=7))
    assert kept == [] and dropped["few_agents"] == sum(len(m.calls) for g in played for m in g.members)


def test_episodes_need_actions(played: list[ScoredGroup]) -> None:
    most = max(member.actions for group in played for member in group.members)
    kept, dropped = select(played, Selection(min_actions=most + 1))
    assert members(kept) == [0, 0, 0] and dropped["few_actions"]
    assert select(played, Selection(min_actions=1))[0] == played


def test_dropout_is_bounded_even_and_repeatable(played: list[ScoredGroup]) -> None:
    kept, dropped = select(played, Selection(target=6))
    assert members(kept) == [5, 5, 5], "30 % of 6 is one agent of each window"
    assert dropped["dropout"] > 0 and select(played, Selection(target=6))[0] == kept
    assert members(select(played, Selection(target=6, max_dropout=0.9))[0]) == [2, 2, 2]
    assert members(select(played, Selection(target=18))[0]) == [6, 6, 6]


def test_the_seeds_example_keeps_3500_of_5000() -> None:
    from babylon_rl.scoring.dropout import dropout_rate

    assert 5000 * (1 - dropout_rate(5000, 1000)) == pytest.approx(3500)


def test_dropout_keeps_the_advantages_of_the_whole_group(played: list[ScoredGroup]) -> None:
    kept, _ = select(played, Selection(target=6))
    before = {m.agent_id: m.advantage for m in played[0].members}
    assert all(member.advantage == before[member.agent_id] for member in kept[0].members)


def test_an_agent_that_is_left_out_leaves_no_trace(played: list[ScoredGroup]) -> None:
    gone = played[0].members[0].agent_id
    kept, dropped = select(played, Selection(without_agents=(gone,)))
    for group, original in zip(kept, played, strict=True):
        rest = [member for member in original.members if member.agent_id != gone]
        expected = leave_one_out(np.array([member.reward for member in rest]))
        assert [member.advantage for member in group.members] == pytest.approx(list(expected))
        assert group.agents == 5 and gone not in {member.agent_id for member in group.members}
    assert dropped["without_agent"] > 0


def test_a_group_of_one_trains_nothing(base_engine: EmbeddedEngine) -> None:
    [pair] = play_day(base_engine, windows=1, agents=2, seed=3)
    [left], _ = select([pair], Selection(without_agents=("agent-0",), min_agents=1))
    assert left.status == "thin" and left.members == []


@pytest.mark.parametrize("cap", [1, 4, 7, 11, 18, 100])
def test_a_cap_holds_and_takes_an_even_share(played: list[ScoredGroup], cap: int) -> None:
    kept, dropped = select(played, Selection(cap=cap))
    sizes = [len(group.trainable) for group in kept]
    assert sum(sizes) <= cap and kept == select(played, Selection(cap=cap))[0]
    assert bool(dropped["batch_size"]) == (cap < 18)
    if cap >= 6:
        assert min(sizes) >= 2 and max(sizes) - min(sizes) <= 1
    before = {m.agent_id: m.advantage for group in played for m in group.members if group is played[0]}
    assert all(member.advantage == before[member.agent_id] for member in kept[0].members)


def test_the_decisions_of_an_agent_that_is_left_out_leave_no_trace(played: list[ScoredGroup]) -> None:
    group = msgspec.convert(msgspec.to_builtins(played[0]), ScoredGroup)
    own = [[0.1 * number, -0.2] for number in range(len(group.members))]
    for member, decisions in zip(group.members, reward_decisions(own), strict=True):
        member.decisions = decisions
    (kept,), _ = select([group], Selection(without_agents=(group.members[0].agent_id,)))
    assert [member.decisions for member in kept.members] == reward_decisions(own[1:])
