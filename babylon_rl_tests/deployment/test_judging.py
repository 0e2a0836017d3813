"""Judging on a real database: one verdict per candidate, on markets that follow from its weights."""

import json
from collections.abc import AsyncIterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from babylon_rl.database.connection import Databases, open_databases
from babylon_rl.deployment import registry
from babylon_rl.deployment.candidates import ensure_base
from babylon_rl.deployment.deploy import deploy
from babylon_rl.deployment.errors import UnknownVersionError
from babylon_rl.deployment.judging import content_key, judge, open_vault
from babylon_rl.deployment.registry import ModelRecord
from babylon_rl.deployment.storage import RemoteCheckpointError, local_path
from babylon_rl.policy.checkpoints import load_checkpoint, save_checkpoint
from babylon_rl.policy.errors import CheckpointError
from babylon_rl.settings import Settings

pytestmark = pytest.mark.anyio

WINDOWS = 48


@pytest.fixture
async def db(anyio_backend: str, settings: Settings, home_with_base: Path) -> AsyncIterator[Databases]:
    async with open_databases(settings) as databases:
        await ensure_base(databases.rl, settings)
        yield databases


async def candidate(db: Databases, folder: Path, noise: float = 0.0, parent: str = "v0.0.0") -> ModelRecord:
    """Registers the base model with noise on its weights: at 0.02 it trades alike, at 1 it babbles."""
    import torch

    base = await registry.get(db.rl, "v0.0.0")
    model, tokenizer = load_checkpoint(local_path(base))
    number = len(await registry.list_models(db.rl))
    torch.manual_seed(number)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += max(noise, 1e-4) * torch.randn_like(parameter)
    manifest = save_checkpoint(folder / f"candidate-{number}", model, tokenizer, {"parent": parent})
    return await registry.register(
        db.rl,
        parent_version=parent,
        storage_path=(folder / f"candidate-{number}").as_uri(),
        manifest=manifest,
        day=date(2026, 10, number),
    )


async def test_a_candidate_is_judged_once(db: Databases, settings: Settings, tmp_path: Path) -> None:
    model = await candidate(db, tmp_path)
    first = await judge(db, settings, model.version, WINDOWS)
    assert first.verdict == "inconclusive" and first.windows == WINDOWS and first.incumbent == "v0.0.0"
    assert first.seed_key == content_key(model) and first.reason and "chance" in first.reason
    assert await judge(db, settings, model.version, WINDOWS) == first
    assert await judge(db, settings, model.version, 2 * WINDOWS) == first, "more markets do not re-roll it"
    assert await db.rl.fetchval("SELECT count(*) FROM rl.benchmarks") == 1

    judged = await registry.get(db.rl, model.version)
    assert judged.verdict == "inconclusive"
    metrics = judged.metrics["benchmark"]
    assert set(metrics["standings"]) == {model.version, "v0.0.0", "hold", "random", "oracle"}
    assert metrics["benchmark_score"] == metrics["standings"][model.version]["return_mean"]
    assert 0 < metrics["accuracy"] < 1 and metrics["criteria"]
    json.dumps(metrics, allow_nan=False)
    shown = await db.game.fetchrow('SELECT * FROM "trained_models" WHERE "version" = $1', model.version)
    assert shown is not None and shown["benchmarkScore"] == pytest.approx(metrics["benchmark_score"])
    assert shown["accuracy"] == pytest.approx(metrics["accuracy"]) and shown["evalMetrics"]


async def test_candidates_meet_different_markets(db: Databases, settings: Settings, tmp_path: Path) -> None:
    one, two = await candidate(db, tmp_path), await candidate(db, tmp_path, noise=0.01)
    records = [await judge(db, settings, model.version, WINDOWS) for model in (one, two)]
    assert records[0].seed_key != records[1].seed_key
    alphas = [record.metrics["verdict"]["difference"]["alpha"] for record in records]
    assert alphas[1] < alphas[0] <= settings.gate_alpha, "the error budget is spent over the candidates"


async def test_babble_is_rejected(db: Databases, settings: Settings, tmp_path: Path) -> None:
    model = await candidate(db, tmp_path, noise=1.0)
    record = await judge(db, settings, model.version, WINDOWS)
    assert record.verdict == "rejected" and "loses the answer format" in (record.reason or "")
    assert (await registry.get(db.rl, model.version)).verdict == "rejected"


async def test_the_threshold_decides_what_is_enough(
    db: Databases, settings: Settings, tmp_path: Path
) -> None:
    """With a threshold far below zero any candidate that keeps the format is promoted."""
    model = await candidate(db, tmp_path)
    generous = Settings(_env_file=None, database_url=settings.database_url, gate_threshold=-1.0)
    assert (await judge(db, generous, model.version, WINDOWS)).verdict == "promoted"


async def test_the_incumbent_is_the_active_model(db: Databases, settings: Settings, tmp_path: Path) -> None:
    serving, model = await candidate(db, tmp_path), await candidate(db, tmp_path)
    await deploy(db.rl, None, serving.version, reason="test", verdict_required=False)
    record = await judge(db, settings, model.version, WINDOWS)
    assert record.incumbent == serving.version
    assert set(record.metrics["standings"]) >= {model.version, serving.version, "v0.0.0"}


@pytest.mark.parametrize("whose", ["candidate", "incumbent", "base"])
async def test_a_corrupt_checkpoint_gives_one_clear_error_and_no_verdict(
    db: Databases, settings: Settings, tmp_path: Path, whose: str
) -> None:
    serving, model = await candidate(db, tmp_path), await candidate(db, tmp_path)
    await deploy(db.rl, None, serving.version, reason="test", verdict_required=False)
    spoiled = {"candidate": model, "incumbent": serving, "base": await registry.get(db.rl, "v0.0.0")}[whose]
    (local_path(spoiled) / "model.safetensors").write_bytes(b"spoiled")
    with pytest.raises(CheckpointError, match="model.safetensors does not match its checksum") as refusal:
        await judge(db, settings, model.version, WINDOWS)
    assert str(local_path(spoiled)) in str(refusal.value) and "\n" not in str(refusal.value)
    assert await db.rl.fetchval("SELECT count(*) FROM rl.benchmarks") == 0
    assert (await registry.get(db.rl, model.version)).verdict is None


async def test_what_cannot_be_judged_is_said(db: Databases, settings: Settings) -> None:
    with pytest.raises(UnknownVersionError, match="there is no model v0.0.7"):
        await judge(db, settings, "v0.0.7", WINDOWS)
    remote: dict[str, Any] = {"parent_version": "v0.0.0", "storage_path": "s3://bucket/x", "manifest": {}}
    model = await registry.register(db.rl, **remote)
    with pytest.raises(RemoteCheckpointError, match="s3://bucket/x"):
        await judge(db, settings, model.version, WINDOWS)


async def test_the_vault_decides_nothing_and_is_opened_once(
    db: Databases, settings: Settings, tmp_path: Path
) -> None:
    model = await candidate(db, tmp_path)
    result = await open_vault(db, model.version, WINDOWS)
    assert result.version == model.version and result.gain.n == WINDOWS
    assert set(result.standings) == {model.version, "v0.0.0", "hold", "random", "oracle"}
    assert await open_vault(db, model.version, WINDOWS) == result
    rows = await db.rl.fetch("SELECT * FROM rl.benchmarks")
    assert [(row["purpose"], row["verdict"], row["incumbent"]) for row in rows] == [("vault", None, "v0.0.0")]
    assert rows[0]["metrics"]["gain"]["mean"] == pytest.approx(result.gain.mean)
    assert (await registry.get(db.rl, model.version)).verdict is None

    gate = await judge(db, settings, model.version, WINDOWS)
    assert gate.seed_key != rows[0]["seed_key"]
    gains = (
        gate.metrics["standings"][model.version]["return_mean"],
        result.standings[model.version]["return_mean"],
    )
    assert gains[0] != gains[1], "the gate never sees the vault's markets"
