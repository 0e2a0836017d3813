"""The books: what each request to a judge cost, and the budget that stops the next one.

A request is booked with the most it can cost before it is made, under a lock, so the budget also holds
against other processes and against a crash: what was booked and never settled stays spent.
"""

import asyncio

import asyncpg
import msgspec

from babylon_rl.scoring.judge.errors import BudgetReachedError

_LOCK = 5_113_087_236_904_771  # any number that no other program locks
_SPENT = """
SELECT coalesce(sum(cost_usd), 0)::float8 FROM rl.judge_calls
 WHERE called_at >= date_trunc('day', now() AT TIME ZONE 'UTC') AT TIME ZONE 'UTC'
"""
_BOOK = """
INSERT INTO rl.judge_calls (window_id, judge_model, purpose, cache_key, attempt, cost_usd)
VALUES ($1, $2, $3, $4, $5, $6) RETURNING id
"""
_SETTLE = """
UPDATE rl.judge_calls
   SET status = $2, input_tokens = $3, output_tokens = $4, cost_usd = $5, seconds = $6, problem = $7
 WHERE id = $1
"""


class Usage(msgspec.Struct):
    """Tokens and money, added up."""

    calls: int = 0
    cached: int = 0
    """Verdicts that were there already."""
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float = 0.0

    def add(self, other: "Usage") -> None:
        self.calls += other.calls
        self.cached += other.cached
        self.input_tokens += other.input_tokens
        self.output_tokens += other.output_tokens
        self.cost_usd += other.cost_usd


class Booking(msgspec.Struct, frozen=True):
    """What a request is for."""

    window_id: str
    judge_model: str
    purpose: str
    """`score`, `doubt` (a group judged again) or `compare`."""
    cache_key: str
    attempt: int


class Ledger:
    """Books requests on one connection, which many tasks use in turn.

    Args:
        connection: To the database with schema `rl`; nobody else may use it at the same time.
        daily_budget: Dollars per UTC day.
    """

    def __init__(self, connection: asyncpg.Connection, daily_budget: float) -> None:
        self._connection, self._budget = connection, daily_budget
        self.turn = asyncio.Lock()
        """Held while the connection is used."""

    @property
    def connection(self) -> asyncpg.Connection:
        """Only to be used while `turn` is held."""
        return self._connection

    async def book(self, booking: Booking, most_usd: float) -> int:
        """Reserves the most that a request can cost and returns the booking's number.

        Raises:
            BudgetReachedError: It could exceed the day's budget; nothing was booked.
        """
        async with self.turn, self._connection.transaction():
            if most_usd > 0:
                await self._connection.execute("SELECT pg_advisory_xact_lock($1)", _LOCK)
                spent = await spent_today(self._connection)
                if spent + most_usd > self._budget:
                    raise BudgetReachedError(
                        f"${spent:.4f} of the day's ${self._budget:g} for judges are spent or reserved, and "
                        f"the next request may cost ${most_usd:.4f}",
                        "Wait for the next UTC day, or raise JUDGE_DAILY_BUDGET_USD.",
                    )
            number = await self._connection.fetchval(
                _BOOK,
                booking.window_id,
                booking.judge_model,
                booking.purpose,
                booking.cache_key,
                booking.attempt,
                most_usd,
            )
            return int(number or 0)

    async def settle(
        self,
        number: int,
        status: str,
        usage: Usage,
        seconds: float,
        problem: str | None = None,
    ) -> None:
        """Replaces what was reserved by what it was."""
        async with self.turn:
            await self._connection.execute(
                _SETTLE,
                number,
                status,
                usage.input_tokens,
                usage.output_tokens,
                usage.cost_usd,
                seconds,
                problem[:500] if problem else None,
            )


async def spent_today(rl: asyncpg.Connection) -> float:
    """Returns the dollars of this UTC day, reserved ones included."""
    return float(await rl.fetchval(_SPENT) or 0.0)
