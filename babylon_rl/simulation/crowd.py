"""The background of a simulated day: questions, rumours, and bystanders who trade the prediction markets.

Two questions a day open with an answer that a coin decided, are traded by the background users through
`simulation.predictions`, and are resolved after three days, as the game's tick does it. Rumours lean towards
the answer more often than not. Agents do not take part; their prompts say nothing of it.
"""

from datetime import datetime, timedelta

import numpy as np

from babylon_rl.simulation.genesis import NEWSROOM, Person, World, display_name
from babylon_rl.simulation.ids import SimulatedIds
from babylon_rl.simulation.ledger import Ledger, cents
from babylon_rl.simulation.predictions import PLACES, Pool, buy, payout, sell
from babylon_rl.simulation.questions import DAYS_OPEN, Holding, Question
from babylon_rl.simulation.rows import Rows, decimal

OPENING_HOURS = (0, 12)
"""Hours of the day at which a question opens."""

RESERVE = 500.0
"""Shares of either side that a new market holds."""

RUMOUR_HOURS = (6, 18, 30, 42, 54, 66)
"""Hours after its opening at which there is a rumour about a question."""

RUMOUR_RELIABILITY = 0.75
"""Probability that a rumour points towards the answer."""

SALE_SHARE = 0.2
"""Probability that a trade sells half of a position, if there is one."""

_STREAM_QUESTION, _STREAM_RUMOUR, _STREAM_TRADE = 2, 3, 4
"""Random streams of a world; the market path has 0 and 1."""

_PLANS = (
    "announce a partnership",
    "replace its chief executive",
    "publish its audit",
    "open a second factory",
    "recall a product",
    "win the state contract",
)
_TONES = {True: "confident", False: "doubtful"}


class Crowd:
    """Advances the questions of a world hour by hour.

    Args:
        world: The world.
        questions: The unresolved questions as the day begins.
        ledger: Money of the background users.
        rows: Receives the game's rows that are written once.
        ids: Gives them their ids.
    """

    def __init__(
        self, world: World, questions: list[Question], ledger: Ledger, rows: Rows, ids: SimulatedIds
    ) -> None:
        self.questions = questions
        self._world, self._ledger, self._rows, self._ids = world, ledger, rows, ids

    @property
    def active(self) -> list[Question]:
        """Questions that can be traded."""
        return [question for question in self.questions if not question.resolved]

    def advance(self, hour: int) -> None:
        """Plays one hour, counted from the world's start: resolutions, openings, rumours, trades."""
        start = self._world.start + timedelta(hours=hour)
        for question in self.active:
            if question.closes <= start:
                self._resolve(question, start)
        if hour % 24 in OPENING_HOURS:
            number = hour // 24 * len(OPENING_HOURS) + OPENING_HOURS.index(hour % 24) + 1
            self._open(number, start)
        for question in self.active:
            age = (start - question.opened) // timedelta(hours=1)
            if age in RUMOUR_HOURS:
                self._spread(question, RUMOUR_HOURS.index(age), start + timedelta(minutes=1))
        drawn = [
            (int(rng.integers(2, 60)), question.number, question, rng)
            for question in self.active
            for rng in [self._random(_STREAM_TRADE, question.number, hour)]
        ]
        for minute, _, question, rng in sorted(drawn, key=lambda item: item[:2]):
            self._trade(question, rng, start + timedelta(minutes=minute))

    def _open(self, number: int, at: datetime) -> None:
        rng = self._random(_STREAM_QUESTION, number)
        company = self._world.spec.companies[int(rng.integers(len(self._world.spec.companies)))]
        plan = _PLANS[int(rng.integers(len(_PLANS)))]
        closes = at + timedelta(days=DAYS_OPEN)
        text = f"Will {display_name(company)} {plan} before {closes:%Y-%m-%d %H:%M}? (question {number})"
        question = Question(
            id=self._ids.at(at),
            number=number,
            text=text,
            outcome=bool(rng.random() < 0.5),
            opened=at,
            pool=Pool(RESERVE, RESERVE),
            liquidity=2 * RESERVE,
            changed=at,
        )
        self.questions.append(question)
        self._rows.add(
            "Post",
            id=self._ids.at(at),
            type="article",
            content=f"A market has opened on the question: {text}",
            articleTitle=f"Now trading: {text}",
            authorId=NEWSROOM,
            gameId=self._world.game_id,
            dayNumber=self._day_number(at),
            timestamp=at,
            createdAt=at,
        )

    def _spread(self, question: Question, index: int, at: datetime) -> None:
        towards = self._rumour(question, index)
        self._rows.add(
            "WorldEvent",
            id=self._ids.at(at),
            eventType="rumor",
            description=f"Sources sound {_TONES[towards]}: {question.text}",
            actors=[
                company for company in self._world.spec.companies if display_name(company) in question.text
            ],
            relatedQuestion=question.number,
            pointsToward="YES" if towards else "NO",
            timestamp=at,
            visibility="public",
            gameId=self._world.game_id,
            dayNumber=self._day_number(at),
            createdAt=at,
        )

    def _trade(self, question: Question, rng: np.random.Generator, at: datetime) -> None:
        """One background user trades towards what the rumours so far and an opinion of his own say."""
        trader = self._world.npcs[int(rng.integers(len(self._world.npcs)))]
        heard = [
            self._rumour(question, index)
            for index, hours in enumerate(RUMOUR_HOURS)
            if question.opened + timedelta(hours=hours) <= at
        ]
        lean = sum(1 if towards else -1 for towards in heard)
        belief = min(0.95, max(0.05, 0.5 + 0.1 * lean + rng.normal(0.0, 0.2)))
        side = belief > question.pool.yes_price
        amount = cents(rng.uniform(5.0, 40.0))
        if rng.random() < SALE_SHARE and (held := question.holdings.get((trader.id, not side))):
            self._sell(question, held, round(held.shares / 2, PLACES), at)
        elif self._ledger[trader.id].balance >= amount:
            self._buy(question, trader, side, amount, at)

    def _buy(self, question: Question, trader: Person, side: bool, amount: int, at: datetime) -> None:
        fill = buy(question.pool, side, amount / 100, self._world.pricing)
        held = question.holdings.get((trader.id, side))
        if held is None:
            held = question.holdings[trader.id, side] = Holding(self._ids.at(at), trader.id, side, at, at)
        held.add(fill.shares, fill.net, at)
        self._ledger.post(trader.id, "pred_buy", -amount, at, f"Bought {_side(side)}", question.id)
        self._ledger[trader.id].fees += cents(fill.fee)
        self._quote(question, fill.pool, question.liquidity + fill.net, at)
        self._note(trader.id, question, f"buy_{_side(side).lower()}", side, amount / 100, fill.price, at)

    def _sell(self, question: Question, held: Holding, shares: float, at: datetime) -> None:
        if shares <= 0:
            return
        fill = sell(question.pool, held.side, shares, self._world.pricing)
        held.remove(shares, at)
        account = self._ledger[held.user_id]
        account.lifetime_pnl += cents(fill.gross - shares * held.price)
        account.fees += cents(fill.fee)
        self._ledger.post(
            held.user_id, "pred_sell", cents(fill.net), at, f"Sold {_side(held.side)}", question.id
        )
        self._quote(question, fill.pool, question.liquidity - fill.gross, at)
        self._note(held.user_id, question, "sell", held.side, fill.gross, fill.gross / shares, at)

    def _resolve(self, question: Question, at: datetime) -> None:
        """Pays one dollar per winning share. As in the game, the last quote stays: it is not 0 or 1."""
        paid_out = 0.0
        for held in question.holdings.values():
            worth = payout(held.side, held.shares, question.outcome)
            held.won, held.pnl, held.changed = (
                held.side == question.outcome,
                worth - held.shares * held.price,
                at,
            )
            self._ledger[held.user_id].lifetime_pnl += cents(held.pnl)
            if worth:
                self._ledger.post(
                    held.user_id, "pred_resolve_win", cents(worth), at, "Winning shares", question.id
                )
            paid_out += worth
        question.resolved, question.changed = True, at
        question.liquidity = round(max(0.0, question.liquidity - paid_out), PLACES)
        self._history(question, "resolution", "system", at)

    def _quote(self, question: Question, pool: Pool, liquidity: float, at: datetime) -> None:
        question.pool, question.liquidity, question.changed = pool, round(liquidity, PLACES), at
        self._history(question, "trade", "npc_trade", at)

    def _history(self, question: Question, event: str, source: str, at: datetime) -> None:
        self._rows.add(
            "PredictionPriceHistory",
            id=self._ids.at(at),
            marketId=question.id,
            yesPrice=question.pool.yes_price,
            noPrice=question.pool.price(False),
            yesShares=decimal(question.pool.yes, 8),
            noShares=decimal(question.pool.no, 8),
            liquidity=decimal(question.liquidity, 8),
            eventType=event,
            source=source,
            createdAt=at,
        )

    def _note(
        self,
        user_id: str,
        question: Question,
        action: str,
        side: bool,
        amount: float,
        price: float,
        at: datetime,
    ) -> None:
        self._rows.add(
            "NPCTrade",
            id=self._ids.at(at),
            npcActorId=user_id,
            marketType="prediction",
            marketId=question.id,
            action=action,
            side=_side(side),
            amount=amount,
            price=price * 100,  # the game keeps prices of background trades in cents
            executedAt=at,
        )

    def _rumour(self, question: Question, index: int) -> bool:
        reliable = self._random(_STREAM_RUMOUR, question.number, index).random() < RUMOUR_RELIABILITY
        return question.outcome == bool(reliable)

    def _random(self, *stream: int) -> np.random.Generator:
        return np.random.default_rng([self._world.seed, *stream])

    def _day_number(self, at: datetime) -> int:
        return (at - self._world.start).days + 1


def _side(side: bool) -> str:
    return "YES" if side else "NO"
