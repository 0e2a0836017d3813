"""The code location: it loads, cheaply, without a database, and its graph is the pipeline."""

import json
import os
import subprocess
import sys
from pathlib import Path

import dagster as dg

from babylon_rl.definitions import defs

HEAVY = {
    "art",
    "torch",
    "transformers",
    "litellm",
    "wandb",
    "polars",
    "pandas",
    "scipy",
    "matplotlib",
    "peft",
}

_PROBE = """
import json, resource, sys
import babylon_rl.definitions
used = resource.getrusage(resource.RUSAGE_SELF)
modules = sorted({name.partition(".")[0] for name in sys.modules})
print(json.dumps({"modules": modules, "cpu": used.ru_utime + used.ru_stime}))
"""


def test_loading_imports_nothing_heavy_and_needs_no_database(tmp_path: Path):
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "BABYLON_HOME": str(tmp_path / "home"),
        "DATABASE_URL": "postgresql://nobody@127.0.0.1:1/nowhere",
    }
    done = subprocess.run(
        [sys.executable, "-c", _PROBE], env=environment, capture_output=True, text=True, check=True
    )
    found = json.loads(done.stdout)
    assert HEAVY.isdisjoint(found["modules"])
    assert done.stderr == "", "loading says nothing"
    assert not (tmp_path / "home").exists(), "loading writes nothing"
    # The goal is 3 s on the reference machine; a slow one must not fail the tests.
    assert found["cpu"] < 15


def test_definitions_are_loadable():
    dg.Definitions.validate_loadable(defs)


def test_the_graph_is_the_pipeline():
    graph = defs.resolve_asset_graph()

    def parents(name: str) -> set[str]:
        return {key.to_user_string() for key in graph.get(dg.AssetKey(name)).parent_keys}

    assert parents("trajectories") == {"recorded_rows"}
    assert parents("market_outcomes") == {"trajectories"}
    assert parents("scored_groups") == {"trajectories", "market_outcomes"}
    assert parents("training_batch") == {"scored_groups"}
    assert parents("trained_checkpoint") == {"training_batch", "trained_checkpoint"}
    assert parents("checkpoint_benchmark") == {"trained_checkpoint"}
    assert parents("deployed_model") == {"checkpoint_benchmark"}


def test_every_asset_explains_itself():
    for spec in defs.resolve_all_asset_specs():
        assert spec.group_name == "babylon"
        assert spec.owners and spec.kinds
        assert spec.description and len(spec.description) > 80, spec.key


def test_every_resource_field_explains_itself():
    for resource in (defs.resources or {}).values():
        for name, field in type(resource).model_fields.items():
            assert field.description, f"{type(resource).__name__}.{name}"


def test_a_day_is_one_run_of_each_kind():
    graph = defs.resolve_asset_graph()
    for name in ("trajectories", "market_outcomes", "scored_groups"):
        policy = graph.get(dg.AssetKey(name)).backfill_policy
        assert policy and policy.max_partitions_per_run == 24
    for name in ("training_batch", "trained_checkpoint", "checkpoint_benchmark"):
        policy = graph.get(dg.AssetKey(name)).backfill_policy
        assert policy and policy.max_partitions_per_run == 1


def test_sensors_and_the_schedule_are_off_outside_of_production():
    assert {sensor.default_status for sensor in defs.sensors or []} == {dg.DefaultSensorStatus.STOPPED}
    assert {schedule.default_status for schedule in defs.schedules or []} == {
        dg.DefaultScheduleStatus.STOPPED
    }
