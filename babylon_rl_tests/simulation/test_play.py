"""Episodes: who trades what, what it is worth, and how much one hour can cost."""

import random
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from babylon_rl.benchmark.statistics import paired_interval
from babylon_rl.policy.engine import EmbeddedEngine
from babylon_rl.simulation.market import DECISION_TICKS, HEADLINES, MarketPath, MarketSpec, generate_market
from babylon_rl.simulation.play import (
    RETURN_BOUND,
    Episode,
    headline_rule,
    play_policy,
    play_rule,
    random_rule,
)
from babylon_rl.simulation.trader import (
    BANKROLL,
    MAX_SIZE,
    UNIT_NOTIONAL,
    Decision,
    Hold,
    Invalid,
    Order,
    parse_decision,
)

SPEC = MarketSpec(companies=("aurum",))
FULL = MAX_SIZE * UNIT_NOTIONAL


def market_of(prices: Sequence[float]) -> MarketPath:
    """An hour and the one after it of one company, with quiet news."""
    headlines = np.full((1, len(DECISION_TICKS), 1), 2, dtype=np.int8)
    return MarketPath(SPEC, np.array(prices, dtype=float)[:, None], headlines, ("calm",))


def always(choice: Decision):
    return lambda headlines, rng: choice


@pytest.fixture(scope="module")
def markets() -> list[MarketPath]:
    return [generate_market(MarketSpec(), 9000 + seed, hours=1) for seed in range(400)]


def test_an_orders_worth_is_the_move_of_its_hour_less_both_fees() -> None:
    prices = [100.0] * 25
    prices[13:] = [103.0] * 12
    [long] = play_rule(always(Order("AURUM", "long", 500.0)), [market_of(prices)], [0])
    [short] = play_rule(always(Order("AURUM", "short", 500.0)), [market_of(prices)], [0])
    assert long.pnl == pytest.approx(4 * (15.0 - 1.0)), "every decision's hour sees the move of 3 %"
    assert short.pnl == pytest.approx(4 * (-15.0 - 1.0))
    assert (long.orders, long.wins, long.well_timed, long.invalid, long.decisions) == (4, 4, 4, 0, 4)
    assert (short.orders, short.wins, short.well_timed) == (4, 0, 0)
    assert long.clipped_return == pytest.approx(56 / BANKROLL)


def test_a_move_smaller_than_the_fees_is_well_timed_but_no_win() -> None:
    prices = [100.0] * 13 + [100.1] * 12
    [episode] = play_rule(always(Order("AURUM", "long", 1000.0)), [market_of(prices)], [0])
    assert (episode.well_timed, episode.wins) == (4, 0) and episode.pnl == pytest.approx(4 * (1.0 - 2.0))


def test_holding_and_invalid_answers_cost_nothing() -> None:
    market = market_of([100.0] * 25)
    [held], [wrong] = (play_rule(always(choice), [market], [0]) for choice in (Hold(), Invalid("no")))
    assert held.pnl == wrong.pnl == 0.0 and (held.invalid, wrong.invalid) == (0, 4)


def test_a_crash_costs_exactly_the_bound() -> None:
    crash = [100.0 * 0.6**tick for tick in range(25)]
    [episode] = play_rule(always(Order("AURUM", "long", FULL)), [market_of(crash)], [0])
    assert episode.pnl / BANKROLL == pytest.approx(-RETURN_BOUND)
    [short] = play_rule(always(Order("AURUM", "short", FULL)), [market_of(crash)], [0])
    assert short.pnl / BANKROLL > RETURN_BOUND and short.clipped_return == RETURN_BOUND


PRICES = arrays.arrays(np.float64, 25, elements=st.floats(10, 1000))


@settings(deadline=None, max_examples=200)
@given(PRICES, st.lists(st.sampled_from(["long", "short"]), min_size=4, max_size=4), st.integers(1, MAX_SIZE))
def test_no_path_costs_more_than_the_bound(prices: np.ndarray, sides: list[str], units: int) -> None:
    choices = iter(sides)
    [episode] = play_rule(
        lambda headlines, rng: Order("AURUM", next(choices), units * UNIT_NOTIONAL),
        [market_of(prices.tolist())],
        [0],
    )
    assert episode.pnl / BANKROLL >= -RETURN_BOUND - 1e-9
    assert abs(episode.clipped_return) <= RETURN_BOUND
    assert 0 <= episode.wins <= episode.well_timed <= episode.orders == 4


@given(st.floats(allow_nan=False))
def test_returns_are_clipped(pnl: float) -> None:
    clipped = Episode(pnl, 4, 0, 0, 0, 0).clipped_return
    assert -RETURN_BOUND <= clipped <= RETURN_BOUND
    if abs(pnl) < RETURN_BOUND * BANKROLL:
        assert clipped == pnl / BANKROLL


def test_rules_are_functions_of_their_seed(markets: list[MarketPath]) -> None:
    seeds = list(range(len(markets)))
    one, again = (play_rule(random_rule, markets, seeds) for _ in range(2))
    other = play_rule(random_rule, markets, [seed + 1 for seed in seeds])
    assert one == again != other


def test_the_oracle_beats_random_and_random_earns_nothing(markets: list[MarketPath]) -> None:
    seeds = list(range(len(markets)))
    oracle, chance = (
        np.array([episode.clipped_return for episode in play_rule(rule, markets, seeds)])
        for rule in (headline_rule, random_rule)
    )
    assert paired_interval(oracle - chance, -2 * RETURN_BOUND, 2 * RETURN_BOUND).low > 0.02
    assert abs(chance.mean()) < 3 * chance.std() / len(markets) ** 0.5 + 0.01


def test_the_oracle_takes_the_strongest_headline() -> None:
    rng = random.Random(0)
    for word, side in (("surge", "long"), ("crash", "short")):
        news = [("AURUM", "bullish"), ("BOREAL", word), ("COBALT", "quiet")]
        assert headline_rule(news, rng) == Order("BOREAL", side, FULL)
    assert headline_rule([("AURUM", "quiet"), ("BOREAL", "quiet")], rng) == Hold()
    ties = {headline_rule([("AURUM", "surge"), ("BOREAL", "crash")], rng) for _ in range(50)}
    assert len(ties) == 2, "ties are broken by the seed"


@pytest.mark.anyio
async def test_a_policy_is_asked_once_per_decision_and_its_calls_are_kept(
    base_engine: EmbeddedEngine, markets: list[MarketPath]
) -> None:
    episodes = await play_policy(base_engine, markets[:20], list(range(20)))
    for episode, market in zip(episodes, markets, strict=False):
        assert len(episode.calls) == len(DECISION_TICKS) == episode.decisions
        decisions = [parse_decision(answer.content, market.spec.tickers) for _, answer in episode.calls]
        assert episode.orders == sum(isinstance(decision, Order) for decision in decisions)
        assert episode.invalid == sum(isinstance(decision, Invalid) for decision in decisions)
        for decision, (request, _) in enumerate(episode.calls):
            words = [HEADLINES[word] for word in market.headlines[0, decision]]
            news = [f"{ticker} {word}" for ticker, word in zip(market.spec.tickers, words, strict=True)]
            assert request.messages[-1]["content"].splitlines()[1:] == news
    assert len({request.seed for episode in episodes for request, _ in episode.calls}) == 80


@pytest.mark.anyio
async def test_equal_seeds_give_equal_answers(base_engine: EmbeddedEngine, markets: list[MarketPath]) -> None:
    def said(episodes: list[Episode]) -> list[str]:
        return [answer.content for episode in episodes for _, answer in episode.calls]

    one = await play_policy(base_engine, markets[:8], list(range(8)))
    backwards = await play_policy(base_engine, markets[:8][::-1], list(range(8))[::-1])
    other = await play_policy(base_engine, markets[:8], list(range(8, 16)))
    assert said(one) == said(backwards[::-1]) != said(other)
    assert [episode.pnl for episode in one] == [episode.pnl for episode in backwards[::-1]]
