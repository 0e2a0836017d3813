"""Where a registered checkpoint lies."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from babylon_rl.deployment.registry import ModelRecord
from babylon_rl.deployment.storage import RemoteCheckpointError, local_path, open_engine
from babylon_rl.policy.errors import CheckpointError
from babylon_rl.settings import Settings


def model(storage_path: str | None) -> ModelRecord:
    return ModelRecord(
        version="v0.0.3",
        model_id="babylon-agent-v0.0.3",
        parent_version="v0.0.2",
        base_model="babylon-tiny",
        unit_key=None,
        batch_sha256=None,
        day=None,
        storage_path=storage_path,
        status="ready",
        verdict=None,
        manifest={},
        metrics={},
        created_at=datetime(2026, 10, 1, tzinfo=UTC),
        deployed_at=None,
        archived_at=None,
    )


@pytest.mark.parametrize("name", ["plain", "with space", "ümläut", "per%cent", "#hash?"])
def test_any_path_survives_its_address(tmp_path: Path, name: str) -> None:
    assert local_path(model((tmp_path / name).as_uri())) == tmp_path / name


@pytest.mark.parametrize(
    "address", [None, "", "s3://bucket/x", "wandb-artifact:///e/p/n:step3", "relative/path"]
)
def test_other_places_are_said(address: str | None) -> None:
    with pytest.raises(RemoteCheckpointError, match="the checkpoint of v0.0.3 is at") as refusal:
        local_path(model(address))
    assert "babylon models" in refusal.value.remedy


def test_an_engine_carries_its_version(base_checkpoint: Path, tmp_path: Path) -> None:
    assert open_engine(model(base_checkpoint.as_uri())).version == "v0.0.3"
    with pytest.raises(CheckpointError, match="there is no such directory"):
        open_engine(model((tmp_path / "lost").as_uri()))


@pytest.mark.parametrize("address", ["s3://models-of-others/v0.0.1", "s3://models/../others/v0.0.1"])
def test_only_what_lies_below_the_model_storage_is_fetched(address: str, tmp_path: Path) -> None:
    settings = Settings(babylon_home=tmp_path, model_storage_url="s3://models")
    with pytest.raises(RemoteCheckpointError, match="not on this machine"):
        local_path(model(address), settings)
