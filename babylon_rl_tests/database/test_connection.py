"""Connections: time, JSON, errors."""

import traceback
from datetime import UTC, datetime, timedelta, timezone

import asyncpg
import msgspec
import pytest
from pydantic import SecretStr

from babylon_rl.database.connection import (
    MissingMigrationError,
    MissingRoleError,
    NaiveTimestampError,
    UnreachableDatabaseError,
    connect,
    create_pool,
    open_databases,
)
from babylon_rl.settings import Settings

pytestmark = pytest.mark.anyio
MOMENT = datetime(2026, 10, 1, 14, 0, 0, 123000, tzinfo=UTC)


async def test_timestamps_are_aware_and_utc(connection: asyncpg.Connection) -> None:
    await connection.execute("CREATE TEMP TABLE moments (at timestamp(3), zoned timestamptz)")
    elsewhere = MOMENT.astimezone(timezone(timedelta(hours=-5)))
    await connection.execute("INSERT INTO moments VALUES ($1, $2)", elsewhere, elsewhere)
    await connection.copy_records_to_table("moments", records=[(elsewhere, elsewhere)])
    for row in await connection.fetch("SELECT at, zoned, at::text AS shown FROM moments"):
        assert row["at"] == row["zoned"] == MOMENT
        assert row["at"].tzinfo is UTC
        assert row["shown"] == "2026-10-01 14:00:00.123"
    found = await connection.fetchval(
        "SELECT count(*) FROM moments WHERE at = ANY ($1::timestamp[])", [MOMENT]
    )
    assert found == 2
    assert await connection.fetchval("SHOW timezone") == "UTC"


@pytest.mark.parametrize("kind", ["timestamp", "timestamptz"])
async def test_naive_datetimes_are_refused_by_type(connection: asyncpg.Connection, kind: str) -> None:
    with pytest.raises(NaiveTimestampError, match="time zone"):
        await connection.fetchval(f"SELECT $1::{kind}", datetime(2026, 10, 1))  # noqa: DTZ001
    assert await connection.fetchval("SELECT 1") == 1  # still usable


async def test_infinite_timestamps_do_not_break_a_read(connection: asyncpg.Connection) -> None:
    row = await connection.fetchrow("SELECT 'infinity'::timestamp AS last, '-infinity'::timestamp AS first")
    assert row is not None
    assert (row["first"].year, row["last"].year) == (1, 9999)


async def test_jsonb_takes_and_gives_python_values(connection: asyncpg.Connection) -> None:
    value = {"text": "żółw", "list": [1, 2.5, None], "flag": True}
    assert await connection.fetchval("SELECT $1::jsonb", value) == value
    assert await connection.fetchval("SELECT $1::jsonb", msgspec.Raw(b'{"a":1}')) == {"a": 1}
    assert await connection.fetchval("SELECT $1::jsonb", {"bad": float("nan")}) == {"bad": None}


async def test_what_only_prisma_understands_is_left_out(dsn: str) -> None:
    opened = await connect(f"{dsn}&schema=public&pgbouncer=true&connection_limit=5&pool_timeout=10")
    assert await opened.fetchval("SELECT 1") == 1
    await opened.close()
    opened = await connect(f"{dsn}&schema=game")
    assert await opened.fetchval("SHOW search_path") == '"game", public'
    await opened.close()


@pytest.mark.parametrize(
    "address",
    [
        "postgresql://someone:s3cret@127.0.0.1:1/game",
        "postgresql://someone:s3cret@host:not-a-port/game",
        "mysql://someone:s3cret@127.0.0.1/game",
        "postgresql://someone:s3%cret@[::1/game",
    ],
)
async def test_unreachable_is_one_clear_line_without_the_password(address: str) -> None:
    with pytest.raises(UnreachableDatabaseError) as caught:
        await connect(address, timeout=5)
    text = str(caught.value)
    assert "s3" not in text and "\n" not in text
    assert caught.value.remedy
    assert "s3" not in "".join(traceback.format_exception(caught.value))


async def test_a_database_that_does_not_exist_is_named(dsn: str) -> None:
    with pytest.raises(UnreachableDatabaseError, match="no_such_database"):
        await connect(dsn.replace("/babylon_test", "/no_such_database"))
    with pytest.raises(UnreachableDatabaseError, match="no_such_option"):
        await create_pool(f"{dsn}&no_such_option=1")


async def test_an_unknown_role_is_named(dsn: str) -> None:
    with pytest.raises(MissingRoleError, match="babylon_nobody"):
        await connect(dsn, role="babylon_nobody")


async def test_a_pool_keeps_role_and_codecs_between_uses(dsn: str) -> None:
    async with await create_pool(dsn, role="babylon_reader", max_size=1) as pool:
        for _ in range(2):
            async with pool.acquire() as opened:
                assert await opened.fetchval("SELECT current_user") == "babylon_reader"
                assert await opened.fetchval("SELECT $1::timestamp", MOMENT) == MOMENT


async def test_open_databases_shares_one_connection(settings: Settings) -> None:
    async with open_databases(settings, role="babylon_judge") as databases:
        assert databases.game is databases.rl
        assert await databases.rl.fetchval("SELECT current_user") == "babylon_judge"
    assert databases.game.is_closed()


async def test_open_databases_keeps_two_apart(settings: Settings, empty_dsn: str) -> None:
    split = settings.model_copy(update={"rl_database_url": SecretStr(empty_dsn)})
    with pytest.raises(MissingMigrationError, match="001_add_rl_training_tables.*babylon migrate"):
        async with open_databases(split):
            pass
    async with open_databases(split, check=False) as databases:
        assert databases.game is not databases.rl
