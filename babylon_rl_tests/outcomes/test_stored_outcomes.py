"""Storing outcomes on a real database: the same at every repetition, and within the game's columns."""

import asyncio
from decimal import Decimal

import pytest

from babylon_rl.database.connection import connect
from babylon_rl.outcomes.market import derive_outcomes, load_outcomes, store_outcomes
from babylon_rl_tests.game_rows import (
    WINDOW,
    add_company,
    add_market,
    add_price,
    at,
    insert,
)

pytestmark = pytest.mark.anyio
END = at(60)


async def projected(connection):
    return [dict(row) for row in await connection.fetch('SELECT * FROM "market_outcomes" ORDER BY "id"')]


async def store(connection, project=True):
    outcomes = await derive_outcomes(connection, WINDOW)
    await store_outcomes(connection, connection, outcomes, project)
    return outcomes


async def test_storing_twice_changes_nothing(connection):
    await add_company(connection)
    await add_price(connection, 101, at(30))
    await add_market(connection, resolved=True, resolution=True, updatedAt=at(30))
    outcomes = await store(connection)
    first = await projected(connection)
    await store(connection)
    assert await projected(connection) == first
    assert await connection.fetchval("SELECT count(*) FROM rl.market_resolutions") == 1
    stored = await load_outcomes(connection, WINDOW)
    assert stored == outcomes and stored is not None and stored.sha256 == outcomes.sha256
    by_kind = {row["stockTicker"] or row["predictionMarketId"]: row for row in first}
    assert by_kind["AURUM"]["changePercent"] == Decimal("1.00") and by_kind["AURUM"]["newsEvents"] == []
    assert by_kind["market-1"]["outcome"] == "YES"
    assert await load_outcomes(connection, "2026-10-01T13:00") is None


async def test_late_rows_replace_what_was_shown_and_others_rows_stay(connection):
    await add_company(connection)
    await add_company(connection, "boreal")
    await insert(connection, "market_outcomes", id="theirs", windowId=WINDOW, stockTicker="AURUM")
    before = (await store(connection)).sha256
    await add_price(connection, 110, at(30))
    await connection.execute('DELETE FROM "Organization" WHERE "id" = \'boreal\'')
    assert (await store(connection)).sha256 != before
    rows = await projected(connection)
    assert [(row["id"], row["endPrice"]) for row in rows] == [
        (f"babylon-rl-{WINDOW}-stock-aurum", Decimal("110.00")),
        ("theirs", None),
    ]


async def test_without_projection_the_game_sees_nothing(connection):
    await add_company(connection)
    await store(connection, project=False)
    assert await projected(connection) == []


@pytest.mark.parametrize(
    ("start", "end", "flags", "columns"),
    [
        (1.0, 50.0, ["clipped:changePercent"], (Decimal("1.00"), Decimal("50.00"), Decimal("999.99"))),
        (0.004, 0.004, ["clipped:startPrice", "clipped:endPrice"], (Decimal("0.00"), Decimal("0.00"), 0)),
        (1e9, 1e9, ["clipped:startPrice", "clipped:endPrice"], (Decimal("99999999.99"),) * 2 + (0,)),
        (1e-300, 1e300, ["clipped:startPrice", "clipped:endPrice", "clipped:changePercent"], None),
    ],
)
async def test_numbers_beyond_the_columns_are_clipped_with_a_flag(connection, start, end, flags, columns):
    await add_company(connection, "effective-authoritarianism")
    await add_price(connection, start, at(-1), "effective-authoritarianism")
    await add_price(connection, end, at(30), "effective-authoritarianism")
    outcomes = await store(connection)
    assert outcomes.stocks[0].flags == flags
    assert await load_outcomes(connection, WINDOW) == outcomes
    (row,) = await projected(connection)
    assert row["stockTicker"] == "EFFECTIVEAUT"
    if columns:
        assert (row["startPrice"], row["endPrice"], row["changePercent"]) == columns


async def test_two_writers_at_once_leave_one_set_of_rows(connection, dsn):
    for number in range(20):
        await add_company(connection, f"company-{number}")
    outcomes = await derive_outcomes(connection, WINDOW)
    other = await connect(dsn)
    try:
        await asyncio.gather(
            store_outcomes(connection, connection, outcomes, True),
            store_outcomes(other, other, outcomes, True),
        )
    finally:
        await other.close()
    assert len(await projected(connection)) == 20


async def test_a_failed_projection_leaves_nothing_half_written(connection):
    await add_company(connection)
    await add_company(connection, "boreal")
    await connection.execute(
        'ALTER TABLE "market_outcomes" ADD CONSTRAINT "x" CHECK ("stockTicker" <> \'BOREAL\')'
    )
    try:
        outcomes = await derive_outcomes(connection, WINDOW)
        with pytest.raises(Exception, match="violates check constraint"):
            await store_outcomes(connection, connection, outcomes, True)
        assert await projected(connection) == []
        assert await load_outcomes(connection, WINDOW) == outcomes
    finally:
        await connection.execute('ALTER TABLE "market_outcomes" DROP CONSTRAINT "x"')
