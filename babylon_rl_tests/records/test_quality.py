"""Data quality of a row: five parts, a reason for each that is not full, never all or nothing."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from babylon_rl.records.quality import REASONS, row_quality, window_quality
from babylon_rl.records.steps import decode_steps
from babylon_rl_tests.game_rows import call, step
from babylon_rl_tests.records.test_steps import COORDINATOR, PLUGIN

LONG = call(systemPrompt="s" * 51, userPrompt="u" * 101)
LOOKED_UP = {"providerName": "p", "data": {"price": 1}, "purpose": "q"}


def quality(*steps):
    return row_quality(decode_steps(json.dumps(steps)))


def act(kind: str, **values):
    return {"actionType": kind, "parameters": {}, "success": False} | values


def test_a_row_that_teaches_all_it_can():
    found = quality(step(llmCalls=[LONG], providerAccesses=[LOOKED_UP]))
    assert (found.score, found.reasons, found.good) == (1.0, [], True)


def test_a_row_without_steps():
    assert (quality().score, quality().reasons, quality().good) == (0.0, list(REASONS), False)


@pytest.mark.parametrize(
    ("steps", "part", "share"),
    [
        ([step(llmCalls=[LONG]), step(1), step(2), step(3)], 1, 0.25),
        ([step(llmCalls=[LONG, call(), call()])], 2, 1 / 3),
        ([step(llmCalls=[call(systemPrompt="s" * 50, userPrompt="u" * 101)])], 2, 0.0),
        ([step(llmCalls=[call(systemPrompt="s" * 51, userPrompt="u" * 100)])], 2, 0.0),
        ([step(providerAccesses=[LOOKED_UP | {"data": {}}])], 3, 0.0),
        ([step(providerAccesses=[LOOKED_UP | {"data": {"a": None}}])], 3, 0.0),
        ([step(), step(1, providerAccesses=[LOOKED_UP])], 3, 1.0),
        ([step(action=act("BUY"))], 4, 0.0),
        ([step(action=act("BUY", error="Insufficient balance"))], 4, 1.0),
        ([step(action=act("BUY", result={"shares": 1}))], 4, 1.0),
        ([step(action=act("HOLD")), step(action=act("pending"))], 4, 0.5),
        ([step(action=act("wait"))], 4, 1.0),
        ([step(action=act("TRADING_DECISION"))], 4, 1.0),
        ([step(action=act("TRADING_DECISION", success=True))], 4, 0.0),
    ],
)
def test_each_part_is_a_share_with_its_reason(steps, part, share):
    found = quality(*steps)
    assert found.parts[part] == pytest.approx(share)
    assert (REASONS[part] in found.reasons) is (share < 1)


def test_prompts_of_a_chat_count_like_the_two_columns():
    messages = [{"role": "system", "content": "s" * 60}, {"role": "user", "content": "u" * 120}]
    found = quality(step(llmCalls=[call(systemPrompt="", userPrompt="", messages=messages)]))
    assert found.parts[2] == 1.0


def test_the_games_writers():
    coordinator, plugin = row_quality(decode_steps(COORDINATOR)), row_quality(decode_steps(PLUGIN))
    assert (coordinator.score, coordinator.good) == (0.4, False), "it records no calls at all"
    assert plugin.reasons == ["short_prompts", "actions_without_outcome"] and plugin.good


def test_a_window_is_its_rows_and_those_that_cannot_be_read():
    good, bare = quality(step(llmCalls=[LONG], providerAccesses=[LOOKED_UP])), quality(step())
    found = window_quality([good, good, good, bare], unreadable=1)
    assert (found.rows, found.good_rows, found.share) == (5, 3, 0.6)
    assert found.mean == pytest.approx(3.4 / 5)
    assert found.reasons["unreadable"] == found.reasons["short_prompts"] == 1
    assert window_quality([]).share == 1.0 and window_quality([]).mean is None


@given(st.lists(st.sampled_from([step(), step(llmCalls=[LONG]), step(action=act("BUY"))]), max_size=6))
def test_a_score_is_a_share_and_a_step_more_never_takes_everything(steps):
    found = quality(*steps)
    assert 0 <= found.score <= 1
    assert found.reasons == [r for r, part in zip(REASONS, found.parts, strict=True) if part < 1]
    if steps:
        assert found.score >= 0.2
