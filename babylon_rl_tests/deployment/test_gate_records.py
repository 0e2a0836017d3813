"""What a verdict leaves behind, and that two candidates at once do not spend the same share of the error."""

import asyncio
import json
import os
from pathlib import Path

import pytest

from babylon_rl.database.connection import Databases, open_databases
from babylon_rl.deployment.judging import judge
from babylon_rl.deployment.verdicts import all_benchmarks
from babylon_rl.settings import Settings
from babylon_rl_tests.deployment.test_judging import WINDOWS, candidate, db
from babylon_rl_tests.test_cli import babylon

__all__ = ["db"]
pytestmark = pytest.mark.anyio


async def test_a_verdict_is_stored_with_its_paragraph_and_its_company(
    db: Databases, settings: Settings, tmp_path: Path
) -> None:
    model = await candidate(db, tmp_path)
    await judge(db, settings, model.version, WINDOWS)
    [record] = await all_benchmarks(db.rl)
    text, verdict = record.metrics["explanation"], record.metrics["verdict"]
    for part in (
        model.version,
        "v0.0.0",
        f"{WINDOWS} one-hour markets",
        "candidate number 1",
        "0.05 / (1 × 2)",
    ):
        assert part in text
    assert f"{verdict['difference']['mean']:+.4f}" in text and verdict["difference"]["alpha"] == 0.025
    assert record.metrics["candidate_number"] == 1
    assert record.metrics["crowd"]["seats"] == 4 and record.metrics["crowd"]["all_candidates"]["n"] == WINDOWS


async def test_candidates_that_are_judged_at_once_spend_different_shares(
    db: Databases, settings: Settings, tmp_path: Path
) -> None:
    models = [await candidate(db, tmp_path), await candidate(db, tmp_path, noise=0.01)]

    async def judged(version: str) -> float:
        async with open_databases(settings) as own:
            return (await judge(own, settings, version, WINDOWS)).metrics["verdict"]["difference"]["alpha"]

    alphas = await asyncio.gather(*(judged(model.version) for model in models))
    assert sorted(alphas) == pytest.approx([0.05 / 6, 0.025])


async def test_a_judging_that_fails_lets_the_next_one_in(
    db: Databases, settings: Settings, tmp_path: Path
) -> None:
    model = await candidate(db, tmp_path)
    with pytest.raises(Exception, match="v0.0.9"):
        await judge(db, settings, "v0.0.9", WINDOWS)
    async with open_databases(settings) as own:
        assert (await judge(own, settings, model.version, WINDOWS)).verdict is not None


async def test_checkpoints_are_examined_from_the_command_line(
    db: Databases, settings: Settings, tmp_path: Path
) -> None:
    model = await candidate(db, tmp_path, noise=1.0)
    environment = {name: os.environ[name] for name in ("BABYLON_HOME", "DATABASE_URL", "PATH")}
    environment |= {"WANDB_MODE": "none"}
    made = await asyncio.to_thread(babylon, environment, "benchmark", "generate", "--ticks", "24")
    name, report = Path(made.stdout.strip()).name, tmp_path / "report"
    options = ("--model", "v0.0.0", "--model", model.version, "--company", "2", "--output", str(report))
    done = await asyncio.to_thread(babylon, environment, "benchmark", "run", name, *options, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert list(found["players"])[:2] == ["v0.0.0", model.version]
    assert found["players"][model.version]["invalid"] > found["players"]["v0.0.0"]["invalid"]
    assert set(found["populations"]) == {f"{model.version} against v0.0.0"}
    assert (report / "baseline-v0.0.0.json").exists() and "In company" in (report / "report.html").read_text()
