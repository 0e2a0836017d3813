"""Rows of one simulated day, collected in memory and written with COPY."""

from decimal import Decimal
from typing import Any

import asyncpg

PARENTS = ("User", "Organization", "Question", "Market")
"""Tables that the foreign keys of other ones point to."""


class Rows:
    """New rows by table; every row of a table names the same columns, in the same order."""

    def __init__(self) -> None:
        self._columns: dict[str, tuple[str, ...]] = {}
        self._records: dict[str, list[tuple[Any, ...]]] = {}

    def add(self, table: str, **values: Any) -> None:
        """Adds one row; keywords are the table's column names."""
        columns = self._columns.setdefault(table, tuple(values))
        if columns != tuple(values):
            raise ValueError(f"rows of {table} differ in their columns: {columns} and {tuple(values)}")
        self._records.setdefault(table, []).append(tuple(values.values()))

    def count(self, table: str) -> int:
        """How many rows a table gets."""
        return len(self._records.get(table, ()))

    async def write(self, game: asyncpg.Connection) -> None:
        """Copies all rows, table by table, the tables that others refer to first."""
        others = sorted(set(self._records).difference(PARENTS))
        for table in (*(parent for parent in PARENTS if parent in self._records), *others):
            records = self._records[table]
            await game.copy_records_to_table(table, records=records, columns=list(self._columns[table]))


def decimal(number: float, places: int) -> Decimal:
    """The value for a `DECIMAL` column with so many places."""
    return Decimal(f"{number:.{places}f}")
