"""Babylon's own benchmark file, version 1.0.0: read and written, so that its files serve here and ours there.

Reading takes prices from the states of the ticks and lets the recorded trades move the reserves, which
Babylon's generator left where they were. What it gets wrong is repaired and said in `Snapshot.notes`: two
perpetuals of one ticker, markets that resolve after the last tick. Writing fills every field of the format;
states, timestamps and resolutions are those of the market.
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from babylon_rl.benchmark.snapshot import (
    Headline,
    Perpetual,
    Post,
    Prediction,
    Snapshot,
    SnapshotError,
    Trade,
    check,
    named,
)
from babylon_rl.outcomes.cpmm import Pool, bought
from babylon_rl.simulation.market import HEADLINES, TICKS_PER_HOUR

VERSION = "1.0.0"
_HEADLINE = re.compile(rf"^([A-Z0-9]+): ({'|'.join(HEADLINES)})$")
NEWS = "newsroom"
"""Author of the posts that carry our headlines."""
DECIDE_EVERY = 3
"""Ticks between decisions in a file that does not say when agents decide."""


def is_babylon(plain: Any) -> bool:
    """Whether decoded JSON claims to be the game's format."""
    return isinstance(plain, dict) and "groundTruth" in plain and "initialState" in plain


def file_name(snapshot: Snapshot) -> str:
    """The name that the game's harness gives such a file."""
    minutes = snapshot.ticks * snapshot.tick_seconds // 60
    sizes = f"{len(snapshot.predictions)}-{len(snapshot.perpetuals)}-{snapshot.agents}-{snapshot.seed}"
    return f"benchmark-week-{minutes}-{snapshot.tick_seconds}-{sizes}.json"


def from_babylon(plain: Mapping[str, Any]) -> Snapshot:
    """Reads a decoded file.

    Raises:
        SnapshotError: A required part is missing.
    """
    if plain.get("version") != VERSION:
        raise SnapshotError(f"a Babylon snapshot of version {plain.get('version')!r}", f"Known is {VERSION}.")
    try:
        return _read(plain)
    except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError) as problem:
        raise SnapshotError(
            f"the Babylon snapshot {plain.get('id')!r} is not whole: {type(problem).__name__} {problem}"
        ) from None


def _read(plain: Mapping[str, Any]) -> Snapshot:
    initial, ticks, truth = plain["initialState"], plain["ticks"], plain["groundTruth"]
    notes: list[str] = []
    seconds, count = int(plain["tickInterval"]), len(ticks)
    start = _milliseconds(initial["timestamp"])
    prices: dict[str, list[float]] = {}
    for market in initial["perpetualMarkets"]:
        if market["ticker"] in prices:
            notes.append(f"a second perpetual {market['ticker']} is left out")
        else:
            prices[market["ticker"]] = [float(market["price"])]
    trades: dict[str, list[Trade]] = {}
    posts, headlines = [], []
    for number, tick in enumerate(ticks):
        if int(tick["number"]) != number:
            raise ValueError(f"tick {number} is numbered {tick['number']}")
        now = {
            market["ticker"]: float(market["price"]) for market in reversed(tick["state"]["perpetualMarkets"])
        }
        for ticker, path in prices.items():
            path.append(now.get(ticker, path[-1]))
        for event in tick["events"]:
            data = event["data"]
            if event["type"] == "market:trade":
                yes = str(data["outcome"]).upper() == "YES"
                trades.setdefault(data["marketId"], []).append(Trade(number, yes, float(data["amount"])))
            elif event["type"] == "post:created":
                content = str(data["content"])
                if data.get("authorId") == NEWS and (found := _HEADLINE.match(content)):
                    headlines.append(Headline(number, found[1], found[2]))
                else:
                    posts.append(Post(number, str(data.get("authorName") or data["authorId"]), content))
    predictions = []
    for market in initial["predictionMarkets"]:
        resolves = round((float(market["resolveAt"]) - start) / 1000 / seconds)
        if not 0 < resolves <= count:
            notes.append(f"market {market['id']} resolves at the last tick instead of tick {resolves}")
            resolves = count
        known = [
            trade for trade in trades.get(market["id"], ()) if trade.tick < resolves and trade.amount > 0
        ]
        predictions.append(
            Prediction(
                id=market["id"],
                question=market["question"],
                yes_shares=float(market["yesShares"]),
                no_shares=float(market["noShares"]),
                resolves=resolves,
                outcome=bool(truth["marketOutcomes"][market["id"]]),
                trades=known,
            )
        )
    decisions = sorted({headline.tick for headline in headlines}) or list(range(0, count, DECIDE_EVERY))
    snapshot = Snapshot(
        seed=int(plain.get("seed", 0)),
        created_at=datetime.fromtimestamp(start / 1000, UTC),
        tick_seconds=seconds,
        ticks=count,
        decisions=decisions,
        perpetuals=[Perpetual(ticker, path) for ticker, path in prices.items()],
        predictions=predictions,
        headlines=headlines,
        posts=posts,
        agents=max(1, len(initial.get("agents", ()))),
        notes=notes,
    )
    return check(named(snapshot))


def to_babylon(snapshot: Snapshot) -> dict[str, Any]:
    """The file's content, ready for JSON."""
    pools = {market.id: Pool(market.yes_shares, market.no_shares) for market in snapshot.predictions}
    volumes = dict.fromkeys(pools, 0.0)
    ticks = []
    initial = _state(snapshot, 0, 0, pools, volumes)
    for tick in range(snapshot.ticks):
        at, events = _at(snapshot, tick), []
        for perpetual in snapshot.perpetuals:
            old, new = perpetual.prices[tick : tick + 2]
            data = {"ticker": perpetual.ticker, "oldPrice": old, "newPrice": new}
            events.append({"type": "price:updated", "timestamp": at, "data": data})
        for market in snapshot.predictions:
            for trade in market.trades:
                if trade.tick == tick and tick < market.resolves:
                    pools[market.id] = bought(pools[market.id], trade.yes, trade.amount)[0]
                    volumes[market.id] += trade.amount
                    data = {"marketId": market.id, "agentId": "background", "amount": trade.amount}
                    data["outcome"] = "YES" if trade.yes else "NO"
                    events.append({"type": "market:trade", "timestamp": at, "data": data})
        news = [(NEWS, f"{h.ticker}: {h.word}") for h in snapshot.headlines if h.tick == tick]
        for author, content in news + [(p.author, p.content) for p in snapshot.posts if p.tick == tick]:
            data = {"authorId": author, "authorName": author, "content": content}
            events.append({"type": "post:created", "timestamp": at, "data": data})
        state = _state(snapshot, tick + 1, tick, pools, volumes)
        ticks.append({"number": tick, "timestamp": at, "events": events, "state": state})
    return {
        "id": str(_at(snapshot, 0)),
        "version": VERSION,
        "createdAt": _at(snapshot, 0),
        "seed": snapshot.seed,
        "duration": snapshot.ticks * snapshot.tick_seconds,
        "tickInterval": snapshot.tick_seconds,
        "initialState": initial,
        "ticks": ticks,
        "groundTruth": _truth(snapshot),
    }


def _state(
    snapshot: Snapshot, at: int, number: int, pools: Mapping[str, Pool], volumes: Mapping[str, float]
) -> dict[str, Any]:
    """The state after the tick `number`, at the time of tick `at`."""
    predictions = [
        {
            "id": market.id,
            "question": market.question,
            "yesShares": (pool := pools[market.id]).yes,
            "noShares": pool.no,
            "yesPrice": pool.yes_price,
            "noPrice": 1 - pool.yes_price,
            "totalVolume": volumes[market.id],
            "liquidity": pool.yes + pool.no,
            "resolved": at >= market.resolves,
            "createdAt": _at(snapshot, 0),
            "resolveAt": _at(snapshot, market.resolves),
        }
        for market in snapshot.predictions
    ]
    day = 24 * TICKS_PER_HOUR
    perpetuals = [
        {
            "ticker": perpetual.ticker,
            "price": (price := perpetual.prices[at]),
            "priceChange24h": (price / perpetual.prices[max(0, at - day)] - 1) * 100,
            "volume24h": 0.0,
            "openInterest": 0.0,
            "fundingRate": 0.0,
            "nextFundingTime": _at(snapshot, at) + 8 * 3_600_000,
        }
        for perpetual in snapshot.perpetuals
    ]
    agents = [
        {"id": f"agent-{i}", "name": f"Agent {i}", "reputation": 0, "totalPnl": 0.0}
        for i in range(snapshot.agents)
    ]
    return {
        "tick": number,
        "timestamp": _at(snapshot, at),
        "predictionMarkets": predictions,
        "perpetualMarkets": perpetuals,
        "agents": agents,
        "posts": [],
        "groupChats": [],
    }


def _truth(snapshot: Snapshot) -> dict[str, Any]:
    history = {
        perpetual.ticker: [
            {"tick": tick, "timestamp": _at(snapshot, tick + 1), "price": price}
            for tick, price in enumerate(perpetual.prices[1:])
        ]
        for perpetual in snapshot.perpetuals
    }
    optimal = [
        {
            "tick": 0,
            "type": "buy_prediction",
            "target": market.id,
            "expectedValue": 100,
            "reason": f"resolves {'YES' if market.outcome else 'NO'}",
        }
        for market in snapshot.predictions
    ]
    return {
        "marketOutcomes": {market.id: market.outcome for market in snapshot.predictions},
        "priceHistory": history,
        "optimalActions": optimal,
        "socialOpportunities": [],
    }


def _at(snapshot: Snapshot, tick: int) -> int:
    return int(snapshot.moment(tick).timestamp() * 1000)


def _milliseconds(value: Any) -> float:
    if isinstance(value, str):
        return datetime.fromisoformat(value.replace("Z", "+00:00")).timestamp() * 1000
    return float(value)
