"""Planted leaks are found, and ordinary prompts are none."""

import itertools
from datetime import UTC, datetime

import asyncpg
import msgspec
import pytest

from babylon_rl.outcomes.market import derive_outcomes
from babylon_rl.outcomes.window_outcomes import PredictionOutcome, StockOutcome, WindowOutcomes
from babylon_rl.records.reader import read_window, refresh_window_rows
from babylon_rl.simulation.market import HEADLINES, MarketSpec
from babylon_rl.simulation.trader import build_messages
from babylon_rl.training.leaks import MARKERS, NEARBY_CHARACTERS, Leak, scan
from babylon_rl.windows import window_range
from babylon_rl_tests.simulation.conftest import engine, played, played_dsn

__all__ = ["engine", "played", "played_dsn"]

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


SHIPS = "Will Apex ship the Falcon engine before the fourth quarter?"


@pytest.mark.parametrize(
    "text",
    [
        "Settled already: Apex ships its Falcon engine before Q4, yes.",
        "Before the 4th quarter APEX shipped the FALCON engines. The result is YES",
        "the final verdict on the falcon engine of apex shipping before q4 is affirmative",
        "It turns out that Apex ships the Falcon engine before the fourth quarter",
        "truth\tq4 falcon engine apex ship = true",
        "As to whether Ápex ships the Falcon engine in the fourth quarter, it was decided: yes",
    ],
)
def test_an_answer_in_other_words_is_found(text: str) -> None:
    [leak] = found(f"equity 1000\n{text}\nAURUM surge", outcomes(question=SHIPS))
    assert leak.kind == "paraphrase" and "falcon" in leak.excerpt
    assert not found(text, outcomes("NO", SHIPS)), "a wrong guess is no leak"
    assert not found(text, outcomes("UNRESOLVED", SHIPS))
    assert not found(text, outcomes(question="Will Borealis open a shop in Oslo before 2027?"))


@pytest.mark.parametrize(
    "text",
    [
        "Confirmed: Apex will not ship the Falcon engine before Q4",
        "In hindsight Apex never shipped the Falcon engine before the fourth quarter",
        "The outcome of Apex shipping the Falcon engine before Q4 is negative",
    ],
)
def test_a_denied_answer_is_found(text: str) -> None:
    [leak] = found(text, outcomes("NO", SHIPS))
    assert leak.kind == "paraphrase"
    assert not found(text, outcomes("YES", SHIPS))


@pytest.mark.parametrize(
    "text",
    [
        "Will Apex ship the Falcon engine before Q4? Answer YES or NO.",
        "I think Apex ships the Falcon engine before Q4, so the outcome is YES",
        "If Apex ships the Falcon engine before Q4 the market resolves YES",
        "Apex ships the Falcon engine before Q4! Trade now",
        "Apex: the Falcon engine, before Q4, YES at 0.62, NO at 0.38; result of your last order: filled",
        "Apex confirmed that its new canteen is open, yes",
    ],
)
def test_a_guess_a_rumour_and_a_list_of_options_are_no_leaks(text: str) -> None:
    assert not found(text, outcomes("YES", SHIPS)) and not found(text, outcomes("NO", SHIPS))


def stock() -> WindowOutcomes:
    moved = StockOutcome(
        ticker="AURUM",
        organization_id="aurum",
        name="Aurum Corp",
        start_price=100.0,
        end_price=104.3712,
        change_percent=4.3712,
        sentiment="BULLISH",
        moves=12,
        volume=0.0,
        news=[],
        flags=[],
    )
    return WindowOutcomes(window_id=WINDOW, stocks=[moved], predictions=[], news=[])


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("AURUM will close this hour at 104.37", "price"),
        ("by the end of the hour $aurum stands at 104.4 dollars", "price"),
        ("aurum ends the window +4.37 %", "price"),
        ("AURUM will end at 104.40", None),
        ("AURUM now 104.37", None),
        ("BOREAL will close at 104.37", None),
        ("AURUM will reach 104", None),
        ("AURUM will close at 100.0", None),
    ],
)
def test_the_final_price_told_before_the_end_is_found(text: str, kind: str | None) -> None:
    assert [leak.kind for leak in found(text, stock())] == ([kind] if kind else [])


@pytest.mark.parametrize("market_id", ["7", "a", "YES", "BTC-1"])
def test_a_short_market_id_is_looked_for_beside_the_word_market(market_id: str) -> None:
    truth = outcomes(question="Will it rain in Lisbon on Monday?", market_id=market_id)
    for clean in (
        f"7 agents, a trader and BTC-1. Order {market_id}: the result is YES",
        f"equity 1007 open {market_id} outcome: YES",
        f"market {market_id}2 resolved to YES",
    ):
        assert not found(clean, truth), clean
    for leaking in (f"market {market_id} resolved to YES", f"outcome: YES for question #{market_id}"):
        assert [leak.kind for leak in found(leaking, truth)] == ["answer"], leaking


def test_a_long_market_id_is_not_found_inside_a_longer_one() -> None:
    truth = outcomes(question="", market_id="market-7")
    assert found("market-7 resolved to YES", truth)
    assert not found("market-71 resolved to YES", truth) and not found("supermarket-7 resolved to YES", truth)
    assert not found("resolved to YES", outcomes(question="", market_id=""))


@pytest.mark.parametrize(
    "text", ["", "?" * 5000, "\x00", "\ud800 outcome", "9" * 5000, "outcome " * 3000, "1,2,3" * 999]
)
def test_strange_messages_are_read(text: str) -> None:
    assert not found(text, outcomes(question=SHIPS))


def test_the_public_answer_of_a_question_of_the_same_pattern_is_no_leak() -> None:
    truth = outcomes(question="Will Boreal open a second factory before 2026-10-04 12:00? (question 4)")
    public = "Resolved: Aurum did open a second factory before 2026-10-04 12:00 (question 1), YES"
    assert not found(public, truth)
    assert found(public.replace("Aurum", "Boreal"), truth)


async def public_feed(game: asyncpg.Connection, window_id: str) -> str:
    """What an agent with all of the game's public text would be shown at the end of a window."""
    end = window_range(window_id)[1]
    posts = await game.fetch('SELECT "content" FROM "Post" WHERE "timestamp" < $1', end)
    events = await game.fetch('SELECT "description" FROM "WorldEvent" WHERE "timestamp" < $1', end)
    markets = await game.fetch('SELECT "question", "yesShares", "noShares" FROM "Market"')
    prices = await game.fetch(
        'SELECT "organizationId", "price" FROM "StockPrice" WHERE "timestamp" < $1 ORDER BY "timestamp"', end
    )
    lines = [row[0] for row in (*posts, *events)]
    lines += [f"{row[0]} YES {row[1]} NO {row[2]}" for row in markets]
    lines += [f"{row[0]} now {row[1]:.2f}" for row in prices[-20:]]
    return "\n".join([*lines, "Answer YES, NO or HOLD.", "The result of your last order: no fill."])


@pytest.mark.anyio
async def test_two_clean_simulated_days_have_no_leak(played: asyncpg.Connection) -> None:
    """Every message that was recorded in a world with news, questions and prices, against its own truth."""
    await refresh_window_rows(played, played, since=None)
    windows = [
        row["window_id"] for row in await played.fetch("SELECT DISTINCT window_id FROM rl.window_rows")
    ]
    messages = 0
    for window_id in windows:
        truth = await derive_outcomes(played, window_id)
        feed = await public_feed(played, window_id)
        for answer in ("YES", "NO"):
            settled = [msgspec.structs.replace(market, outcome=answer) for market in truth.predictions]
            known = msgspec.structs.replace(truth, predictions=settled)
            assert not scan(window_id, "a", [[{"role": "user", "content": feed}]], known)
        for row in (await read_window(played, played, window_id)).trajectories:
            calls = [call.chat_messages() for step in row.steps for call in step.llm_calls]
            messages += sum(map(len, calls))
            assert not scan(window_id, row.agent_id, calls, truth)
    assert len(windows) == 48 and messages > 2_000
