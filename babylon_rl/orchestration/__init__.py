"""Dagster: assets, checks, sensors, schedules, jobs and resources. It wires rooms."""

import warnings

import dagster as dg

# In beta, and known to be: the day of windows per run, and a first partition inside a day, depend on them.
_KNOWN = "backfill_policy|allow_nonexistent_upstream_partitions"
warnings.filterwarnings("ignore", message=f"Parameter `({_KNOWN})`", category=dg.BetaWarning)
warnings.filterwarnings("ignore", message="Class `UrlCodeReference`", category=dg.BetaWarning)
