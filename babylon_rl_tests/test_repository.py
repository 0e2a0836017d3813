"""The repository's own files: pins, make verbs, Dagster's files, and what the documents name."""

import re
import subprocess
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from babylon_rl.settings import Settings

ROOT = Path(__file__).parents[1]
DOCUMENTS = [
    "README.md",
    "CONTRIBUTING.md",
    "docs/from_the_seeds.md",
    "docs/serving.md",
    "docs/dashboard.md",
    "docs/data_tools.md",
    "docs/scaling.md",
    "docs/training.md",
    "docs/operations.md",
    "docs/evaluation.md",
]


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    requirements = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {canonical(r.name): str(r.specifier).removeprefix("==") for r in requirements}


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def installed_with_us() -> dict[str, str]:
    """Name and version of all that babylon_rl with its extra `dev` requires, at any distance."""
    found: dict[str, str] = {}
    waiting = [("babylon_rl", "dev")]
    while waiting:
        name, extra = waiting.pop()
        for text in metadata.requires(name) or []:
            requirement = Requirement(text)
            wanted = requirement.marker is None or any(
                requirement.marker.evaluate({"extra": e}) for e in (extra, "")
            )
            key = canonical(requirement.name)
            if wanted and key not in found:
                found[key] = metadata.version(requirement.name)
                waiting += [(requirement.name, e) for e in (requirement.extras or {""})]
    return found


def test_everything_that_is_installed_is_pinned_exactly() -> None:
    pinned = pins()
    for name, version in installed_with_us().items():
        # torch's pin 2.13.0 also accepts the CPU build 2.13.0+cpu
        assert pinned.get(name) == version.partition("+")[0], name


def test_make_lists_the_verbs_that_it_has() -> None:
    listed = subprocess.run(
        ["make", "-s", "help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    verbs = {"help", "install", "demo", "test", "test-all", "dev", "lint", "bench", "clean"}
    assert set(re.findall(r"make ([a-z-]+)", listed)) - {"test`"} == verbs


@pytest.mark.parametrize("document", DOCUMENTS)
def test_documents_name_make_verbs_variables_and_files_that_exist(document: str) -> None:
    text = (ROOT / document).read_text()
    verbs = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    named = {verb for group in re.findall(r"`make ([a-z -]+)`", text) for verb in group.split()}
    assert named <= verbs
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (ROOT / document).parent.joinpath(target).exists(), target
    if document == "README.md":
        table = re.findall(r"^\| `([A-Z][A-Z_]+)` \|", text, flags=re.MULTILINE)
        assert table
        assert {name.lower() for name in table} <= set(Settings.model_fields)


def test_the_page_on_serving_names_every_variable_of_the_gateway() -> None:
    named = set(re.findall(r"GATEWAY_[A-Z_]+", (ROOT / "docs/serving.md").read_text()))
    assert {name.lower() for name in named} == {name for name in Settings.model_fields if "gateway_" in name}


def test_the_dagster_instance_file_is_valid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dagster._core.instance.config import dagster_instance_config

    monkeypatch.setenv("DAGSTER_PG", "postgresql://nobody@localhost/none")
    (tmp_path / "dagster.yaml").write_text((ROOT / "dagster.yaml").read_text())
    config, _ = dagster_instance_config(str(tmp_path))
    assert config["storage"] == {"postgres": {"postgres_url": {"env": "DAGSTER_PG"}}}
    assert config["telemetry"] == {"enabled": False}


def test_the_ray_instance_file_differs_only_in_how_runs_start() -> None:
    usual = yaml.safe_load((ROOT / "dagster.yaml").read_text())
    ray = yaml.safe_load((ROOT / "deploy/dagster-ray.yaml").read_text())
    launcher = ray.pop("run_launcher")
    assert (launcher["module"], launcher["class"]) == ("dagster_ray", "RayRunLauncher")
    for file in (usual, ray):
        assert file["concurrency"]["runs"].pop("max_concurrent_runs") > 0
    assert ray == usual


def test_the_workspace_names_our_definitions() -> None:
    workspace = yaml.safe_load((ROOT / "workspace.yaml").read_text())
    module = {"module_name": "babylon_rl.definitions", "location_name": "babylon_rl"}
    assert workspace == {"load_from": [{"python_module": module}]}
