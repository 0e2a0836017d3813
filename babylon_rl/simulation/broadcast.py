"""What everybody can see of the market: recorded prices, and the headlines that the agents read."""

from datetime import timedelta

from babylon_rl.simulation.genesis import World, display_name
from babylon_rl.simulation.ids import SimulatedIds
from babylon_rl.simulation.market import DECISION_TICKS, HEADLINES, TICKS_PER_HOUR, MarketPath
from babylon_rl.simulation.rows import Rows

TICKS_PER_DAY = 24 * TICKS_PER_HOUR
ECHO = timedelta(milliseconds=1)
"""After every price update the game writes a second row whose change is zero."""


def price_ticks(day_number: int) -> range:
    """Ticks whose prices a day writes, day 0 being the first.

    They end one hour after the day, so that the value of its last orders after one hour is in the database
    with them; the next day goes on from there.
    """
    first = 0 if day_number == 0 else day_number * TICKS_PER_DAY + TICKS_PER_HOUR + 1
    return range(first, (day_number + 1) * TICKS_PER_DAY + TICKS_PER_HOUR + 1)


def add_prices(world: World, path: MarketPath, ticks: range, rows: Rows, ids: SimulatedIds) -> None:
    """Adds two `StockPrice` rows per company and tick, as the game does: the price, and its echo."""
    for tick in ticks:
        at = world.moment(tick)
        for index, company in enumerate(world.spec.companies):
            price = float(path.prices[tick, index])
            before = float(path.prices[max(tick - 1, 0), index])
            for change, moment in ((price - before, at), (0.0, at + ECHO)):
                rows.add(
                    "StockPrice",
                    id=ids.at(moment),
                    organizationId=company,
                    price=price,
                    change=change,
                    changePercent=change / before * 100,
                    timestamp=moment,
                )


def headlines(world: World, path: MarketPath, hour: int, decision: int) -> list[tuple[str, str]]:
    """Ticker and headline word of every company at a decision; `hour` counts from the world's start."""
    words = path.headlines[hour, decision]
    return [(ticker, HEADLINES[word]) for ticker, word in zip(world.spec.tickers, words, strict=True)]


def add_headlines(world: World, path: MarketPath, hour: int, rows: Rows, ids: SimulatedIds) -> None:
    """Adds the headlines of an hour as public events, in the words that the agents saw.

    Whether a headline was right is in the prices alone.
    """
    for decision, tick in enumerate(DECISION_TICKS):
        at = world.moment(hour * TICKS_PER_HOUR + tick)
        for company, (_, word) in zip(
            world.spec.companies, headlines(world, path, hour, decision), strict=True
        ):
            rows.add(
                "WorldEvent",
                id=ids.at(at),
                eventType="news",
                description=f"{display_name(company)}: {word}",
                actors=[company],
                relatedQuestion=None,
                pointsToward=None,
                timestamp=at,
                visibility="public",
                gameId=world.game_id,
                dayNumber=hour // 24 + 1,
                createdAt=at,
            )
