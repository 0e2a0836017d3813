"""What a recorded answer asks for: the orders of every grammar that agents of the game answer in.

- the simulator's `AURUM surge BUY 2`, or `HOLD`;
- the game's JSON (`{"action": "trade", "trade": {"type": "perp", "market": …, "action": "open_long", …}}`);
- the action names of the game's writers (`{"actionType": "OPEN_PERP_POSITION", "parameters": {…}}`).

An answer that is none of them is an invalid action, never an exception.
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from babylon_rl.outcomes.pricing import PERPETUAL, PREDICTION
from babylon_rl.simulation.trader import Hold, Invalid, Order, parse_decision

_SIDES = {
    "open_long": (PERPETUAL, "long"),
    "open_short": (PERPETUAL, "short"),
    "buy_yes": (PREDICTION, "yes"),
    "buy_no": (PREDICTION, "no"),
    "long": (PERPETUAL, "long"),
    "short": (PERPETUAL, "short"),
    "yes": (PREDICTION, "yes"),
    "no": (PREDICTION, "no"),
}
_OPENING = {
    "trade",
    "open_perp_position",
    "open_perp",
    "buy_prediction_shares",
    "buy_prediction",
    "trading_decision",
}
_CLOSING = {"close", "sell", "close_position", "close_perp", "close_perp_position"}
_CLOSING |= {"sell_prediction", "sell_prediction_shares"}
_POSTING = {"post", "create_post", "comment", "create_comment", "comment_on_post"}
_NOTHING = {"hold", "wait", "none", "pass", "do_nothing"}


@dataclass(frozen=True)
class Wanted:
    """An order that an answer asks for; amounts in USD."""

    kind: str
    """`perp` or `prediction`."""
    instrument: str
    side: str
    """`long`, `short`, `yes` or `no`."""
    size: float
    """Notional of a perpetual, gross amount of a prediction."""
    leverage: float = 1.0

    @property
    def cost(self) -> float:
        """USD that the account must have, without the fee."""
        return self.size / self.leverage if self.kind == PERPETUAL else self.size


@dataclass(frozen=True)
class Closing:
    """An answer that asks to leave a market; without an amount, all of it."""

    instrument: str
    amount: float | None = None
    """Shares of a prediction."""


@dataclass(frozen=True)
class Said:
    """An answer that posts something."""

    content: str


Reading = Wanted | Closing | Said | Hold | Invalid


def read_answer(text: str) -> Reading:
    """Reads an answer of any known grammar; the reason of an `Invalid` names what is wrong."""
    words = text.split()
    compact = parse_decision(text, words[:1])
    if isinstance(compact, Order):
        return Wanted(PERPETUAL, compact.ticker, compact.side, compact.size, compact.leverage)
    if isinstance(compact, Hold):
        return compact
    found = [_read_object(value) for value in _objects(text)]
    orders = [one for one in found if not isinstance(one, Invalid)]
    if orders:
        return orders[0]
    return found[0] if found else compact


def _objects(text: str) -> Iterator[Mapping[str, Any]]:
    """The JSON objects of a text, outermost first, whatever is written around them."""
    decoder, start = json.JSONDecoder(), text.find("{")
    while start >= 0:
        try:
            value, end = decoder.raw_decode(text, start)
        except (json.JSONDecodeError, RecursionError):
            start = text.find("{", start + 1)
            continue
        if isinstance(value, dict):
            yield value
        start = text.find("{", end)


def _read_object(value: Mapping[str, Any]) -> Reading:
    action = _word(value, "action", "actionType", "type")
    if action in _NOTHING:
        return Hold()
    details = next(
        (value[k] for k in ("trade", "parameters", "params") if isinstance(value.get(k), dict)), value
    )
    verb = _word(details, "action", "side", "outcome", "direction")
    if action in _SIDES:
        verb = action
    if action in _POSTING:
        content = next((str(details[k]) for k in ("content", "text", "message") if details.get(k)), "")
        return Said(content[:280]) if content.strip() else Invalid("an empty post")
    closing = action in _CLOSING or verb in _CLOSING
    if not closing and action not in _OPENING and action not in _SIDES and verb not in _SIDES:
        return Invalid(f"unknown action {action[:30]!r}")
    if not closing and verb not in _SIDES:
        return Invalid(f"unknown side {verb[:30]!r}")
    instrument = next(
        (str(details[k]) for k in ("ticker", "marketId", "market", "instrument") if details.get(k)), ""
    )
    amounts = [details[k] for k in ("shares", "amount") if k in details]
    if closing and instrument.strip():
        shares = _number(details, "shares", "amount")
        if shares is not None and shares <= 0:
            return Invalid(f"cannot sell {amounts[0]!r}")
        return Closing(instrument.strip(), shares)
    size, leverage = _number(details, "size", "amount", "notional"), _number(details, "leverage")
    if not instrument.strip():
        return Invalid("no market is named")
    if size is None or size <= 0:
        return Invalid("the amount is no positive number")
    if leverage is not None and not 1 <= leverage <= 100:
        return Invalid("the leverage is not between 1 and 100")
    kind, side = _SIDES[verb]
    return Wanted(kind, instrument.strip(), side, size, leverage or 1.0)


def _word(value: Mapping[str, Any], *keys: str) -> str:
    return next((str(value[k]).strip().lower() for k in keys if isinstance(value.get(k), str)), "")


def _number(value: Mapping[str, Any], *keys: str) -> float | None:
    for key in keys:
        try:
            number = float(value[key])
        except (KeyError, TypeError, ValueError):
            continue
        if math.isfinite(number):
            return number
    return None
