"""Windows: ids, spellings that recorders wrote, boundaries, days."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from babylon_rl.errors import BabylonError
from babylon_rl.windows import (
    NaiveTimeError,
    UnknownDayError,
    UnknownWindowError,
    day_of,
    is_complete,
    normalize_window_id,
    parse_day,
    parse_window,
    row_window,
    window_id_at,
    window_range,
    windows_between,
    windows_of_day,
)

moments = st.datetimes(
    min_value=datetime(1971, 1, 1),  # noqa: DTZ001 - hypothesis wants naive bounds
    max_value=datetime(2200, 1, 1),  # noqa: DTZ001
    timezones=st.integers(-14 * 60, 14 * 60).map(lambda m: timezone(timedelta(minutes=m))),
)


@given(moments)
def test_every_moment_lies_in_exactly_its_window(moment: datetime) -> None:
    window_id = window_id_at(moment)
    start, end = window_range(window_id)
    assert start <= moment < end
    assert parse_window(window_id) == start
    assert start.tzinfo is UTC
    assert window_id in windows_of_day(day_of(window_id))
    assert row_window(None, "no window", moment) == window_id


@given(moments, st.integers(0, 60 * 24 * 3))
def test_windows_between_are_those_that_begin_in_the_range(start: datetime, minutes: int) -> None:
    end = start + timedelta(minutes=minutes)
    found = windows_between(start, end)
    assert found == sorted(set(found))
    assert all(start <= parse_window(window_id) < end for window_id in found)
    hours = {window_id_at(start + timedelta(hours=i)) for i in range(-1, minutes // 60 + 2)}
    assert set(found) == {hour for hour in hours if start <= parse_window(hour) < end}


def test_a_moment_on_the_hour_belongs_to_the_window_that_starts() -> None:
    assert window_id_at(datetime(2026, 10, 1, 14, 0, tzinfo=UTC)) == "2026-10-01T14:00"
    assert window_id_at(datetime(2026, 10, 1, 13, 59, 59, 999999, tzinfo=UTC)) == "2026-10-01T13:00"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2026-10-01",
        "2026-10-01T14",
        "2026-10-01T14:30",
        "2026-10-01T24:00",
        "2026-02-30T10:00",
        "2026-10-01T14:00Z",
        "2026-10-01 14:00",
        "2026-10-01T14:00\n",
        " 2026-10-01T14:00",
        "2026-10-01T14:00-extra",
        "\u0662\u0660\u0662\u0666-10-01T14:00",
        "9999-12-31T23:00",
        "0001-01-01T00:00",
    ],
)
def test_what_is_no_window_id_is_refused_with_a_remedy(text: str) -> None:
    with pytest.raises(UnknownWindowError, match="babylon windows list") as caught:
        parse_window(text)
    assert isinstance(caught.value, BabylonError)


@pytest.mark.parametrize(
    "text",
    [
        "2026-10-01T14:00",
        "2026-10-01T14:00Z",
        "2026-10-01T14:00:00Z",
        "2026-10-01T14:00:00.000Z",
        "2026-10-01T14:00+00:00",
        "2026-10-01T14:00:00+00:00",
        "2026-10-01T14:00:00.000000+00:00",
    ],
)
def test_spellings_of_recorders_are_normalised(text: str) -> None:
    assert normalize_window_id(text) == "2026-10-01T14:00"


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "trading-scenario-1",
        "2026-10-01T14:00:00",
        "2026-10-01T14:00:01Z",
        "2026-10-01T14:00:00.001Z",
        "2026-10-01T14:00+02:00",
        "2026-10-01T14:%",
        "2026-10-01T14:00-extra",
    ],
)
def test_other_texts_are_no_window(text: str | None) -> None:
    assert normalize_window_id(text) is None


def test_the_window_of_a_row() -> None:
    start = datetime(2026, 10, 1, 9, 15, tzinfo=UTC)
    assert row_window("2026-10-01T14:00Z", "2026-10-01T13:00", start) == "2026-10-01T14:00"
    assert row_window(None, "2026-10-01T13:00", start) == "2026-10-01T13:00"
    assert row_window("2026-10-01T14:00-x", "2026-10-01T13:00", start) == "2026-10-01T13:00"
    assert row_window("", "trading-scenario-1", start) == "2026-10-01T09:00"


def test_complete_means_over_and_the_delay_passed() -> None:
    end, delay = datetime(2026, 10, 1, 15, 0, tzinfo=UTC), timedelta(minutes=5)
    assert not is_complete("2026-10-01T14:00", end + delay - timedelta(microseconds=1), delay)
    assert is_complete("2026-10-01T14:00", end + delay, delay)


def test_naive_moments_are_refused() -> None:
    with pytest.raises(NaiveTimeError, match="no time zone"):
        window_id_at(datetime(2026, 10, 1, 14, 0))  # noqa: DTZ001 - the point of the test


def test_days() -> None:
    assert f"{parse_day('2026-10-01')}" == "2026-10-01"
    assert len(windows_of_day("2026-10-01")) == 24
    assert windows_of_day("2026-10-01")[-1] == "2026-10-01T23:00"
    for text in ("2026-10-1", "20261001", "2026-13-01", "2026-W40-4", ""):
        with pytest.raises(UnknownDayError):
            parse_day(text)


def test_an_error_is_one_sentence_and_its_remedy() -> None:
    assert str(BabylonError("the port is taken", "Choose another.")) == "the port is taken. Choose another."
    assert str(BabylonError("Nothing to do.")) == "Nothing to do."
