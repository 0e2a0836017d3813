"""Windows for a judge, as large as recorded ones: about 3 KB of JSON per step, most of it prompts."""

import random
from collections.abc import Iterator
from functools import cache

from babylon_rl.outcomes.window_outcomes import News, PredictionOutcome, StockOutcome, WindowOutcomes
from babylon_rl.records.steps import (
    Action,
    EnvironmentState,
    LlmCall,
    ProviderAccess,
    Step,
    encode_steps,
)
from babylon_rl.scoring.episodes import Episode
from babylon_rl.scoring.window_scorer import WindowToScore
from babylon_rl.windows import window_range, windows_of_day

TICKERS = ("AURUM", "FERRO", "LUMEN", "NIMBUS", "ORBIT", "PIXEL", "QUANTA", "TERRA")
THOUGHTS = (
    "the news are good and nobody has reacted yet, so I go {side} with a size that I can afford to lose",
    "volume rises while the price stands still; somebody knows more than I do and I follow with {side}",
    "I was wrong about the last hour, so I cut the risk and only take a small {side} position here",
    "earnings are due, the crowd is too confident, a {side} of moderate leverage has the better odds",
)
PERSONA = "You are a trading agent in Babylon, a game of prediction markets and perpetual futures. "


def windows(seed: int, day: str, *, agents: int, steps: int) -> Iterator[WindowToScore]:
    """Yields the windows of a day, made as they are asked for."""
    for window_id in windows_of_day(day):
        yield make_window(seed, window_id, agents=agents, steps=steps)


def make_window(seed: int, window_id: str, *, agents: int, steps: int) -> WindowToScore:
    """Returns one window; the same for the same seed and id."""
    rng = random.Random(f"{seed}:{window_id}")
    episodes = [_episode(rng, f"agent-{i:02}", window_id, steps) for i in range(agents)]
    return WindowToScore(window_id, episodes, _outcomes(rng, window_id))


def whole_steps(window: WindowToScore) -> str:
    """Returns what sending the whole steps would send."""
    return "\n".join(encode_steps(episode.steps) for episode in window.episodes)


def _episode(rng: random.Random, agent: str, window_id: str, steps: int) -> Episode:
    pnl = round(rng.gauss(0, 60), 2)
    made = [_step(rng, number, window_id, steps) for number in range(steps)]
    orders = sum(step.action.action_type != "HOLD" for step in made)
    return Episode(
        window_id=window_id,
        agent_id=agent,
        trajectory_ids=[f"{window_id}-{agent}"],
        steps=made,
        calls=[call for step in made for call in step.llm_calls],
        policy_versions=["v0.1.0"],
        actions=steps,
        invalid_actions=0,
        horizon="1h",
        attributed_pnl=pnl,
        pnl_source="orders",
        start_equity=1000.0,
        trades=orders,
        wins=orders // 2,
        losses=orders - orders // 2,
        pending_orders=0,
        unpriced_orders=0,
    )


def _step(rng: random.Random, number: int, window_id: str, steps: int) -> Step:
    ticker, side = rng.choice(TICKERS), rng.choice(("long", "short"))
    price, balance = round(rng.uniform(20, 400), 2), round(rng.uniform(600, 1400), 2)
    minute = 60 * number / steps + rng.random()
    at = window_range(window_id)[0].timestamp() * 1000 + minute * 60_000
    said = f"{ticker}: {rng.choice(THOUGHTS).format(side=side)} ({rng.randint(1, 99)} % sure)."
    hold = rng.random() < 0.3
    action = Action(
        action_type="HOLD" if hold else "OPEN_PERP_POSITION",
        parameters={}
        if hold
        else {
            "ticker": ticker,
            "side": side,
            "size": rng.randrange(100, 900, 50),
            "leverage": rng.randint(1, 10),
        },
        success=True,
        result={"held": True} if hold else {"positionId": f"pos-{rng.randrange(10**9)}", "entryPrice": price},
        reasoning=said,
    )
    market = {
        t: {"price": round(rng.uniform(20, 400), 2), "change": round(rng.gauss(0, 2), 3)} for t in TICKERS
    }
    system, user = PERSONA * 8, _briefing() + str(market)
    call = LlmCall(
        model="babylon-agent-v0.1.0",
        system_prompt=system,
        user_prompt=user,
        response=said,
        temperature=0.7,
        max_tokens=300,
        purpose="action",
    )
    state = EnvironmentState(
        agent_balance=balance,
        agent_pnl=round(balance - 1000, 2),
        open_positions=number % 4,
        equity=balance + 50,
    )
    seen = ProviderAccess(
        provider_name="market_data", data=dict(market), purpose="get_market_data", timestamp=at
    )
    return Step(
        step_number=number,
        timestamp=at,
        environment_state=state,
        provider_accesses=[seen],
        llm_calls=[call],
        action=action,
        reward=0.1,
    )


@cache
def _briefing() -> str:
    rng = random.Random(5)
    return " ".join(
        f"{rng.choice(TICKERS)} was mentioned {rng.randint(2, 90)} times in the last hour." for _ in range(12)
    )


def _outcomes(rng: random.Random, window_id: str) -> WindowOutcomes:
    start = window_range(window_id)[0]
    stocks = []
    for ticker in TICKERS:
        first, change = round(rng.uniform(20, 400), 2), rng.gauss(0, 2)
        stocks.append(
            StockOutcome(
                ticker=ticker,
                organization_id=ticker.lower(),
                name=ticker.title(),
                start_price=first,
                end_price=round(first * (1 + change / 100), 2),
                change_percent=round(change, 4),
                sentiment="NEUTRAL",
                moves=12,
                volume=5000.0,
                news=[],
                flags=[],
            )
        )
    markets = [
        PredictionOutcome(
            market_id=f"market-{rng.randrange(10**9)}",
            question=f"Will {ticker} be above {rng.randint(20, 400)} tomorrow?",
            outcome=rng.choice(("YES", "NO", "UNRESOLVED")),
            final_probability=round(rng.random(), 3),
            resolved_at=None,
            flags=[],
        )
        for ticker in TICKERS[:5]
    ]
    news = [
        News(
            kind="event",
            published_at=start,
            text=f"{ticker} announces a partnership nobody expected, says {rng.choice(TICKERS)}'s chief.",
            organizations=[],
        )
        for ticker in TICKERS[:6]
    ]
    return WindowOutcomes(window_id=window_id, stocks=stocks, predictions=markets, news=news)
