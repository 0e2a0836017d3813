"""Questions with their markets and positions: state of the background, read from and written to the game.

Every number is kept with the decimals of its column, so that a world goes on identically whether its days are
simulated by one process or by several.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import asyncpg

from babylon_rl.simulation.genesis import World
from babylon_rl.simulation.predictions import PLACES, Pool
from babylon_rl.simulation.rows import Rows, decimal

DAYS_OPEN = 3
"""Days from a question's creation to its resolution."""

_QUESTIONS = """
SELECT q."id", q."questionNumber", q."text", q."outcome", q."createdDate", m."updatedAt",
       m."yesShares"::float8 AS yes, m."noShares"::float8 AS no, m."liquidity"::float8 AS liquidity
  FROM "Market" m JOIN "Question" q ON q."id" = m."id"
 WHERE m."gameId" = $1 AND NOT m."resolved" ORDER BY q."questionNumber"
"""
_HOLDINGS = """
SELECT "id", "marketId", "userId", "side", "shares"::float8 AS shares, "avgPrice"::float8 AS price,
       "createdAt", "updatedAt"
  FROM "Position" WHERE "marketId" = ANY($1::text[]) ORDER BY "createdAt", "id"
"""
_UPDATE_MARKET = """
UPDATE "Market" SET "yesShares" = $2, "noShares" = $3, "liquidity" = $4, "resolved" = $5, "resolution" = $6,
                    "updatedAt" = $7
 WHERE "id" = $1
"""
_RESOLVE_QUESTION = """
UPDATE "Question" SET "status" = 'resolved', "resolvedOutcome" = "outcome", "updatedAt" = $2 WHERE "id" = $1
"""
_UPDATE_POSITION = """
UPDATE "Position" SET "shares" = $2, "avgPrice" = $3, "amount" = $4, "outcome" = $5, "pnl" = $6,
                      "resolvedAt" = $7, "status" = $8, "updatedAt" = $9
 WHERE "id" = $1
"""


@dataclass
class Holding:
    """Shares of one side that a background user has."""

    id: str
    user_id: str
    side: bool
    """True for YES."""
    opened: datetime
    changed: datetime
    shares: float = 0.0
    price: float = 0.0
    """Average price per share in USD, after the fee."""
    pnl: float | None = None
    """USD, once the question is resolved; the fee of buying is not counted, as in the game."""
    won: bool | None = None
    stored: bool = False
    """Whether its row was in the database when the day began."""

    def add(self, shares: float, net: float, at: datetime) -> None:
        """Shares that were bought for `net` dollars."""
        total = round(self.shares + shares, PLACES)
        self.price = round((self.shares * self.price + net) / total, PLACES)
        self.shares, self.changed = total, at

    def remove(self, shares: float, at: datetime) -> None:
        """Shares that were sold."""
        self.shares, self.changed = round(self.shares - shares, PLACES), at


@dataclass
class Question:
    """A question and its market, which share their id."""

    id: str
    number: int
    text: str
    outcome: bool
    """The hidden answer, decided by a coin at the beginning."""
    opened: datetime
    changed: datetime
    pool: Pool
    liquidity: float
    holdings: dict[tuple[str, bool], Holding] = field(default_factory=dict)
    """By user and side."""
    resolved: bool = False
    stored: bool = False
    """Whether its rows were in the database when the day began."""

    @property
    def closes(self) -> datetime:
        """When it is resolved."""
        return self.opened + timedelta(days=DAYS_OPEN)


async def load_questions(game: asyncpg.Connection, world: World) -> list[Question]:
    """Returns the world's unresolved questions, oldest first."""
    questions = {
        row["id"]: Question(
            id=row["id"],
            number=row["questionNumber"],
            text=row["text"],
            outcome=row["outcome"],
            opened=row["createdDate"],
            changed=row["updatedAt"],
            pool=Pool(row["yes"], row["no"]),
            liquidity=row["liquidity"],
            stored=True,
        )
        for row in await game.fetch(_QUESTIONS, world.game_id)
    }
    for row in await game.fetch(_HOLDINGS, list(questions)):
        questions[row["marketId"]].holdings[row["userId"], row["side"]] = Holding(
            id=row["id"],
            user_id=row["userId"],
            side=row["side"],
            opened=row["createdAt"],
            changed=row["updatedAt"],
            shares=row["shares"],
            price=row["price"],
            stored=True,
        )
    return list(questions.values())


def add_new_rows(questions: Iterable[Question], world: World, rows: Rows) -> None:
    """Adds the rows of questions and positions that the day has brought."""
    for question in questions:
        if not question.stored:
            _add_question(question, world, rows)
        for held in question.holdings.values():
            if not held.stored:
                _add_position(question, held, rows)


async def update_old_rows(game: asyncpg.Connection, questions: Iterable[Question]) -> None:
    """Updates what was in the database before."""
    known = [question for question in questions if question.stored]
    await game.executemany(_UPDATE_MARKET, [(q.id, *_market(q)) for q in known])
    await game.executemany(_RESOLVE_QUESTION, [(q.id, q.changed) for q in known if q.resolved])
    await game.executemany(
        _UPDATE_POSITION,
        [(held.id, *_position(q, held)) for q in known for held in q.holdings.values() if held.stored],
    )


def _add_question(question: Question, world: World, rows: Rows) -> None:
    rows.add(
        "Question",
        id=question.id,
        questionNumber=question.number,
        text=question.text,
        scenarioId=1,
        outcome=question.outcome,
        rank=1,
        createdDate=question.opened,
        resolutionDate=question.closes,
        status="active",
        createdAt=question.opened,
        updatedAt=question.opened,
    )
    yes, no, liquidity, resolved, resolution, changed = _market(question)
    rows.add(
        "Market",
        id=question.id,
        question=question.text,
        gameId=world.game_id,
        dayNumber=(question.opened - world.start).days + 1,
        yesShares=yes,
        noShares=no,
        liquidity=liquidity,
        resolved=resolved,
        resolution=resolution,
        endDate=question.closes,
        createdAt=question.opened,
        updatedAt=changed,
    )


def _add_position(question: Question, held: Holding, rows: Rows) -> None:
    shares, price, amount, outcome, pnl, resolved_at, status, changed = _position(question, held)
    rows.add(
        "Position",
        id=held.id,
        userId=held.user_id,
        marketId=question.id,
        side=held.side,
        shares=shares,
        avgPrice=price,
        amount=amount,
        outcome=outcome,
        pnl=pnl,
        questionId=question.number,
        resolvedAt=resolved_at,
        status=status,
        createdAt=held.opened,
        updatedAt=changed,
    )


def _market(question: Question) -> tuple:
    return (
        decimal(question.pool.yes, PLACES),
        decimal(question.pool.no, PLACES),
        decimal(question.liquidity, PLACES),
        question.resolved,
        question.outcome if question.resolved else None,
        question.changed,
    )


def _position(question: Question, held: Holding) -> tuple:
    """Once resolved, a position has no shares; its amount is what they had cost."""
    return (
        decimal(0.0 if question.resolved else held.shares, PLACES),
        decimal(held.price, PLACES),
        decimal(held.shares * held.price, 2),
        held.won,
        None if held.pnl is None else decimal(held.pnl, 2),
        question.changed if question.resolved else None,
        "resolved" if question.resolved else "active",
        held.changed,
    )
