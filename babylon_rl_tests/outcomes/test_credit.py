"""Credit by market id across windows: resolutions days later, what orders are worth by now, corrections."""

from datetime import timedelta

import pytest

from babylon_rl.outcomes.cpmm import Pool, bought
from babylon_rl.outcomes.credit import (
    credit_windows,
    load_known_values,
    load_resolutions,
    load_resolved_outcomes,
)
from babylon_rl.outcomes.pricing import load_order_values, value_orders
from babylon_rl.outcomes.sync import recent_windows, sync_recent_windows, sync_window
from babylon_rl.records.reader import refresh_window_rows
from babylon_rl.windows import window_id_at
from babylon_rl_tests.game_rows import (
    START,
    WINDOW,
    add_company,
    add_market,
    add_order,
    add_price,
    add_quote,
    add_trade,
    add_trajectory,
    at,
)

pytestmark = pytest.mark.anyio
HOUR = timedelta(hours=1)
RESOLVED = START + timedelta(days=3, minutes=20)
_, SHARES = bought(Pool(500, 500), True, 99.9)


@pytest.fixture
async def traded(connection):
    """A market with one order of a window that was processed two hours later."""
    await add_company(connection)
    await add_price(connection, 100, at(-10))
    await add_price(connection, 100, at(150))
    await add_market(connection)
    await add_quote(connection, 0.5, at(-60))
    await add_trajectory(connection)
    await refresh_window_rows(connection, connection)
    await add_trade(connection, price=99.9 / SHARES)
    await value_orders(connection, connection, WINDOW, at(120))
    return connection


async def resolve(connection, answer: bool = True, moment=RESOLVED) -> None:
    await connection.execute(
        'UPDATE "Market" SET "resolved" = true, "resolution" = $1, "updatedAt" = $2', answer, moment
    )
    await add_price(connection, 100, moment)


async def sync(connection, moment):
    window = window_id_at(moment)
    return await sync_window(connection, connection, window, now=moment + 2 * HOUR)


async def stored(connection) -> dict[str, tuple[float | None, bool]]:
    return {v.horizon: (v.value, v.matured) for v in await load_order_values(connection, WINDOW)}


async def test_a_resolution_days_later_pays_the_window_of_the_trade(traded):
    before = await stored(traded)
    assert before["resolution"] == (None, False) and before["1h"][1]
    await resolve(traded)
    await sync(traded, RESOLVED)
    assert (await stored(traded))["resolution"] == (None, False), "found by market id, not by window"
    assert await credit_windows(traded, traded, RESOLVED + 2 * HOUR) == [WINDOW]
    after = await stored(traded)
    assert after["resolution"] == (pytest.approx(SHARES - 100, abs=1e-4), True)
    assert after["1h"] == before["1h"], "what was paid stays what it was"
    assert await credit_windows(traded, traded, RESOLVED + 2 * HOUR) == []


async def test_an_order_is_worth_what_was_paid_until_its_market_is_resolved(traded):
    paid = (await stored(traded))["1h"][0]
    (before,) = await load_known_values(traded, [WINDOW])
    assert paid is not None and (before.value, before.resolved) == (paid, False)
    await resolve(traded)
    await sync(traded, RESOLVED)
    await credit_windows(traded, traded, RESOLVED + 2 * HOUR)
    (found,) = await load_known_values(traded, [WINDOW, "2026-10-01T15:00"])
    assert (found.window_id, found.agent_id, found.instrument) == (WINDOW, "agent-1", "market-1")
    assert found.resolved and found.value == pytest.approx(SHARES - 100, abs=1e-4)
    await traded.execute("DELETE FROM rl.market_resolutions")
    assert await load_known_values(traded, [WINDOW]) == [before], (
        "nobody could look for the answer in prompts"
    )


async def test_perpetuals_keep_their_value(traded):
    await add_order(traded)
    await value_orders(traded, traded, WINDOW, RESOLVED)
    found = {order.order_id: order for order in await load_known_values(traded, [WINDOW])}
    assert len(found) == 2 and not any(order.resolved for order in found.values())


async def test_a_window_is_read_with_the_resolutions_that_came_later(traded):
    assert (await load_resolved_outcomes(traded, WINDOW, ["market-1"])).predictions == []
    await resolve(traded)
    await sync(traded, RESOLVED)
    (unlisted,) = (await load_resolved_outcomes(traded, WINDOW, ["market-1"])).predictions
    assert (unlisted.market_id, unlisted.outcome) == ("market-1", "YES")
    await traded.execute('UPDATE "Market" SET "resolved" = false, "resolution" = NULL')
    await sync(traded, START)
    (listed,) = (await load_resolved_outcomes(traded, WINDOW)).predictions
    assert (listed.market_id, listed.outcome) == ("market-1", "YES") and listed.question


async def test_resolutions_are_appended_and_the_last_one_counts(traded):
    await resolve(traded, True)
    await sync(traded, RESOLVED)
    known = await traded.fetchval("SELECT now()")
    await credit_windows(traded, traded, RESOLVED + 2 * HOUR)
    await resolve(traded, False)
    await sync(traded, RESOLVED)
    assert await traded.fetchval("SELECT count(*) FROM rl.market_resolutions") == 2
    assert await load_resolutions(traded, ["market-1"]) == {"market-1": "NO"}
    assert await load_resolutions(traded, ["market-1"], known) == {"market-1": "YES"}
    assert await load_resolutions(traded, ["market-1"], START) == {}
    assert await credit_windows(traded, traded, RESOLVED + 2 * HOUR) == [WINDOW]
    assert (await stored(traded))["resolution"] == (pytest.approx(-100), True)


async def test_a_horizon_that_has_passed_is_valued_without_being_asked(traded):
    assert not (await stored(traded))["24h"][1]
    assert await credit_windows(traded, traded, at(1600)) == [], "the prices end two hours after the window"
    await add_price(traded, 100, at(1600))
    assert await credit_windows(traded, traded, at(1600)) == [WINDOW]
    assert (await stored(traded))["24h"][1]
    assert await credit_windows(traded, traded, at(1600)) == []


async def test_the_last_hours_are_derived_and_those_behind_them_credited(traded):
    await resolve(traded)
    now = RESOLVED + 2 * HOUR
    report = await sync_recent_windows(traded, traded, hours=24, now=now)
    assert len(report.windows) == 23 and report.windows == recent_windows(now, 24)
    assert report.windows[-1] == window_id_at(RESOLVED + HOUR)
    assert window_id_at(RESOLVED) in report.changed and report.stale == []
    assert report.credited == [WINDOW]
    again = await sync_recent_windows(traded, traded, hours=24, now=now)
    assert (again.changed, again.stale, again.credited) == ([], [], [])
    rows = await traded.fetch('SELECT "windowId" FROM "market_outcomes" WHERE "outcome" = \'YES\'')
    assert [row["windowId"] for row in rows] == [window_id_at(RESOLVED)]


async def test_the_running_hour_is_not_frozen(traded):
    now = START + timedelta(days=4, minutes=30)
    report = await sync_recent_windows(traded, traded, hours=3, now=now)
    assert window_id_at(now) not in report.windows
    assert report.windows[-1] == window_id_at(now - HOUR)


async def test_late_prices_make_a_scored_window_stale_with_the_reason(traded):
    await sync_window(traded, traded, WINDOW, now=at(130))
    await traded.execute(
        "UPDATE rl.recorded_windows SET taken = fingerprint, settled = true WHERE window_id = $1", WINDOW
    )
    assert not (await sync_window(traded, traded, WINDOW, now=at(130))).stale
    await add_order(traded, openedAt=at(50))
    await add_price(traded, 104, at(55))
    synced = await sync_window(traded, traded, WINDOW, now=at(130))
    assert synced.stale
    row = await traded.fetchrow("SELECT due, stale_reason FROM rl.recorded_windows")
    assert row["due"] and row["stale_reason"] == "; ".join(synced.reasons)
    assert synced.reasons == ["its market outcomes changed", "the values of 1 orders at +1h changed"]
