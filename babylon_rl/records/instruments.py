"""The markets that a row's actions name: what the outcomes of its window have to cover."""

from collections.abc import Iterable
from typing import Any

from babylon_rl.records.steps import Action, Step

KEYS = ("marketId", "market_id", "market", "ticker", "symbol", "stock", "organizationId")
"""Where writers put a market's id or an asset's spelling, in `parameters` and `result`."""

LONGEST = 200
MOST = 100
"""A row that names more markets than this names nothing in particular."""


def named_instruments(steps: Iterable[Step]) -> list[str]:
    """Returns market ids and tickers as the actions spell them, sorted, each once."""
    found = {name for step in steps for name in _names(step.action)}
    return sorted(found)[:MOST]


def _names(action: Action) -> Iterable[str]:
    for part in (action.parameters, action.result):
        if isinstance(part, dict):
            yield from (name for key in KEYS if (name := _spelling(part.get(key))))


def _spelling(value: Any) -> str | None:
    if not isinstance(value, str) or not 0 < len(value.strip()) <= LONGEST:
        return None
    # PostgreSQL's text has no NUL.
    return value.strip().replace("\x00", "")
