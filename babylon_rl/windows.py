"""Windows: the hours of the game, and the only place that parses or prints a window id.

A window is the half-open UTC hour `[start, end)`. Its id `YYYY-MM-DDTHH:00` is also the hourly partition key,
so ids sort in time order. A *day* is the partition key `YYYY-MM-DD` of the 24 windows that start in it.
"""

import re
from datetime import UTC, date, datetime, timedelta

from babylon_rl.errors import BabylonError

WINDOW_FORMAT = "%Y-%m-%dT%H:00"
DAY_FORMAT = "%Y-%m-%d"
WINDOW_LENGTH = timedelta(hours=1)
WINDOWS_PER_DAY = 24

# Outside of these years the arithmetic of datetimes no longer works everywhere.
_FIRST_YEAR, _LAST_YEAR = 1970, 9998

# ASCII digits only: `\d` would also accept the digits of other scripts, which int() understands.
_CANONICAL = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:00")
_SPELLING = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:00)(?::00(?:\.0{1,9})?)?(?:Z|\+00:00)")


class UnknownWindowError(BabylonError):
    """A text that is not a window id where one is required."""


class UnknownDayError(BabylonError):
    """A text that is not a day where one is required."""


class NaiveTimeError(BabylonError):
    """A datetime without a time zone; guessing one would move rows to another window."""


def parse_window(text: str) -> datetime:
    """Returns the aware UTC start of the window with the id `text`.

    Raises:
        UnknownWindowError: `text` is not exactly `YYYY-MM-DDTHH:00` or no such hour exists.
    """
    if isinstance(text, str) and _CANONICAL.fullmatch(text):
        try:
            start = datetime.fromisoformat(text).replace(tzinfo=UTC)
        except ValueError:
            start = None
        if start is not None and _FIRST_YEAR <= start.year <= _LAST_YEAR:
            return start
    raise UnknownWindowError(
        f"{text!r} is not a window id",
        "Window ids are UTC hours such as 2026-10-01T14:00; see `babylon windows list`.",
    )


def normalize_window_id(text: str | None) -> str | None:
    """Returns the canonical id for the spellings that recorders have written, and None for anything else.

    Accepted besides the canonical form: the zone `Z` or `+00:00`, with or without zero seconds and fractions,
    as JavaScript's `toISOString()` and Python's `isoformat()` print them. A text with seconds but without a
    zone is refused: which hour it means depends on where it was written.
    """
    if text is None:
        return None
    match = _SPELLING.fullmatch(text)
    candidate = match.group(1) if match else text
    try:
        parse_window(candidate)
    except UnknownWindowError:
        return None
    return candidate


def window_id_at(moment: datetime) -> str:
    """Returns the id of the window that contains the aware datetime `moment`.

    A moment exactly on the hour belongs to the window that starts there.
    """
    return f"{_utc(moment):{WINDOW_FORMAT}}"


def window_range(window_id: str) -> tuple[datetime, datetime]:
    """Returns the half-open range `[start, end)` of a window, both aware UTC."""
    start = parse_window(window_id)
    return start, start + WINDOW_LENGTH


def row_window(window_id: str | None, scenario_id: str | None, start_time: datetime) -> str:
    """Returns the one window that a recorded row belongs to.

    The row's own `windowId` decides; if it is null or no window id, its `scenarioId` if that is one (older
    rows carry the window there); else the UTC hour of its `startTime`.
    """
    return normalize_window_id(window_id) or normalize_window_id(scenario_id) or window_id_at(start_time)


def is_complete(window_id: str, now: datetime, delay: timedelta) -> bool:
    """Says whether a window is over and `delay` (time for late commits) has passed since."""
    return _utc(now) >= window_range(window_id)[1] + delay


def windows_between(start: datetime, end: datetime) -> list[str]:
    """Returns the ids of all windows that begin in the half-open range `[start, end)`, oldest first."""
    first, last = _utc(start), _utc(end)
    hour = first.replace(minute=0, second=0, microsecond=0)
    if hour < first:
        hour += WINDOW_LENGTH
    count = max(0, -((hour - last) // WINDOW_LENGTH))
    return [f"{hour + i * WINDOW_LENGTH:{WINDOW_FORMAT}}" for i in range(count)]


def day_of(window_id: str) -> str:
    """Returns the day (`YYYY-MM-DD`, also the daily partition key) in which a window starts."""
    return f"{parse_window(window_id):{DAY_FORMAT}}"


def parse_day(text: str) -> date:
    """Returns the date of a day id.

    Raises:
        UnknownDayError: `text` is not exactly `YYYY-MM-DD` or no such day exists.
    """
    if isinstance(text, str) and re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text):
        try:
            return date.fromisoformat(text)
        except ValueError:
            pass
    raise UnknownDayError(f"{text!r} is not a day", "Days are UTC dates such as 2026-10-01.")


def windows_of_day(day: str) -> list[str]:
    """Returns the 24 window ids of a day, oldest first."""
    start = parse_day(day)
    return [f"{start:{DAY_FORMAT}}T{hour:02d}:00" for hour in range(WINDOWS_PER_DAY)]


def _utc(moment: datetime) -> datetime:
    if moment.tzinfo is None:
        raise NaiveTimeError(
            f"{moment!r} has no time zone", "Pass an aware datetime, such as datetime.now(UTC)."
        )
    return moment.astimezone(UTC)
