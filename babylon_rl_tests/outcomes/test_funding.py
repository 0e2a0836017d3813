"""Funding: never charged unless asked for; the engine's slots at 00, 08 and 16 UTC."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from babylon_rl.outcomes.funding import slot_funding, slots_between
from babylon_rl.outcomes.pricing import value_orders
from babylon_rl.records.reader import refresh_window_rows
from babylon_rl_tests.game_rows import (
    START,
    WINDOW,
    add_company,
    add_order,
    add_price,
    add_trajectory,
    at,
)

moments = st.integers(0, 10 * 365 * 86_400).map(
    lambda s: datetime(2020, 1, 1, tzinfo=UTC) + timedelta(seconds=s)
)


def test_a_position_of_1000_pays_0_0091_a_slot():
    """`babylon.md` 3.2: 1 % a year, per 8 h size * rate / 1095.75, longs pay."""
    rule = slot_funding()
    after, until = datetime(2026, 10, 1, 7, tzinfo=UTC), datetime(2026, 10, 1, 16, tzinfo=UTC)
    assert rule("long", 1000, after, until) == pytest.approx(2 * 0.009126, abs=1e-5)
    assert rule("short", 1000, after, until) == -rule("long", 1000, after, until)


@given(first=moments, second=moments, third=moments)
def test_slots_add_up(first, second, third):
    early, middle, late = sorted((first, second, third))
    assert slots_between(early, late) == slots_between(early, middle) + slots_between(middle, late)
    assert slots_between(early, early + timedelta(days=1)) == 3
    assert slots_between(late, early) == 0


@pytest.mark.anyio
async def test_the_hook_and_what_the_game_recorded(connection):
    await add_company(connection)
    await add_price(connection, 100, at(-10))
    await add_price(connection, 100, START + timedelta(days=2))
    await add_trajectory(connection)
    await refresh_window_rows(connection, connection)
    held = await add_order(connection, size=1000.0)
    closed = await add_order(connection, size=1000.0, closedAt=at(30), fundingPaid=3.0)

    async def values(**options) -> dict[tuple[str, str], float | None]:
        now = START + timedelta(days=3)
        found = await value_orders(connection, connection, WINDOW, now, **options)
        return {(v.order_id, v.horizon): v.value for v in found}

    as_shipped = await values()
    assert as_shipped[held, "24h"] == -2.0, "the game charges fees, and no funding"
    assert as_shipped[closed, "1h"] == as_shipped[closed, "24h"] == -5.0
    charged = await values(funding=slot_funding())
    assert charged[held, "24h"] == pytest.approx(-2 - 3 * 1000 * 0.01 / 1095.75)
    assert charged[held, "1h"] == -2.0, "no slot lies in the hour after 14:05"
    assert charged[closed, "24h"] == -5.0
