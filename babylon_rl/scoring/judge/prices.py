"""What known models cost and can read: from the price list inside of the litellm package, read without
importing it. A price changes with its provider, so JUDGE_INPUT_PRICE and JUDGE_OUTPUT_PRICE win.
"""

import json
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec

PRICE_LIST = "model_prices_and_context_window_backup.json"
CONTEXT_TOKENS = 32_000
"""What a judge of unknown size is taken to read at once."""


class Price(msgspec.Struct, frozen=True):
    """Dollars per token."""

    input: float
    output: float

    def cost(self, input_tokens: int, output_tokens: int) -> float:
        return self.input * input_tokens + self.output * output_tokens


FREE = Price(0.0, 0.0)


def known_price(model: str) -> Price | None:
    """Returns the list price of a model (`gpt-4o-mini`, `provider/model`), None if the list lacks it."""
    entry = _entry(model)
    prices = (entry.get("input_cost_per_token"), entry.get("output_cost_per_token"))
    return Price(*prices) if all(isinstance(price, int | float) for price in prices) else None  # type: ignore[arg-type]


def known_context(model: str) -> int | None:
    """Returns how many tokens a model can read, None if the list lacks it."""
    tokens = _entry(model).get("max_input_tokens")
    return tokens if isinstance(tokens, int) else None


def _entry(model: str) -> dict[str, Any]:
    listed = _price_list()
    return listed.get(model) or listed.get(model.partition("/")[2]) or {}


@cache
def _price_list() -> dict[str, dict[str, Any]]:
    package = find_spec("litellm")
    if package is None or package.origin is None:
        return {}
    path = Path(package.origin).parent / PRICE_LIST
    return json.loads(path.read_bytes()) if path.is_file() else {}
