"""Recorded answers in every grammar of the game, and everything that is none."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from babylon_rl.benchmark.answers import Closing, Said, Wanted, read_answer
from babylon_rl.simulation.trader import Hold, Invalid

TRADE = {"type": "perp", "market": "aurum", "action": "open_long", "amount": 50, "reasoning": "news"}


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("AURUM surge BUY 2", Wanted("perp", "AURUM", "long", 1000.0, 10)),
        ("AURUM crash SELL 1", Wanted("perp", "AURUM", "short", 500.0, 10)),
        (json.dumps({"action": "trade", "trade": TRADE}), Wanted("perp", "aurum", "long", 50.0)),
        (
            f"Buy.\n```json\n{json.dumps({'action': 'trade', 'trade': {**TRADE, 'action': 'buy_no'}})}\n```",
            Wanted("prediction", "aurum", "no", 50.0),
        ),
        (
            '{"actionType": "OPEN_PERP_POSITION", "parameters": {"ticker": "$BTC", "side": "SHORT", '
            '"size": "120.5", "leverage": 5}}',
            Wanted("perp", "$BTC", "short", 120.5, 5.0),
        ),
        (
            '{"actionType": "BUY_PREDICTION_SHARES", "params": {"market": "7", "side": "YES", "amount": 9}}',
            Wanted("prediction", "7", "yes", 9.0),
        ),
        ("{broken {\"a\": 1} then " + json.dumps({"action": "buy_yes", "market": "7", "amount": 3}),
         Wanted("prediction", "7", "yes", 3.0)),
    ],
)  # fmt: skip
def test_orders_are_read(text: str, wanted: Wanted) -> None:
    assert read_answer(text) == wanted


@pytest.mark.parametrize(
    "text", ["HOLD", '{"action": "hold"}', 'so {"actionType": "WAIT", "parameters": {}}']
)
def test_holding_is_read(text: str) -> None:
    assert read_answer(text) == Hold()


@pytest.mark.parametrize(
    "change",
    [
        {"market": ""},
        {"amount": -5},
        {"amount": None},
        {"amount": "NaN"},
        {"action": "clone"},
        {"leverage": 0},
    ],
)
def test_what_is_no_order_is_invalid(change: dict) -> None:
    assert isinstance(read_answer(json.dumps({"action": "trade", "trade": TRADE | change})), Invalid)


def test_leaving_and_posting_are_read() -> None:
    assert read_answer('{"action": "trade", "trade": {"action": "close", "market": "BTC"}}') == Closing("BTC")
    sold = '{"actionType": "SELL_PREDICTION_SHARES", "parameters": {"marketId": "m", "shares": 2.5}}'
    assert read_answer(sold) == Closing("m", 2.5)
    assert isinstance(read_answer(sold.replace("2.5", "-1")), Invalid)
    assert read_answer('{"action": "create_comment", "parameters": {"content": "hm"}}') == Said("hm")
    assert isinstance(read_answer('{"action": "post"}'), Invalid)


@given(st.text(max_size=200))
def test_any_text_is_read(text: str) -> None:
    read_answer(text)
    read_answer("{" + text)


def test_deep_nesting_is_no_trap() -> None:
    assert isinstance(read_answer('{"a":' * 5_000), Invalid)


def test_what_an_order_costs() -> None:
    assert Wanted("perp", "A", "long", 1000.0, 10).cost == 100.0
    assert Wanted("prediction", "7", "yes", 50.0).cost == 50.0
