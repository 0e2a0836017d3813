"""The grammar of an answer: what parses, and that nothing else does."""

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from babylon_rl.simulation.market import HEADLINES, MarketSpec
from babylon_rl.simulation.trader import (
    BANKROLL,
    LEVERAGE,
    MAX_SIZE,
    SIDES,
    UNIT_NOTIONAL,
    Hold,
    Invalid,
    Order,
    build_messages,
    format_order,
    parse_decision,
)

TICKERS = MarketSpec().tickers
WORDS = st.sampled_from(
    [*TICKERS, *HEADLINES, *SIDES, "HOLD", "1", "2", "3", "0", "4", "²", "٢", "-1", "1.0", "x"]
)


def test_every_order_is_read_back() -> None:
    for ticker, headline, side, size in itertools.product(TICKERS, HEADLINES, SIDES, range(1, MAX_SIZE + 1)):
        order = parse_decision(format_order(ticker, headline, side, size), TICKERS)
        assert order == Order(ticker, SIDES[side], size * UNIT_NOTIONAL)
        assert isinstance(order, Order) and order.margin == size * UNIT_NOTIONAL / LEVERAGE < BANKROLL


@settings(deadline=None)
@given(st.text())
def test_no_text_breaks_the_parser(text: str) -> None:
    decision = parse_decision(text, TICKERS)
    if isinstance(decision, Invalid):
        assert decision.reason and len(decision.reason) < 100


@settings(deadline=None, max_examples=300)
@given(st.lists(WORDS, max_size=6))
def test_only_the_grammar_parses(words: list[str]) -> None:
    decision = parse_decision(" ".join(words), TICKERS)
    right = (
        len(words) == 4
        and words[0] in TICKERS
        and words[1] in HEADLINES
        and words[2] in SIDES
        and words[3] in ("1", "2", "3")
    )
    expected = Order if right else Hold if words == ["HOLD"] else Invalid
    assert isinstance(decision, expected)


def test_reasons_name_what_is_wrong() -> None:
    for answer, reason in {
        "": "expected 4 words or HOLD, got 0",
        "HOLD now": "got 2",
        "hold": "got 1",
        "GOLD surge BUY 1": "unknown ticker 'GOLD'",
        "AURUM rally BUY 1": "unknown headline 'rally'",
        "AURUM surge buy 1": "unknown side 'buy'",
        "AURUM surge BUY 4": "size must be 1 to 3, got '4'",
        "AURUM surge BUY ２": "size must be 1 to 3",
        "AURUM surge BUY 02": "got '02'",
        "AURUM surge BUY " + "9" * 5000: "size must be 1 to 3",
    }.items():
        decision = parse_decision(answer, TICKERS)
        assert isinstance(decision, Invalid) and reason in decision.reason, answer
    assert parse_decision(" HOLD\n", TICKERS) == Hold()


def test_the_prompt_shows_the_news_and_nothing_of_the_future() -> None:
    system, user = build_messages([("AURUM", "surge"), ("BOREAL", "crash")], 1234.4, 2)
    assert system["role"] == "system" and user["role"] == "user"
    assert user["content"] == "equity 1230 open 2\nAURUM surge\nBOREAL crash"
