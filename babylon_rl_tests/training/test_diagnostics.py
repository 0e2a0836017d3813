"""What a day's rewards are worth, which calls may be trained, and when a day is refused."""

import math

import msgspec
import pytest

from babylon_rl.policy.engine import EmbeddedEngine
from babylon_rl.records.steps import LlmCall
from babylon_rl.scoring.groups import ScoredGroup
from babylon_rl.training.diagnostics import SignalRules, diagnose, effective, refusal, split_half
from babylon_rl.training.eligibility import Eligibility, why_not
from babylon_rl_tests.played import play_day


@pytest.fixture(scope="module")
def groups(base_engine: EmbeddedEngine) -> list[ScoredGroup]:
    return play_day(base_engine, windows=4, agents=4, seed=3)


def with_advantages(groups: list[ScoredGroup], rows: list[list[float]]) -> list[ScoredGroup]:
    return [
        msgspec.structs.replace(
            group,
            members=[
                msgspec.structs.replace(m, advantage=a) for m, a in zip(group.members, row, strict=True)
            ],
        )
        for group, row in zip(groups, rows, strict=True)
    ]


def test_effective_episodes() -> None:
    assert effective([1, -1, 1, -1]) == 4.0
    assert effective([1, 0, 0, 0]) == 1.0
    assert effective([]) == effective([0.0]) == 0.0


def test_split_half_tells_persistent_agents_from_luck(groups: list[ScoredGroup]) -> None:
    persistent = with_advantages(groups, [[3.0, 1.0, -1.0, -3.0]] * 4)
    assert split_half(persistent) == pytest.approx(1.0)
    opposite = with_advantages(groups, [[3.0, 1.0, -1.0, -3.0], [-3.0, -1.0, 1.0, 3.0]] * 2)
    assert split_half(opposite) == pytest.approx(-1.0)
    assert split_half(groups[:1]) is None


def test_a_day_below_a_threshold_is_refused_with_its_figure(groups: list[ScoredGroup]) -> None:
    shares = {"pnl": 0.75, "invalid": 0.25}
    judged = [msgspec.structs.replace(g, pnl_spearman=0.8, variance_shares=shares) for g in groups]
    found = diagnose(judged, [{"advantage": m.advantage} for g in groups for m in g.members])
    assert found["pnl_spearman"] == pytest.approx(0.8) and found["effective_episodes"] > 4
    assert sum(v for k, v in found.items() if k.startswith("variance_share/")) == pytest.approx(1.0)
    assert refusal(found, SignalRules()) == ""
    assert refusal(found, SignalRules(min_effective=1000)).startswith("effective episodes: ")
    assert "cannot be computed" in refusal({}, SignalRules(min_split_half=0.1))


def call(groups: list[ScoredGroup], **changes: object) -> LlmCall:
    return msgspec.structs.replace(groups[0].members[0].calls[0], **changes)


def test_calls_are_refused_with_a_reason(groups: list[ScoredGroup]) -> None:
    drop, positive = Eligibility(), Eligibility("positive")
    assert why_not(call(groups), -1.0, drop) is None
    assert why_not(call(groups, logprobs=None), 1.0, drop) == "no_logprobs"
    assert why_not(call(groups, logprobs=None), 1.0, positive) is None
    assert why_not(call(groups, logprobs=None), -1.0, positive) == "foreign_negative_advantage"
    assert why_not(call(groups, logprobs=None, response=" "), 1.0, positive) == "empty_answer"
    assert why_not(call(groups, finish_reason="length"), 1.0, drop) == "cut_by_token_limit"
    assert why_not(call(groups, temperature=0.0), 1.0, drop) == "greedy"
    tokens = len(call(groups).token_ids or [])
    for value in (math.nan, -math.inf, 0.5):
        assert why_not(call(groups, logprobs=[value] * tokens), 1.0, drop) == "bad_logprobs"
