"""Dagster: assets, checks, sensors, schedules, jobs and resources. It wires rooms."""

import warnings

import dagster as dg

# Backfill policies are what keeps a day of windows in one run; that the parameter is in beta is known.
warnings.filterwarnings("ignore", message="Parameter `backfill_policy`", category=dg.BetaWarning)
