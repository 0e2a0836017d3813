"""Checkpoints to deploy: the tiny base model with other weights, and ways to spoil them."""

import shutil
from pathlib import Path

import asyncpg

from babylon_rl.deployment import registry
from babylon_rl.deployment.deploy import deploy
from babylon_rl.deployment.registry import ModelRecord
from babylon_rl.policy.checkpoints import load_checkpoint, read_manifest, save_checkpoint


def trained(base_checkpoint: Path, path: Path, seed: int = 1) -> Path:
    """The base model with a little noise on its weights."""
    import torch

    if path.exists():
        return path
    model, tokenizer = load_checkpoint(base_checkpoint)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weights in model.parameters():
            weights += 0.02 * torch.randn(weights.shape, generator=generator)
    manifest = {key: value for key, value in read_manifest(base_checkpoint).items() if key != "files"}
    save_checkpoint(path, model, tokenizer, manifest)
    return path


async def deployed(rl: asyncpg.Connection, path: Path) -> ModelRecord:
    """Deploys a checkpoint under the next version."""
    model = await registry.register(rl, parent_version="v0.0.0", storage_path=path.as_uri())
    await deploy(rl, None, model.version, reason="test", verdict_required=False)
    return model


def copied(base_checkpoint: Path, path: Path) -> Path:
    """The base model itself under another name, as a broken training would leave it."""
    return Path(shutil.copytree(base_checkpoint, path))


def spoil(path: Path) -> None:
    (path / "model.safetensors").write_bytes(b"spoiled")
