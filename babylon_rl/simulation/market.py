"""The seeded market: regimes, headlines and prices of a few companies, as a pure function of a seed.

Concepts:
    MarketSpec: the rules of a world (companies, volatility, how much a headline says).
    Regime: a stretch of hours with its own volatility, drift and headline reliability, drawn per seed.
    MarketPath: the result, five-minute prices and quarter-hourly headlines; nothing an agent does changes it.

In Babylon a trade moves a perpetual's price only until the next tick recomputes it from the NPCs' holdings,
so the path is exogenous for the agents; every agent of a window faces the same market.
"""

from dataclasses import dataclass, field

import numpy as np

TICK_MINUTES = 5
TICKS_PER_HOUR = 60 // TICK_MINUTES
DECISION_MINUTES = (5, 20, 35, 50)
"""Minutes of the hour at which headlines appear and agents decide."""

DECISION_TICKS = tuple(minute // TICK_MINUTES for minute in DECISION_MINUTES)
HEADLINES = ("crash", "bearish", "quiet", "bullish", "surge")
"""Headline words from the most negative to the most positive; the index minus 2 is the strength."""

MIN_PRICE_SHARE = 0.1
"""Babylon never lets a price fall below a tenth of its initial price."""


@dataclass(frozen=True)
class Regime:
    """How a market behaves for some hours."""

    name: str
    volatility: float
    """Standard deviation of the hourly log return."""
    drift: float = 0.0
    """Expected hourly log return; its sign is drawn per company."""
    reliability: float = 0.8
    """Probability that a headline's effect has the headline's sign; otherwise it has the opposite one."""
    jump_rate: float = 0.0
    """Expected downward jumps per hour and company."""
    jump_size: float = 0.0
    """Size of a jump as a fraction of the price."""


REGIMES = (
    Regime("calm", volatility=0.020, reliability=0.90),
    Regime("trend", volatility=0.030, drift=0.004, reliability=0.85),
    Regime("choppy", volatility=0.045, reliability=0.80),
)
VAULT_REGIMES = (
    *REGIMES,
    Regime("panic", volatility=0.050, reliability=0.80, jump_rate=0.05, jump_size=0.12),
    Regime("squeeze", volatility=0.035, drift=0.012, reliability=0.70),
)
"""The regimes of the vault: the two extra ones were never used for a choice."""


@dataclass(frozen=True)
class MarketSpec:
    """The rules of a simulated world."""

    companies: tuple[str, ...] = ("aurum", "boreal", "cobalt", "dynamo")
    initial_price: float = 100.0
    headline_effect: float = 0.025
    """Log return that one unit of headline strength adds over the following hour."""
    regimes: tuple[Regime, ...] = REGIMES
    regime_hours: int = 6
    reversion: float = 0.015
    """Share of the log distance to the initial price that is lost per hour (a half-life of about two days); a
    world of many days would otherwise drift to the price floor, where nothing can be earned."""

    @property
    def tickers(self) -> tuple[str, ...]:
        """Engine tickers: the id in upper case without dashes, cut to 12 letters."""
        return tuple(company.upper().replace("-", "")[:12] for company in self.companies)


@dataclass(frozen=True)
class MarketPath:
    """One realisation of a market.

    Attributes:
        prices: shape ``(ticks + 1, companies)``; row ``t`` is the price at ``t * TICK_MINUTES`` minutes.
        headlines: shape ``(hours, len(DECISION_MINUTES), companies)``, indices into ``HEADLINES``.
        regimes: the regime's name of each hour.
    """

    spec: MarketSpec
    prices: np.ndarray = field(repr=False)
    headlines: np.ndarray = field(repr=False)
    regimes: tuple[str, ...] = field(repr=False)

    def price_path(self, ticker: int, tick: int, ticks: int = TICKS_PER_HOUR) -> np.ndarray:
        """Prices from ``tick`` for ``ticks`` more ticks, both ends included."""
        return self.prices[tick : tick + ticks + 1, ticker]


def generate_market(spec: MarketSpec, seed: int, hours: int) -> MarketPath:
    """Draw a market of ``hours`` hours and one more hour of prices, so that the last orders mature.

    A longer path of the same seed begins with the shorter one's hours: every hour has a random stream of its
    own. Only the extra hour differs, because no headlines appear in it.
    """
    companies = len(spec.companies)
    blocks = -(-(hours + 1) // spec.regime_hours)
    regimes = [_draw_regime(spec, seed, block, companies) for block in range(blocks)]
    returns = np.zeros(((hours + 3) * TICKS_PER_HOUR, companies))
    headlines = np.full((hours, len(DECISION_TICKS), companies), 2, dtype=np.int8)
    names = []
    for hour in range(hours + 1):
        regime, signs = regimes[hour // spec.regime_hours]
        rng = np.random.default_rng([seed, 1, hour])
        start = hour * TICKS_PER_HOUR
        hourly = returns[start : start + TICKS_PER_HOUR]
        hourly += regime.drift * signs / TICKS_PER_HOUR
        hourly += rng.normal(0.0, regime.volatility / TICKS_PER_HOUR**0.5, hourly.shape)
        hourly += np.log1p(-regime.jump_size) * rng.poisson(regime.jump_rate / TICKS_PER_HOUR, hourly.shape)
        words = rng.integers(0, len(HEADLINES), (len(DECISION_TICKS), companies))
        truthful = np.where(rng.random(words.shape) < regime.reliability, 1.0, -1.0)
        if hour == hours:
            break
        names.append(regime.name)
        headlines[hour] = words
        effects = (words - 2) * truthful * spec.headline_effect / TICKS_PER_HOUR
        for decision, tick in enumerate(DECISION_TICKS):
            returns[start + tick : start + tick + TICKS_PER_HOUR] += effects[decision]
    ticks = (hours + 1) * TICKS_PER_HOUR
    log_path = np.zeros((ticks + 1, companies))
    kept = 1.0 - spec.reversion / TICKS_PER_HOUR
    for tick in range(ticks):
        log_path[tick + 1] = kept * log_path[tick] + returns[tick]
    prices = np.maximum(spec.initial_price * np.exp(log_path), MIN_PRICE_SHARE * spec.initial_price)
    return MarketPath(spec, np.round(prices, 4), headlines, tuple(names))


def _draw_regime(spec: MarketSpec, seed: int, block: int, companies: int) -> tuple[Regime, np.ndarray]:
    rng = np.random.default_rng([seed, 0, block])
    regime = spec.regimes[int(rng.integers(len(spec.regimes)))]
    return regime, rng.choice([-1.0, 1.0], companies)
