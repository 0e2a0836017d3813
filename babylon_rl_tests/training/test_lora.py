"""Adapters: trained, stored, trained on, merged, and refused where they do not belong."""

import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from babylon_rl.policy.adapters import ADAPTER_WEIGHTS, base_of, load_adapter
from babylon_rl.policy.chat import ChatRequest
from babylon_rl.policy.checkpoints import ADAPTER_CONFIG, MANIFEST, _sha256, load_checkpoint, read_manifest
from babylon_rl.policy.engine import EmbeddedEngine
from babylon_rl.policy.errors import AdapterMismatchError, CheckpointError
from babylon_rl.training.conversion import TrainableEpisode, to_art_groups
from babylon_rl.training.embedded import EmbeddedBackend, EmbeddedTrainConfig
from babylon_rl_tests.played import play_day, trainable

pytestmark = pytest.mark.anyio

LORA = EmbeddedTrainConfig(method="lora", learning_rate=5e-3, epochs=2, minibatches=2)
WEIGHTS = 20_480
"""A rank-8 adapter on every linear layer of the tiny model."""


@pytest.fixture(scope="module")
def episodes(base_engine: EmbeddedEngine) -> list[TrainableEpisode]:
    return trainable(play_day(base_engine, windows=3, agents=4, seed=2))


@pytest.fixture(scope="module")
def home(base_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with the base model where `base_of` looks for it."""
    home = tmp_path_factory.mktemp("home")
    shutil.copytree(base_checkpoint, home / "models" / base_checkpoint.name)
    return home


@pytest.fixture
def base(home: Path, base_checkpoint: Path) -> Path:
    return home / "models" / base_checkpoint.name


async def train(
    start: Path, output: Path, episodes: Sequence[TrainableEpisode], config: EmbeddedTrainConfig = LORA
) -> Path:
    from babylon_rl.training.art_import import import_art

    network = import_art().TrainableModel(name="agent", project="tests", base_model="babylon-tiny")
    backend = EmbeddedBackend(output.parent / "art", start, step=0)
    await backend.train(network, to_art_groups(episodes), output=output, config=config, manifest={})
    return output


@pytest.fixture(scope="module")
async def adapter(
    anyio_backend: str, home: Path, base_checkpoint: Path, episodes: list[TrainableEpisode]
) -> Path:
    """A trained adapter; nobody writes into it."""
    start = home / "models" / base_checkpoint.name
    return await train(start, home / "checkpoints" / "adapter", episodes)


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def copy(adapter: Path, home: Path, base: Path, tmp_path: Path) -> Path:
    """An adapter that may be spoiled, in a home that was moved with its base model."""
    shutil.copytree(home / "models", tmp_path / "models")
    moved = Path(shutil.copytree(adapter, tmp_path / "checkpoints" / "copy"))
    named = read_manifest(adapter)["base_checkpoint"]
    change(moved / MANIFEST, base_checkpoint={**named, "uri": f"file:///gone/{base.name}"})
    return moved


def vouch(checkpoint: Path) -> None:
    manifest = json.loads((checkpoint / MANIFEST).read_text())
    files = [file for file in checkpoint.iterdir() if file.name != MANIFEST]
    manifest["files"] = {file.name: _sha256(file) for file in files}
    (checkpoint / MANIFEST).write_text(json.dumps(manifest))


def change(file: Path, **values: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def sampled(checkpoint: Path) -> list[int]:
    engine = EmbeddedEngine.load(checkpoint, "x")
    question = [{"role": "user", "content": "AURUM crash"}]
    return [
        token for seed in range(8) for token in engine.sample([ChatRequest(question, seed=seed)])[0].token_ids
    ]


def test_it_is_a_peft_directory_and_small(adapter: Path, base: Path) -> None:
    from peft import PeftModel
    from safetensors.torch import load_file

    assert {file.name for file in adapter.iterdir()} == {ADAPTER_CONFIG, ADAPTER_WEIGHTS, MANIFEST}
    tensors = load_file(adapter / ADAPTER_WEIGHTS)
    assert sum(tensor.numel() for tensor in tensors.values()) == WEIGHTS
    manifest = read_manifest(adapter)
    assert manifest["base_checkpoint"]["files"] == read_manifest(base)["files"]
    assert manifest["train_config"]["method"] == "lora"
    # PEFT's own loader reads it and computes the same as the merged model of ours.
    import torch

    theirs: Any = PeftModel.from_pretrained(load_checkpoint(base)[0], str(adapter)).eval()
    ours, tokenizer = load_checkpoint(adapter)
    ids = torch.tensor([tokenizer("AURUM crash BUY")["input_ids"]])
    assert torch.allclose(theirs(input_ids=ids).logits, ours(input_ids=ids).logits, atol=1e-5)


async def test_the_same_training_gives_the_same_bytes(
    adapter: Path, base: Path, tmp_path: Path, episodes: list[TrainableEpisode]
) -> None:
    again = await train(base, tmp_path / "again", episodes)
    assert read_manifest(again)["files"] == read_manifest(adapter)["files"]
    other = await train(base, tmp_path / "other", episodes, replace(LORA, seed=1))
    assert read_manifest(other)["files"] != read_manifest(adapter)["files"]


async def test_an_adapter_is_trained_on_and_can_be_merged(
    adapter: Path, base: Path, tmp_path: Path, episodes: list[TrainableEpisode]
) -> None:
    further = await train(adapter, tmp_path / "further", episodes)
    assert base_of(further) == base and sampled(further) != sampled(adapter)
    whole = await train(
        adapter, tmp_path / "whole", episodes, EmbeddedTrainConfig(learning_rate=0.0, epochs=1)
    )
    assert not (whole / ADAPTER_CONFIG).exists() and sampled(whole) == sampled(adapter)
    on_top = await train(whole, tmp_path / "on_top", episodes)
    assert base_of(on_top) == whole


def test_a_moved_home_keeps_its_adapters(copy: Path, adapter: Path, tmp_path: Path) -> None:
    assert base_of(copy).parent == tmp_path / "models"
    assert sampled(copy) == sampled(adapter)


async def test_another_rank_is_refused(
    adapter: Path, tmp_path: Path, episodes: list[TrainableEpisode]
) -> None:
    with pytest.raises(AdapterMismatchError, match=r"it has rank 8, and LORA_RANK asks for 4"):
        await train(adapter, tmp_path / "x", episodes, replace(LORA, lora_rank=4))
    assert not os.listdir(tmp_path)


def test_another_base_model_is_refused(copy: Path, tmp_path: Path) -> None:
    base = base_of(copy)
    weights = bytearray((base / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (base / "model.safetensors").write_bytes(weights)
    vouch(base)
    with pytest.raises(AdapterMismatchError, match="trained on other weights than those of"):
        load_checkpoint(copy)
    shutil.rmtree(base)
    with pytest.raises(AdapterMismatchError, match="is not there"):
        load_checkpoint(copy)


def test_an_adapter_of_another_model_is_refused_by_name(copy: Path) -> None:
    change(copy / ADAPTER_CONFIG, base_model_name_or_path="Qwen/Qwen3-14B")
    vouch(copy)
    with pytest.raises(AdapterMismatchError, match="belongs to the base model Qwen/Qwen3-14B"):
        load_checkpoint(copy)


def lie_about_the_rank(adapter: Path) -> None:
    change(adapter / ADAPTER_CONFIG, r=4)


def drop_a_tensor(adapter: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(adapter / ADAPTER_WEIGHTS)
    tensors.pop(sorted(tensors)[0])
    save_file(tensors, adapter / ADAPTER_WEIGHTS)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lie_about_the_rank, "rank 4 on its base needs"),
        (drop_a_tensor, "has the shape None"),
        (lambda a: change(a / ADAPTER_CONFIG, r=0), "rank 0 is not between"),
        (lambda a: change(a / ADAPTER_CONFIG, r="8"), "rank '8' is not between"),
        (lambda a: change(a / ADAPTER_CONFIG, lora_alpha=None), "lora_alpha None"),
        (lambda a: change(a / ADAPTER_CONFIG, target_modules=["lm_head"]), "target_modules"),
        (lambda a: change(a / ADAPTER_CONFIG, modules_to_save=["lm_head"]), "modules_to_save"),
        (lambda a: change(a / ADAPTER_CONFIG, auto_mapping={"x": "y"}), "auto_mapping"),
        (lambda a: change(a / ADAPTER_CONFIG, use_dora=True), "variant of LoRA"),
        (lambda a: change(a / ADAPTER_CONFIG, peft_type="IA3"), "does not describe a LoRA"),
        (lambda a: (a / ADAPTER_CONFIG).write_text("{"), "not readable"),
        (lambda a: (a / ADAPTER_WEIGHTS).write_bytes(b"junk"), "Error while deserializing|header"),
        (lambda a: (a / ADAPTER_WEIGHTS).rename(a / "adapter_model.bin"), "may hold a pickle"),
    ],
)
def test_what_is_wrong_is_named(copy: Path, spoil: Callable[[Path], object], reason: str) -> None:
    spoil(copy)
    vouch(copy)
    with pytest.raises(CheckpointError, match=reason) as refusal:
        load_checkpoint(copy)
    assert str(copy) in str(refusal.value)


def test_a_changed_checksum_is_refused(copy: Path) -> None:
    change(copy / ADAPTER_CONFIG, lora_alpha=1e9)
    with pytest.raises(CheckpointError, match=f"{ADAPTER_CONFIG} does not match its checksum"):
        load_checkpoint(copy)


def test_only_the_adapter_is_trained(adapter: Path) -> None:
    network, _ = load_adapter(adapter)
    trained = [name for name, value in network.named_parameters() if value.requires_grad]
    assert trained and all("lora_" in name for name in trained)
