"""Planted leaks are found, and ordinary prompts are none."""

import itertools
from datetime import UTC, datetime

import pytest

from babylon_rl.outcomes.window_outcomes import PredictionOutcome, WindowOutcomes
from babylon_rl.simulation.market import HEADLINES, MarketSpec
from babylon_rl.simulation.trader import build_messages
from babylon_rl.training.leaks import MARKERS, NEARBY_CHARACTERS, Leak, scan

WINDOW = "2026-10-01T10:00"
QUESTION = "Will Apex (APEX) ship in Q4? [yes/no]"


def outcomes(outcome: str = "YES", question: str = QUESTION, market_id: str = "market-7") -> WindowOutcomes:
    market = PredictionOutcome(
        market_id=market_id,
        question=question,
        outcome=outcome,
        final_probability=0.5,
        resolved_at=None if outcome == "UNRESOLVED" else datetime(2026, 10, 1, 10, 30, tzinfo=UTC),
        flags=[],
    )
    return WindowOutcomes(window_id=WINDOW, stocks=[], predictions=[market], news=[])


def found(content: str, truth: WindowOutcomes | None = None, role: str = "user") -> list[Leak]:
    quiet = {"role": "system", "content": "You trade."}
    return scan(WINDOW, "agent-1", [[quiet, {"role": role, "content": content}]], truth)


@pytest.mark.parametrize("marker", MARKERS)
@pytest.mark.parametrize("role", ["system", "user", "assistant"])
def test_names_of_hidden_things_are_found(marker: str, role: str) -> None:
    for spelling in (marker, marker.upper(), marker.title()):
        [leak] = found(f'news of today\n{{"{spelling}": 1}}\nmore news', role=role)
        assert (leak.window_id, leak.agent_id, leak.kind) == (WINDOW, "agent-1", "marker")
        assert spelling in leak.excerpt


@pytest.mark.parametrize("spelling", ["pointsToward", "resolvedOutcome", "aiJudgeReward", "actualOutcomes"])
def test_the_games_own_spellings_are_found(spelling: str) -> None:
    assert found(f"event {spelling}=YES")


@pytest.mark.parametrize(
    "text",
    [
        f"{QUESTION} Outcome: YES",
        f"{QUESTION}\n\noutcome = yes",
        f"{QUESTION} -- it resolves to YES",
        f"{QUESTION} resolved YES",
        f"{QUESTION} the answer is YES.",
        f"{QUESTION} the result will be YES!",
        f"Answer: YES for {QUESTION}",
        f"the outcome was YES: {QUESTION.upper()}",
        "market-7 resolved to YES",
        "the result is YES in market-7",
        f'{{"question": "{QUESTION}", "outcome": "YES"}}',
    ],
)
def test_a_stated_answer_is_found_in_both_orders(text: str) -> None:
    [leak] = found(text, outcomes())
    assert leak.kind == "answer"
    assert not found(text), "without the ground truth only the names are known"
    assert not found(text, outcomes("UNRESOLVED")), "what nobody knows cannot leak"
    assert not found(text, outcomes("NO")), "a wrong guess is no leak"
    assert not found(text, outcomes("YES", "Another question", "market-8")), "of another question"


@pytest.mark.parametrize(
    "text",
    [
        QUESTION,
        f"{QUESTION} price of YES 0.61, of NO 0.39",
        f"{QUESTION} I would buy YES",
        f"{QUESTION} The outcome is now closer",
        "Outcome: YES",
        f"{QUESTION}{' ' * (NEARBY_CHARACTERS + 40)}outcome: YES",
    ],
)
def test_talking_about_a_question_is_no_leak(text: str) -> None:
    assert not found(text, outcomes(question=QUESTION))
    assert not found(text, outcomes("NO", question=QUESTION))


def test_every_leaking_message_is_reported() -> None:
    conversations = [
        [{"role": "user", "content": f"ground truth and {QUESTION} outcome: YES"}],
        [{"role": "user", "content": "clean"}, {"role": "assistant", "content": "trueProbabilities"}],
    ]
    leaks = scan(WINDOW, "a", conversations, outcomes())
    assert [leak.kind for leak in leaks] == ["marker", "answer", "marker"]


def test_the_simulations_own_prompts_are_clean() -> None:
    for words in itertools.product(HEADLINES, repeat=2):
        messages = build_messages(list(zip(MarketSpec().tickers, words, strict=False)), 1000, 1)
        assert not scan(WINDOW, "a", [messages], outcomes())
