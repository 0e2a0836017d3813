"""Dagster: assets, checks, sensors, schedules, jobs and resources. It wires rooms."""
