"""Window assignment as a property: whatever a row's ids, exactly one window, and the same one everywhere."""

import os
import re
import time
import zoneinfo
from datetime import UTC, datetime, timedelta, timezone

from hypothesis import given
from hypothesis import strategies as st

from babylon_rl import windows

CANONICAL = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:00")
START = datetime(1971, 1, 1, tzinfo=UTC)
moments = st.integers(0, 129 * 365 * 86_400_000).map(lambda ms: START + timedelta(milliseconds=ms))
canonical = moments.map(windows.window_id_at)
spelled = st.tuples(canonical, st.sampled_from(["", "Z", ":00Z", ":00.000Z", ":00+00:00"])).map("".join)
broken = st.tuples(canonical, st.sampled_from(["-extra", "%", "_", " ", ":30Z", ":00", "+01:00"])).map(
    "".join
)
ids = st.none() | spelled | broken | st.text(max_size=20) | st.sampled_from(["", "trading-1", "benchmark-7"])


@given(window=ids, scenario=ids, start=moments)
def test_one_canonical_window_by_the_rule(window, scenario, start):
    found = windows.row_window(window, scenario, start)
    assert CANONICAL.fullmatch(found)
    first, end = windows.window_range(found)
    assert end - first == timedelta(hours=1) and windows.window_id_at(first) == found
    if windows.normalize_window_id(window):
        assert found == windows.normalize_window_id(window)
    elif windows.normalize_window_id(scenario):
        assert found == windows.normalize_window_id(scenario)
    else:
        assert first <= start < end


@given(window=ids, scenario=ids, start=moments, hours=st.integers(-12, 14))
def test_neither_the_hosts_nor_the_moments_zone_matters(window, scenario, start, hours):
    expected = windows.row_window(window, scenario, start)
    before = os.environ.get("TZ")
    try:
        os.environ["TZ"] = f"XXX{-hours}"
        time.tzset()
        moved = start.astimezone(timezone(timedelta(hours=hours)))
        assert windows.row_window(window, scenario, moved) == expected
    finally:
        os.environ.pop("TZ") if before is None else os.environ.update(TZ=before)
        time.tzset()


@given(window=ids, scenario=ids, start=moments, zone=st.sampled_from(sorted(zoneinfo.available_timezones())))
def test_no_zone_of_the_world_moves_a_row(window, scenario, start, zone):
    """Zones with half hours, with daylight saving, and those that once skipped a day."""
    expected = windows.row_window(window, scenario, start)
    before = os.environ.get("TZ")
    try:
        os.environ["TZ"] = zone
        time.tzset()
        moved = start.astimezone(zoneinfo.ZoneInfo(zone))
        assert windows.row_window(window, scenario, moved) == expected
        assert windows.window_id_at(windows.window_range(expected)[0]) == expected
    finally:
        os.environ.pop("TZ") if before is None else os.environ.update(TZ=before)
        time.tzset()


@given(start=moments)
def test_the_full_hour_begins_a_window(start):
    hour = start.replace(minute=0, second=0, microsecond=0)
    assert windows.window_range(windows.row_window(None, None, hour))[0] == hour
    earlier = windows.row_window(None, None, hour - timedelta(milliseconds=1))
    assert windows.window_range(earlier)[1] == hour
