"""Partition keys are window ids and days."""

from datetime import UTC, datetime

import dagster as dg
import pytest

from babylon_rl import windows
from babylon_rl.orchestration.partitions import PREVIOUS_DAY, WINDOWS_OF_THE_DAY, daily, hourly
from babylon_rl.settings import get_settings

NOW = datetime(2026, 10, 3, 4, 30, tzinfo=UTC)


def test_hourly_keys_are_window_ids_and_end_with_the_last_finished_hour():
    with dg.partition_loading_context(effective_dt=NOW):
        keys = hourly.get_partition_keys()
    assert keys[0] == get_settings().first_partition
    assert keys[-1] == "2026-10-03T03:00"
    assert keys == windows.windows_between(windows.parse_window(keys[0]), NOW)[:-1]


@pytest.mark.parametrize("text", ["2026-10-01T05:30", "2026-10-01T05:00:00Z", "2026-10-01 05:00", ""])
def test_other_spellings_are_no_partition(text: str):
    assert not hourly.has_partition_key(text)


def test_a_day_depends_on_its_24_windows_and_follows_the_day_before():
    with dg.partition_loading_context(effective_dt=NOW):
        day = daily.subset_with_partition_keys(["2026-10-02"])
        upstream = WINDOWS_OF_THE_DAY.get_upstream_mapped_partitions_result_for_partitions(
            downstream_partitions_subset=day,
            downstream_partitions_def=daily,
            upstream_partitions_def=hourly,
        )
        before = PREVIOUS_DAY.get_upstream_mapped_partitions_result_for_partitions(
            downstream_partitions_subset=day, downstream_partitions_def=daily, upstream_partitions_def=daily
        )
    assert list(upstream.partitions_subset.get_partition_keys()) == windows.windows_of_day("2026-10-02")
    assert list(before.partitions_subset.get_partition_keys()) == ["2026-10-01"]
