"""The cash of the game's users: balances in whole cents, and a `BalanceTransaction` for every change."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

import asyncpg

from babylon_rl.simulation.ids import SimulatedIds
from babylon_rl.simulation.rows import Rows

_LOAD = """
SELECT "id", "virtualBalance", "lifetimePnL", "totalFeesPaid", "totalDeposited", "totalWithdrawn"
  FROM "User" WHERE "id" = ANY($1::text[])
"""
_STORE = """
UPDATE "User" SET "virtualBalance" = $2, "lifetimePnL" = $3, "totalFeesPaid" = $4, "totalDeposited" = $5,
                  "totalWithdrawn" = $6, "updatedAt" = $7
 WHERE "id" = $1
"""


@dataclass
class Account:
    """One user's money, in cents."""

    user_id: str
    balance: int
    lifetime_pnl: int
    """Realised over the user's whole life, before fees, as the game counts it."""
    fees: int
    deposited: int
    withdrawn: int


class Ledger:
    """The accounts of a simulated day.

    Args:
        accounts: The accounts as the day begins.
        rows: Receives the transactions.
        ids: Gives them their ids.
    """

    def __init__(self, accounts: Iterable[Account], rows: Rows, ids: SimulatedIds) -> None:
        self._accounts = {account.user_id: account for account in accounts}
        self._rows = rows
        self._ids = ids

    @classmethod
    async def load(
        cls, game: asyncpg.Connection, user_ids: list[str], rows: Rows, ids: SimulatedIds
    ) -> "Ledger":
        """Reads the accounts of users."""
        found = {row["id"]: row for row in await game.fetch(_LOAD, user_ids)}
        return cls(
            [
                Account(user_id, *(int(value * 100) for value in list(found[user_id].values())[1:]))
                for user_id in user_ids
            ],
            rows,
            ids,
        )

    async def store(self, game: asyncpg.Connection, at: datetime) -> None:
        """Writes the accounts back."""
        await game.executemany(
            _STORE,
            [
                (account.user_id, dollars(account.balance), dollars(account.lifetime_pnl))
                + (dollars(account.fees), dollars(account.deposited), dollars(account.withdrawn), at)
                for account in self._accounts.values()
            ],
        )

    def __getitem__(self, user_id: str) -> Account:
        return self._accounts[user_id]

    def post(
        self,
        user_id: str,
        kind: str,
        amount: int,
        at: datetime,
        description: str,
        related_id: str | None = None,
    ) -> None:
        """Changes a balance by `amount` cents (negative: a debit) and notes the transaction."""
        account = self._accounts[user_id]
        before = account.balance
        account.balance += amount
        self._rows.add(
            "BalanceTransaction",
            id=self._ids.at(at),
            userId=user_id,
            type=kind,
            amount=dollars(amount),
            balanceBefore=dollars(before),
            balanceAfter=dollars(account.balance),
            relatedId=related_id,
            description=description,
            createdAt=at,
        )

    def transfer(self, user_id: str, amount: int, at: datetime, description: str) -> None:
        """Pays `amount` cents in from outside the game, or out where it is negative; nothing for zero."""
        account = self._accounts[user_id]
        if amount > 0:
            account.deposited += amount
            self.post(user_id, "deposit", amount, at, description)
        elif amount < 0:
            account.withdrawn -= amount
            self.post(user_id, "withdrawal", amount, at, description)


def cents(amount: float) -> int:
    """USD to whole cents, halves upwards as JavaScript's `Math.round` does."""
    return math.floor(amount * 100 + 0.5)


def dollars(amount: int) -> Decimal:
    """Whole cents to the value for a `DECIMAL(18,2)` column."""
    return Decimal(amount).scaleb(-2)
