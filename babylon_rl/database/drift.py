"""Schema drift: how the game's tables differ from the Prisma schema that this version was built for.

The contract is `migrations/embedded/game_tables.sql`, whose columns have Prisma's exact types. Columns that
we do not know are the game's business, unless a row of ours could not be inserted because of them.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import asyncpg

from babylon_rl.database.game_tables import GAME_COLUMNS
from babylon_rl.database.migrations import FOLDER

WRITTEN = (
    "trajectories",
    "llm_call_logs",
    "market_outcomes",
    "training_batches",
    "trained_models",
    "reward_judgments",
)
"""Tables of the game into which this project inserts."""

_TABLE = re.compile(r'CREATE TABLE IF NOT EXISTS "(\w+)" \(\n(.*?)\n\);', re.DOTALL)
_COLUMN = re.compile(r'^\s+"(\w+)"\s+([A-Z]+(?: PRECISION)?(?:\([\d,]+\))?(?:\[\])?)(.*?),?$', re.MULTILINE)
_KINDS = {
    "text": "text",
    "varchar": "text",
    "boolean": "boolean",
    "integer": "number",
    "bigint": "number",
    "smallint": "number",
    "double": "number",
    "real": "number",
    "numeric": "number",
    "decimal": "number",
    "timestamp": "timestamp",
    "jsonb": "json",
    "json": "json",
}
_SPELLINGS = {
    "character varying": "varchar",
    "numeric": "decimal",
    " without time zone": "",
}
_FOUND = """
SELECT class.relname AS table, attribute.attname AS column, attribute.attnotnull AS required,
       attribute.atthasdef OR attribute.attidentity <> '' AS filled,
       format_type(attribute.atttypid, attribute.atttypmod) AS type
  FROM pg_class AS class JOIN pg_attribute AS attribute ON attribute.attrelid = class.oid
 WHERE pg_table_is_visible(class.oid) AND class.relkind IN ('r', 'p', 'v', 'f')
   AND class.relname = ANY ($1::text[]) AND attribute.attnum > 0 AND NOT attribute.attisdropped
"""


@dataclass(frozen=True)
class Column:
    """A column as Prisma makes it: `type` in PostgreSQL's short spelling, such as `timestamp(3)`."""

    type: str
    required: bool
    filled: bool
    """Whether it has a default."""


@dataclass(frozen=True)
class Drift:
    """One difference.

    Attributes:
        level: `bad` where something of ours fails because of it, `note` where nothing does.
        where: The table, or table and column.
        text: What differs, and what to do.
    """

    level: Literal["note", "bad"]
    where: str
    text: str


@lru_cache(maxsize=1)
def prisma_tables() -> dict[str, dict[str, Column]]:
    """The columns of the game's tables as this version of the code expects them, by table."""
    found = {}
    for path in sorted(FOLDER.glob("embedded/*.sql")):
        for table, body in _TABLE.findall(path.read_text()):
            if table == "rl.installation":
                continue
            found[table] = {
                name: Column(_short(kind), "NOT NULL" in rest, "DEFAULT" in rest)
                for name, kind, rest in _COLUMN.findall(body)
            }
    return found


async def schema_drift(game: asyncpg.Connection) -> list[Drift]:
    """Compares the game's tables with the contract; the worst first, then by table and column."""
    expected = prisma_tables()
    found: dict[str, dict[str, Column]] = {}
    for row in await game.fetch(_FOUND, list(expected)):
        column = Column(_short(row["type"]), row["required"], row["filled"])
        found.setdefault(row["table"], {})[row["column"]] = column
    drifts = [drift for table in expected for drift in _compare(table, expected[table], found.get(table))]
    return sorted(drifts, key=lambda drift: (drift.level != "bad", drift.where))


def _compare(table: str, expected: dict[str, Column], found: dict[str, Column] | None) -> Iterator[Drift]:
    needed = GAME_COLUMNS.get(table, ())
    if found is None:
        level = "bad" if needed else "note"
        yield Drift(level, f'"{table}"', "is missing; run the game's Prisma migrations")
        return
    for name, column in expected.items():
        where, here = f'"{table}"."{name}"', found.get(name)
        level = "bad" if name in needed else "note"
        if here is None:
            yield Drift(level, where, "is missing; run the game's Prisma migrations")
        elif here.type != column.type:
            changed = _kind(here.type) != _kind(column.type)
            yield Drift(
                level if changed else "note",
                where,
                f"is {here.type}, not {column.type}; "
                + ("an older or newer babylon_rl may fit the game" if changed else "nothing depends on it"),
            )
        elif here.required and not here.filled and not column.required and table in WRITTEN:
            yield Drift("note", where, "must not be null any more; rows without it will be refused")
    if table in WRITTEN:
        for name in sorted(found.keys() - expected.keys()):
            if found[name].required and not found[name].filled:
                yield Drift(
                    "bad",
                    f'"{table}"."{name}"',
                    "is new, must not be null and has no default: our rows are refused; "
                    "give it a default, or update babylon_rl",
                )


def _short(kind: str) -> str:
    text = kind.lower()
    for long, short in _SPELLINGS.items():
        text = text.replace(long, short)
    return text.replace(" ", "") if "precision" not in text else "double precision"


def _kind(short: str) -> str:
    if "withtimezone" in short:
        return "moment"
    name = re.match(r"[a-z]+", short)
    kind = _KINDS.get(name.group() if name else "", short)
    return f"{kind}[]" if short.endswith("[]") else kind
