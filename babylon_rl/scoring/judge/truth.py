"""The ground truth as the judge sees it, once per group: prices, resolutions and news of the hour."""

from typing import Any

from babylon_rl.outcomes.window_outcomes import UNRESOLVED, WindowOutcomes
from babylon_rl.scoring.judge.encoding import estimate_tokens
from babylon_rl.scoring.judge.redaction import Redactor
from babylon_rl.scoring.judge.views import clip, short_number
from babylon_rl.windows import window_range

MAX_TOKENS = 2000
"""Of the whole: what moved least and what was published last is left out of a crowded hour, and counted."""

_LONGEST_QUESTION, _LONGEST_NEWS = 160, 220


def ground_truth(
    outcomes: WindowOutcomes, redactor: Redactor, *, max_tokens: int = MAX_TOKENS
) -> dict[str, Any]:
    """Returns what the markets did in the window.

    Texts of it were written by players as well, so they are redacted and, in the prompt, escaped like any
    other.
    """
    start = window_range(outcomes.window_id)[0]
    stocks = sorted(
        (stock for stock in outcomes.stocks if stock.end_price is not None),
        key=lambda stock: (-abs(stock.change_percent or 0.0), stock.ticker),
    )
    prices = [
        {
            "ticker": stock.ticker,
            "start": short_number(stock.start_price),
            "end": short_number(stock.end_price),
            "change_percent": short_number(stock.change_percent),
        }
        for stock in stocks
    ]
    markets = [
        {
            "market": market.market_id,
            "question": clip(redactor.text(market.question), _LONGEST_QUESTION),
            "resolved": market.outcome,
            "probability_of_yes": short_number(market.final_probability),
        }
        for market in sorted(outcomes.predictions, key=lambda m: (m.outcome == UNRESOLVED, m.market_id))
    ]
    news = [
        {
            "min": round((item.published_at - start).total_seconds() / 60, 1),
            "news": clip(redactor.text(item.text), _LONGEST_NEWS),
        }
        for item in outcomes.news
    ]
    truth: dict[str, Any] = {}
    room = max_tokens
    # Prices first: they decide what an order was worth.
    for name, entries in (("prices", prices), ("markets", markets), ("news", news)):
        kept = []
        for entry in entries:
            cost = estimate_tokens(entry)
            if cost > room:
                break
            room -= cost
            kept.append(entry)
        truth[name] = kept
        if len(kept) < len(entries):
            truth[f"{name}_left_out"] = len(entries) - len(kept)
    return truth
