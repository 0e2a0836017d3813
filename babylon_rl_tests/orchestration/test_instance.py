"""DAGSTER_HOME: the repository's dagster.yaml, linked; PostgreSQL storage."""

import os
from pathlib import Path

import dagster as dg
import pytest

from babylon_rl.orchestration.instance import (
    LIBRARY_ENVIRONMENT,
    REPOSITORY,
    DagsterHomeError,
    prepare_dagster_home,
)
from babylon_rl.settings import Settings


def test_the_home_links_the_repositorys_file_and_exports_the_variables(dagster_settings: Settings):
    home = prepare_dagster_home(dagster_settings)
    assert home == dagster_settings.home / "dagster"
    assert (home / "dagster.yaml").resolve() == REPOSITORY / "dagster.yaml"
    assert os.environ["DAGSTER_HOME"] == str(home)
    assert {name: os.environ[name] for name in LIBRARY_ENVIRONMENT} == LIBRARY_ENVIRONMENT
    assert prepare_dagster_home(dagster_settings) == home, "safe to repeat"


def test_the_link_of_another_checkout_is_replaced(dagster_settings: Settings, tmp_path: Path):
    home = dagster_settings.home / "dagster"
    home.mkdir(parents=True)
    (home / "dagster.yaml").symlink_to(tmp_path / "gone" / "dagster.yaml")
    prepare_dagster_home(dagster_settings)
    assert (home / "dagster.yaml").resolve() == REPOSITORY / "dagster.yaml"


def test_another_instance_file_takes_its_place(dagster_settings: Settings):
    prepare_dagster_home(dagster_settings)
    chosen = dagster_settings.model_copy(update={"dagster_instance_file": Path("deploy/dagster-ray.yaml")})
    home = prepare_dagster_home(chosen)
    assert (home / "dagster.yaml").resolve() == REPOSITORY / "deploy/dagster-ray.yaml"
    missing = dagster_settings.model_copy(update={"dagster_instance_file": Path("deploy/none.yaml")})
    with pytest.raises(DagsterHomeError, match="none.yaml"):
        prepare_dagster_home(missing)


def test_a_file_that_hides_ours_is_named(dagster_settings: Settings):
    home = dagster_settings.home / "dagster"
    home.mkdir(parents=True)
    (home / "dagster.yaml").write_text("telemetry: {enabled: true}\n")
    with pytest.raises(DagsterHomeError, match="Move it away"):
        prepare_dagster_home(dagster_settings)


def test_runs_and_events_are_kept_in_postgresql(pg_instance: dg.DagsterInstance, empty_dsn: str):
    assert type(pg_instance.event_log_storage).__name__ == "PostgresEventLogStorage"
    assert type(pg_instance.run_storage).__name__ == "PostgresRunStorage"
    assert pg_instance.run_retries_enabled
    assert not pg_instance.telemetry_enabled
