"""How PostgreSQL values become Python values on our connections."""

from datetime import UTC, datetime, timedelta

import asyncpg
import msgspec

from babylon_rl.database.errors import NaiveTimestampError

_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_INFINITY = 2**63 - 1
_FIRST = datetime.min.replace(tzinfo=UTC)
_LAST = datetime.max.replace(tzinfo=UTC)
_JSONB_VERSION = b"\x01"


def encode_timestamp(moment: datetime) -> tuple[int]:
    """Microseconds since 2000-01-01 UTC, the wire format of both timestamp types.

    Raises:
        NaiveTimestampError: `moment` has no time zone.
    """
    if not isinstance(moment, datetime) or moment.utcoffset() is None:
        raise NaiveTimestampError(
            f"{moment!r} was given for a timestamp, which needs a datetime with a time zone",
            "Use datetime.now(UTC) or .replace(tzinfo=UTC).",
        )
    since = moment - _EPOCH
    return ((since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds,)


def decode_timestamp(wire: tuple[int]) -> datetime:
    """An aware UTC datetime; PostgreSQL's infinities become the first and last moment of Python."""
    if wire[0] >= _INFINITY:
        return _LAST
    if wire[0] <= -_INFINITY:
        return _FIRST
    return _EPOCH + timedelta(microseconds=wire[0])


def encode_jsonb(value: object) -> bytes:
    """Any value that msgspec encodes; text is a JSON string, ready-made JSON goes in as `msgspec.Raw`.

    NaN and infinities, which JSON lacks, become null.
    """
    return _JSONB_VERSION + msgspec.json.encode(value)


def decode_jsonb(wire: bytes) -> object:
    return msgspec.json.decode(wire[1:])


async def set_codecs(connection: asyncpg.Connection) -> None:
    """Makes `connection` speak aware UTC datetimes and Python values for jsonb."""
    for name in ("timestamp", "timestamptz"):
        await connection.set_type_codec(
            name, schema="pg_catalog", encoder=encode_timestamp, decoder=decode_timestamp, format="tuple"
        )
    await connection.set_type_codec(
        "jsonb", schema="pg_catalog", encoder=encode_jsonb, decoder=decode_jsonb, format="binary"
    )
