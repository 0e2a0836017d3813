"""The seeded market: a pure function of its seed, with uniform headlines that mean what they say."""

from collections import Counter

import numpy as np
import pytest

from babylon_rl.simulation.market import (
    DECISION_MINUTES,
    DECISION_TICKS,
    HEADLINES,
    MIN_PRICE_SHARE,
    REGIMES,
    TICKS_PER_HOUR,
    VAULT_REGIMES,
    MarketPath,
    MarketSpec,
    Regime,
    generate_market,
)

SPEC = MarketSpec()


@pytest.fixture(scope="module")
def many() -> list[MarketPath]:
    return [generate_market(SPEC, seed, hours=1) for seed in range(1500)]


def test_a_seed_is_a_market() -> None:
    one, again, other = (generate_market(SPEC, seed, hours=30) for seed in (7, 7, 8))
    assert (one.prices == again.prices).all() and (one.headlines == again.headlines).all()
    assert one.regimes == again.regimes
    assert (one.prices[1:] != other.prices[1:]).any() and (one.headlines != other.headlines).any()


@pytest.mark.parametrize("spec", [SPEC, MarketSpec(regimes=VAULT_REGIMES)])
def test_a_longer_path_begins_with_the_shorter_one(spec: MarketSpec) -> None:
    """Up to the first headline of the shorter one's extra hour, which has none."""
    long = generate_market(spec, 3, hours=50)
    for hours in (1, 6, 7, 24):
        short = generate_market(spec, 3, hours)
        same = hours * TICKS_PER_HOUR + DECISION_TICKS[0]
        assert (short.headlines == long.headlines[:hours]).all() and short.regimes == long.regimes[:hours]
        assert (short.prices[: same + 1] == long.prices[: same + 1]).all()


def test_shapes_leave_an_hour_for_the_last_orders() -> None:
    path = generate_market(SPEC, 0, hours=5)
    assert path.prices.shape == (6 * TICKS_PER_HOUR + 1, 4)
    assert path.headlines.shape == (5, len(DECISION_MINUTES), 4) and len(path.regimes) == 5
    last = 4 * TICKS_PER_HOUR + DECISION_TICKS[-1]
    assert path.price_path(2, last).shape == (TICKS_PER_HOUR + 1,)
    assert path.price_path(2, last)[0] == path.prices[last, 2]
    assert (path.prices[0] == SPEC.initial_price).all() and path.spec is SPEC


def test_headlines_are_uniform_and_unrelated(many: list[MarketPath]) -> None:
    from scipy.stats import chi2_contingency, chisquare

    words = np.array([path.headlines[0] for path in many])
    assert chisquare(np.bincount(words.reshape(-1), minlength=len(HEADLINES))).pvalue > 1e-3
    for one, other in ((words[:, 0, 0], words[:, 0, 1]), (words[:, 0, 0], words[:, 1, 0])):
        table = np.zeros((len(HEADLINES), len(HEADLINES)))
        np.add.at(table, (one, other), 1)
        assert float(chi2_contingency(table)[1]) > 1e-3  # type: ignore[arg-type]


def test_a_headline_moves_the_price_as_far_as_its_regime_says(many: list[MarketPath]) -> None:
    """The next hour's log return, regressed on the strengths of the headlines that reach into it."""
    rows, returns = [], []
    for path in many:
        effect = (
            2 * REGIMES[[regime.name for regime in REGIMES].index(path.regimes[0])].reliability - 1
        ) * 0.025
        for ticker in range(4):
            strengths = path.headlines[0, :, ticker] - 2
            # Share of each headline's hour that lies within the hour after the first decision.
            shares = np.array([1.0, 0.75, 0.5, 0.25])
            window = path.price_path(ticker, DECISION_TICKS[0])
            rows.append(float((strengths * shares).sum() * effect))
            returns.append(float(np.log(window[-1] / window[0])))
    x, y = np.array(rows), np.array(returns)
    slope = float(x @ y / (x @ x))
    error = float(np.sqrt(((y - slope * x) ** 2).mean() / (x @ x)))
    assert abs(slope - 1) < 4 * error + 0.02 and error < 0.05


def test_prices_stay_positive_and_above_the_floor() -> None:
    crash = Regime("crash", volatility=0.3, jump_rate=4.0, jump_size=0.5)
    path = generate_market(MarketSpec(regimes=(crash,), reversion=0.0), 1, hours=24)
    assert path.prices.min() == MIN_PRICE_SHARE * SPEC.initial_price
    calm = generate_market(SPEC, 1, hours=24 * 30)
    assert calm.prices.min() > 2 * MIN_PRICE_SHARE * SPEC.initial_price, "a month does not end at the floor"


def test_regimes_change_every_few_hours_and_all_occur() -> None:
    path = generate_market(MarketSpec(regimes=VAULT_REGIMES), 5, hours=600)
    counts = Counter(path.regimes)
    assert set(counts) == {regime.name for regime in VAULT_REGIMES} and min(counts.values()) > 50
    changes = [hour for hour in range(1, 600) if path.regimes[hour] != path.regimes[hour - 1]]
    assert changes and all(hour % SPEC.regime_hours == 0 for hour in changes)


def test_tickers_are_the_engines() -> None:
    assert SPEC.tickers == ("AURUM", "BOREAL", "COBALT", "DYNAMO")
    assert MarketSpec(companies=("apex-holdings-international",)).tickers == ("APEXHOLDINGS",)
