"""Typed steps: both writers and the seeds' short shape read alike; what cannot be read is named."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from babylon_rl.records.steps import (
    Action,
    EnvironmentState,
    Step,
    UnreadableRowError,
    decode_steps,
    encode_steps,
)
from babylon_rl_tests.game_rows import call, step

# What the game's cron coordinator wrote (a hold, recorded as a failure) and what its logger plugin wrote.
COORDINATOR = (
    '[{"stepNumber":0,"timestamp":1763301598500,"environmentState":{"agentBalance":941.2,"agentPnL":-58.8,'
    '"openPositions":2,"activeMarkets":9,"timestamp":1763301598500},"providerAccesses":[],"llmCalls":[],'
    '"action":{"actionType":"TRADING_DECISION","parameters":{"method":"a2a","pnlChange":0,"initialPnL":-58.8,'
    '"finalPnL":-58.8},"success":false},"reward":0},{"stepNumber":1,"timestamp":1763301600102,'
    '"environmentState":{"agentBalance":941.2,"agentPnL":-58.8,"openPositions":2,"activeMarkets":9,'
    '"timestamp":1763301600102},"providerAccesses":[],"llmCalls":[],"action":{"actionType":"CREATE_POST",'
    '"parameters":{"postId":"248447081117646848"},"success":true,"result":{"postId":"248447081117646848"}},'
    '"reward":0.1}]'
)
PLUGIN = (
    '[{"stepId":"5b0f","stepNumber":0,"timestamp":1763301598500,"environmentState":{"timestamp":1763301598500,'
    '"agentBalance":10,"agentPoints":5,"agentPnL":0,"openPositions":0,"portfolioValue":12.5,'
    '"recentEngagement":{"likes":2},"custom":{"a":[1]}},"observation":{},"providerAccesses":[{"providerId":"p",'
    '"providerName":"BABYLON_MARKETS","timestamp":1763301598501,"query":{"message":"hi"},'
    '"data":{"text":"x","success":true},"purpose":"context"}],"llmCalls":[{"callId":"c","timestamp":1763301598502,'
    '"model":"qwen/qwen3-32b","systemPrompt":"","userPrompt":"u","response":"r","temperature":0.7,'
    '"maxTokens":300,"purpose":"other","latencyMs":812.25,"messages":[{"role":"user","content":"u"}],'
    '"promptTokens":10,"completionTokens":2,"topP":1}],"action":{"attemptId":"a","timestamp":1763301598503,'
    '"actionType":"pending","actionName":"pending","parameters":{},"success":false},"reward":0,"done":false,'
    '"metadata":{"gameEvent":"tick"}}]'
)


@pytest.mark.parametrize("text", [COORDINATOR, PLUGIN, "[]", json.dumps([step(llmCalls=[call()])])])
def test_what_the_writers_wrote_comes_back_whole(text):
    assert json.loads(encode_steps(decode_steps(text))) == json.loads(text)


def test_the_seeds_short_shape():
    state, action = {"balance": 1000, "pnl": 50}, {"type": "trade", "params": {"x": 1}}
    (read,) = decode_steps(json.dumps([{"stepNumber": 1, "environmentState": state, "action": action}]))
    assert read.step_number == 1
    assert (read.environment_state.agent_balance, read.environment_state.agent_pnl) == (1000, 50)
    assert (read.action.action_type, read.action.parameters, read.action.success) == ("trade", {"x": 1}, True)
    assert read.llm_calls == [] and read.provider_accesses == []


def test_unknown_keys_are_kept_and_written_back():
    original = [
        step(
            future=True,
            environmentState={"agentBalance": 1, "agentPnL": 2, "openPositions": 3, "mood": "bold"},
            llmCalls=[call(cost={"usd": 0.1})],
            providerAccesses=[{"providerName": "p", "data": {}, "purpose": "q", "cached": False}],
            action={"actionType": "HOLD", "parameters": {}, "success": True, "confidence": 0.4},
        )
    ]
    (read,) = decode_steps(json.dumps(original))
    assert read.extra == {"future": True}
    assert read.environment_state.extra == {"mood": "bold"}
    assert read.llm_calls[0].extra == {"cost": {"usd": 0.1}}
    assert read.action.extra == {"confidence": 0.4}
    assert json.loads(encode_steps([read])) == original


def test_numbers_in_strings_and_nulls_for_nan():
    state = {"agentBalance": "941.20", "agentPnL": None, "openPositions": "2", "portfolioValue": "NaN"}
    (read,) = decode_steps(json.dumps([step(environmentState=state, reward=None)]))
    assert read.environment_state.agent_balance == 941.2
    assert read.environment_state.agent_pnl is None
    assert read.environment_state.open_positions == 2
    assert read.environment_state.portfolio_value is None
    assert read.reward is None


def test_literal_nan_as_python_writes_it():
    text = json.dumps([step(reward=float("nan"), environmentState={"agentPnL": float("-inf")})])
    (read,) = decode_steps(text)
    assert read.reward is None and read.environment_state.agent_pnl is None


def test_a_missing_action_is_pending_and_null_parameters_are_none():
    missing, without = decode_steps(json.dumps([step(action=None), step(1, action={"actionType": "BUY"})]))
    assert (missing.action.action_type, missing.action.success) == ("pending", False)
    assert (without.action.parameters, without.action.success) == ({}, True)


def test_steps_without_numbers_are_numbered():
    assert [read.step_number for read in decode_steps("[{},{},{}]")] == [0, 1, 2]


def test_a_lone_surrogate_becomes_the_replacement_character():
    (read,) = decode_steps(json.dumps([step(llmCalls=[call(response="cut \ud83d")])]))
    assert read.llm_calls[0].response == "cut \ufffd"
    assert encode_steps([read])


def test_a_call_without_a_prompt_or_with_parts_missing():
    (read,) = decode_steps('[{"llmCalls":[{"model":"m"}]}]')
    (only,) = read.llm_calls
    assert (only.system_prompt, only.user_prompt, only.temperature, only.max_tokens) == ("", "", None, None)
    assert only.chat_messages() == [] and not only.has_tokens


def test_chat_messages_prefer_what_was_recorded():
    recorded = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    (with_messages,) = decode_steps(json.dumps([step(llmCalls=[call(messages=recorded)])]))
    (without,) = decode_steps(json.dumps([step(llmCalls=[call()])]))
    assert with_messages.llm_calls[0].chat_messages() == recorded
    assert [m["role"] for m in without.llm_calls[0].chat_messages()] == ["system", "user"]


@pytest.mark.parametrize(
    ("changes", "whole"),
    [({}, True), ({"logprobs": [-0.5]}, False), ({"policyVersion": None}, False), ({"tokenIds": []}, False)],
)
def test_has_tokens_needs_a_logprob_for_each_token(changes, whole):
    (read,) = decode_steps(json.dumps([step(llmCalls=[call(**changes)])]))
    assert read.llm_calls[0].has_tokens is whole


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "invalid_json"),
        ('[{"stepNumber":0,', "invalid_json"),
        ("[" * 100_000, "invalid_json"),
        ("null", "null_steps"),
        ("{}", "not_a_list"),
        ("7", "not_a_list"),
        ("[1]", "step_not_an_object"),
        ('[{"action":3}]', "action_not_an_object"),
        ('[{"environmentState":[1]}]', "environment_not_an_object"),
        ('[{"llmCalls":{"a":1}}]', "calls_not_a_list"),
        ('[{"llmCalls":["hi"]}]', "call_not_an_object"),
        ('[{"providerAccesses":"none"}]', "accesses_not_a_list"),
        ('[{"action":{"parameters":[1]}}]', "wrong_type"),
        ('[{"environmentState":{"agentBalance":"lots"}}]', "bad_number"),
        ('[{"environmentState":{"openPositions":1.5}}]', "bad_number"),
        ('[{"llmCalls":[{"tokenIds":["x"]}]}]', "malformed_step"),
    ],
)
def test_what_cannot_be_read_is_named(text, reason):
    with pytest.raises(UnreadableRowError) as caught:
        decode_steps(text)
    assert caught.value.reason == reason
    assert caught.value.detail


def test_steps_made_in_python_look_like_the_recorders():
    made = Step(
        step_number=0,
        timestamp=1_790_000_000_000,
        environment_state=EnvironmentState(agent_balance=1000, agent_pnl=0, open_positions=0, equity=1000),
        provider_accesses=[],
        llm_calls=[],
        action=Action(action_type="HOLD", parameters={}, success=True),
        reward=0,
    )
    (written,) = json.loads(encode_steps([made]))
    assert written["environmentState"] == {
        "agentBalance": 1000,
        "agentPnL": 0,
        "openPositions": 0,
        "equity": 1000,
    }
    assert written["llmCalls"] == [] and written["providerAccesses"] == []


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=12,
)
step_like = st.dictionaries(
    st.sampled_from(["stepNumber", "timestamp", "environmentState", "action", "llmCalls", "reward", "zz"]),
    json_values,
)


@given(st.lists(step_like | json_values, max_size=3))
def test_any_json_is_read_or_named_and_reading_settles(data):
    try:
        read = decode_steps(json.dumps(data))
    except UnreadableRowError as error:
        assert error.reason and error.detail
        return
    assert decode_steps(encode_steps(read)) == read
