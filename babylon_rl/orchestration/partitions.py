"""The partitions of every asset: the window of the game (hourly) and its UTC day (daily)."""

import dagster as dg

from babylon_rl.settings import get_settings
from babylon_rl.windows import DAY_FORMAT, WINDOW_FORMAT, day_of

_FIRST_WINDOW = get_settings().first_partition

hourly = dg.HourlyPartitionsDefinition(start_date=_FIRST_WINDOW, fmt=WINDOW_FORMAT, timezone="UTC")
daily = dg.DailyPartitionsDefinition(start_date=day_of(_FIRST_WINDOW), fmt=DAY_FORMAT, timezone="UTC")

# A day per run: a lost run loses at most a day, and 24 windows in one run cost a sixth of 24 runs.
ONE_DAY_OF_WINDOWS = dg.BackfillPolicy.multi_run(max_partitions_per_run=24)
ONE_DAY = dg.BackfillPolicy.multi_run(max_partitions_per_run=1)

# FIRST_PARTITION may lie inside a day; that day's earlier windows do not exist.
WINDOWS_OF_THE_DAY = dg.TimeWindowPartitionMapping(allow_nonexistent_upstream_partitions=True)
# Gives order only: the registry, not the calendar, decides from which checkpoint a day trains.
PREVIOUS_DAY = dg.TimeWindowPartitionMapping(start_offset=-1, end_offset=-1)


class STANDING:
    """Whether sensors and the schedule run without being switched on in the UI.

    Only in production: on a developer's machine a daemon that trains whenever `make dev` is open would take
    the cores from the person in front of it, and the demo starts its runs itself.
    """

    _ON = get_settings().is_production
    sensor = dg.DefaultSensorStatus.RUNNING if _ON else dg.DefaultSensorStatus.STOPPED
    schedule = dg.DefaultScheduleStatus.RUNNING if _ON else dg.DefaultScheduleStatus.STOPPED
