"""The lean view: what the full view says, without what scoring does not need."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from babylon_rl.records.lean import decode_lean, decode_lean_record, lean_trajectory
from babylon_rl.records.steps import UnreadableRowError, decode_steps
from babylon_rl.records.trajectory import decode_record, to_record
from babylon_rl.scoring.episodes import build_episodes
from babylon_rl.scoring.groups import group_of, with_calls
from babylon_rl.scoring.local import PnlScorer
from babylon_rl_tests.game_rows import call, step
from babylon_rl_tests.records.test_steps import COORDINATOR, PLUGIN, json_values, step_like
from babylon_rl_tests.scoring.made import order, trajectory, window


def summary(steps) -> list[tuple]:
    return [
        (
            s.step_number,
            s.environment_state.agent_balance,
            s.environment_state.agent_pnl,
            s.environment_state.open_positions,
            s.environment_state.equity,
            (s.action.action_type, s.action.success, s.action.error),
            [(c.model, c.purpose, c.policy_version, c.response_id, c.has_tokens) for c in s.llm_calls],
        )
        for s in steps
    ]


@pytest.mark.parametrize(
    "text",
    [
        COORDINATOR,
        PLUGIN,
        "[]",
        json.dumps([step(llmCalls=[call(), call(logprobs=None), call(tokenIds=[1])])]),
        json.dumps([step(environmentState={"balance": "12.5", "pnl": None})]),
        json.dumps([step(llmCalls=[call(response="cut \ud83d")], reward=float("nan"))]),
        "[{}]",
    ],
)
def test_both_views_agree(text):
    assert summary(decode_lean(text)) == summary(decode_steps(text))


@given(st.lists(step_like | json_values, max_size=3))
def test_both_views_agree_on_anything_that_can_be_read(data):
    text = json.dumps(data)
    try:
        whole = decode_steps(text)
    except UnreadableRowError:
        return  # such a row is in quarantine, and neither view is asked
    assert summary(decode_lean(text)) == summary(whole)


numbers = st.none() | st.lists(st.integers(0, 9) | st.floats(-5, 0), max_size=4)


@given(prompt=numbers, tokens=numbers, logprobs=numbers, version=st.none() | st.just("v0.0.1"))
def test_whether_a_call_has_tokens_is_told_without_decoding_them(prompt, tokens, logprobs, version):
    fields = {"promptTokenIds": prompt, "tokenIds": tokens, "logprobs": logprobs, "policyVersion": version}
    if any(isinstance(value, float) for value in (*(prompt or ()), *(tokens or ()))):
        return  # token ids are integers
    text = json.dumps([step(llmCalls=[call(**fields)])])
    assert decode_lean(text)[0].llm_calls[0].has_tokens is decode_steps(text)[0].llm_calls[0].has_tokens


def test_a_snapshot_line_has_both_views():
    whole = trajectory("a", [step(llmCalls=[call()], environmentState={"agentBalance": 5, "mood": "bold"})])
    line = msgspec.json.encode(to_record(whole), order="deterministic")
    assert summary(decode_record(line).steps) == summary(whole.steps)
    assert decode_record(line).steps[0].environment_state.extra == {"mood": "bold"}
    assert decode_lean_record(line) == lean_trajectory(whole)


def test_a_group_scored_lean_and_completed_is_the_group_scored_whole():
    rows = [trajectory(agent, [step(llmCalls=[call(response=agent)])]) for agent in "abc"]
    rows.append(trajectory("b", [step(llmCalls=[call(response="first")])], minute=1))
    values = [order("a", 10), order("b", -4), order("c", 2)]
    lean = build_episodes(window(*map(lean_trajectory, rows)), values)  # type: ignore[arg-type]
    whole = build_episodes(window(*rows), values)
    assert [e.calls for e in lean] == [[], [], []] and all(e.trainable for e in lean)
    scorer = PnlScorer()
    completed = with_calls(group_of(lean, scorer.score(lean), "pnl", "1"), rows)
    assert completed == group_of(whole, scorer.score(whole), "pnl", "1")
    assert [c.response for c in completed.members[1].calls] == ["first", "b"]
