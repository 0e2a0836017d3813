"""Answers of a server: told what they cost, limited, and never paid for twice."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from babylon_rl.database.connection import Databases, connect
from babylon_rl.deployment.forget import forget_agent
from babylon_rl.deployment.paid_answers import AnswerBudgetError, spent_today
from babylon_rl.deployment.resampled_day import resampled_batch
from babylon_rl.policy.engine import EmbeddedEngine
from babylon_rl.policy.server import PolicyServer
from babylon_rl.records.store import ArtifactStore
from babylon_rl.serving import target_policy
from babylon_rl.serving.target_policy import CONCURRENCY, UnansweredError
from babylon_rl.settings import Settings
from babylon_rl.training.batch import BatchRules, TrainingBatch
from babylon_rl_tests.deployment.resampled import FEW, Counted, Saying, copied, day, db, played

__all__ = ["copied", "day", "db", "played"]

pytestmark = pytest.mark.anyio

PROMPTS, ANSWERS = 12, 4
ALL = PROMPTS * ANSWERS
PRICES = {
    "serverless_request": 0.01,
    "serverless_million_prompt_tokens": 100,
    "serverless_million_answer_tokens": 1000,
}


class Asking:
    """A day that is asked for, under settings of its own."""

    def __init__(self, db: Databases, settings: Settings, day: str, prices: Path) -> None:
        self.db, self.settings, self.day, self.prices = db, settings, day, prices
        self.store = ArtifactStore(settings.home / "artifacts")
        self.said: list[str] = []

    async def of(
        self, server: PolicyServer, rules: BatchRules = FEW, db: Databases | None = None, **changes: Any
    ) -> TrainingBatch:
        there = self.settings.model_copy(update={**upstream(server), "price_table": self.prices, **changes})
        return await resampled_batch(db or self.db, self.store, there, self.day, rules, self.said.append)


def upstream(server: PolicyServer) -> dict[str, Any]:
    return {
        "gateway_upstream_url": server.base_url,
        "gateway_upstream_api_key": SecretStr(server.api_key),
        "resample_prompts": PROMPTS,
        "resample_answers": ANSWERS,
    }


@pytest.fixture
def prices(tmp_path: Path) -> Path:
    file = tmp_path / "prices.json"
    file.write_text(json.dumps(PRICES))
    return file


@pytest.fixture
def asking(db: Databases, settings: Settings, home_with_base: Path, day: str, prices: Path) -> Asking:
    return Asking(db, settings, day, prices)


@pytest.fixture
async def committed(
    copied: str, settings: Settings, home_with_base: Path, day: str, prices: Path
) -> AsyncIterator[Asking]:
    connection = await connect(copied)
    yield Asking(Databases(game=connection, rl=connection), settings, day, prices)
    await connection.close()


async def test_the_estimate_comes_first_and_the_bill_is_in_the_batch(
    asking: Asking, base_engine: EmbeddedEngine
) -> None:
    policy = Counted(base_engine)
    with PolicyServer(policy) as server:
        batch = await asking.of(server)
        assert batch.status == "ready", batch.reason
        assert policy.asked == ALL and f"{ALL} paid answers, about" in asking.said[1]
        bill = {name: batch.diagnostics[f"paid_{name}"] for name in ("prompt_tokens", "answer_tokens", "usd")}
        assert batch.diagnostics["paid_answers"] == ALL and bill["answer_tokens"] > 0
        exact = ALL * 0.01 + bill["prompt_tokens"] / 1e4 + bill["answer_tokens"] / 1e3
        assert bill["usd"] == pytest.approx(exact), "tokens as the server counted them"
        assert await spent_today(asking.db.rl) == pytest.approx(exact)
        harder = await asking.of(server, BatchRules(min_groups=500, min_episodes=4))
    assert harder.status == "empty" and policy.asked == ALL, "other rules, the same answers"
    assert harder.diagnostics["paid_usd"] == pytest.approx(exact)
    assert f"0 paid answers ({ALL} more are there already)" in asking.said[3]


async def test_a_budget_refuses_before_the_first_request(asking: Asking, base_engine: EmbeddedEngine) -> None:
    policy = Counted(base_engine)
    with PolicyServer(policy) as server:
        with pytest.raises(
            AnswerBudgetError, match=r"exceed the budget: \$0.00 of the day's \$0.3"
        ) as refused:
            await asking.of(server, resample_daily_budget_usd=0.3)
        assert "RESAMPLE_DAILY_BUDGET_USD" in refused.value.remedy and "48 paid answers" in asking.said[1]
        await asking.db.rl.execute(
            "INSERT INTO rl.paid_answers (request_key, version, agent_id, cost_usd) VALUES ('', '', '', 4.9)"
        )
        with pytest.raises(AnswerBudgetError, match=r"\$4.90 of the day's \$5"):
            await asking.of(server)
        await asking.db.rl.execute("UPDATE rl.paid_answers SET asked_at = now() - interval '25 hours'")
        assert policy.asked == 0
        assert (await asking.of(server)).status == "ready", "another day, another budget"


async def test_the_budget_holds_in_mid_run_too(asking: Asking, base_engine: EmbeddedEngine) -> None:
    """Answers that turn out to cost more than estimated: the next one is not asked, those there are kept."""
    long = Saying(lambda request: "HOLD", token_ids=[2] * 60, logprobs=[-0.1] * 60)
    with PolicyServer(long) as server:
        with pytest.raises(AnswerBudgetError, match="what was answered is kept"):
            await asking.of(server, resample_daily_budget_usd=1.5)
    kept = int(await asking.db.rl.fetchval("SELECT count(answer) FROM rl.paid_answers") or 0)
    assert 0 < kept == len(long.asked) < ALL


async def test_a_server_that_breaks_is_paid_for_what_it_answered(
    asking: Asking, base_engine: EmbeddedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(target_policy, "FIRST_WAIT", 0.01)
    breaking, whole = Counted(base_engine, enough=20), Counted(base_engine)
    with PolicyServer(breaking) as server, pytest.raises(UnansweredError, match="did not answer"):
        await asking.of(server)
    rows = await asking.db.rl.fetch("SELECT answer IS NULL AS missing, cost_usd FROM rl.paid_answers")
    assert sum(not row["missing"] for row in rows) == breaking.asked >= 20
    assert all(row["cost_usd"] == pytest.approx(0) for row in rows if row["missing"]), "nothing is reserved"
    with PolicyServer(whole) as server:
        batch = await asking.of(server)
    assert batch.status == "ready" and breaking.asked + whole.asked == ALL


ASK = """
import asyncio
from babylon_rl.database.connection import open_databases
from babylon_rl.deployment.resampled_day import resampled_batch
from babylon_rl.records.store import ArtifactStore
from babylon_rl.settings import get_settings
from babylon_rl.training.batch import BatchRules

async def main(day):
    settings, rules = get_settings(), BatchRules(min_groups=2, min_episodes=4)
    async with open_databases(settings) as db:
        await resampled_batch(db, ArtifactStore(settings.home / "artifacts"), settings, day, rules, print)

asyncio.run(main("DAY"))
"""


async def test_a_killed_run_pays_again_only_for_what_was_under_way(
    committed: Asking, copied: str, base_engine: EmbeddedEngine
) -> None:
    policy = Counted(base_engine)
    with PolicyServer(policy) as server:
        environment = {
            **{name: os.environ[name] for name in ("PATH", "BABYLON_HOME")},
            "DATABASE_URL": copied,
            "GATEWAY_UPSTREAM_URL": server.base_url,
            "GATEWAY_UPSTREAM_API_KEY": server.api_key,
            "RESAMPLE_PROMPTS": str(PROMPTS),
            "RESAMPLE_ANSWERS": str(ANSWERS),
            "PRICE_TABLE": str(committed.prices),
        }
        command = [sys.executable, "-c", ASK.replace("DAY", committed.day)]
        run = await asyncio.create_subprocess_exec(
            *command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        while policy.asked < 20 and run.returncode is None:  # noqa: ASYNC110  (the server is a thread)
            await asyncio.sleep(0.001)
        assert run.returncode is None, (await run.communicate())[1].decode()
        run.send_signal(signal.SIGKILL)
        await run.communicate()
        kept = int(await committed.db.rl.fetchval("SELECT count(answer) FROM rl.paid_answers") or 0)
        assert 0 < kept < ALL
        batch = await committed.of(server)
    assert batch.status == "ready" and batch.diagnostics["paid_answers"] == ALL
    assert policy.asked - ALL <= CONCURRENCY < 20


async def test_two_at_once_ask_once(committed: Asking, copied: str, base_engine: EmbeddedEngine) -> None:
    policy, other = Counted(base_engine), await connect(copied)
    with PolicyServer(policy) as server:
        second = Databases(game=other, rl=other)
        one, two = await asyncio.gather(committed.of(server), committed.of(server, db=second))
    await other.close()
    assert one.sha256 == two.sha256 and policy.asked == ALL


async def test_embedded_answers_cost_nothing(asking: Asking, base_checkpoint: Path) -> None:
    await asking.db.rl.execute("UPDATE rl.models SET storage_path = $1", base_checkpoint.as_uri())
    free = asking.settings.model_copy(
        update={"resample_prompts": PROMPTS, "resample_answers": ANSWERS, "resample_daily_budget_usd": 0.0}
    )
    batch = await resampled_batch(asking.db, asking.store, free, asking.day, FEW, asking.said.append)
    assert batch.status == "ready" and "paid_usd" not in batch.diagnostics and len(asking.said) == 1
    assert await asking.db.rl.fetchval("SELECT count(*) FROM rl.paid_answers") == 0


async def test_a_forgotten_agent_is_in_no_answer_and_no_batch(
    asking: Asking, base_engine: EmbeddedEngine
) -> None:
    with PolicyServer(base_engine) as server:
        batch = await asking.of(server)
    agent = batch.prompts[0]["agent_id"]
    rl = asking.db.rl
    report = await forget_agent(rl, rl, asking.store, asking.settings, agent)
    assert report.pipeline_rows["paid_answers"] > 0
    query = "SELECT uri FROM rl.training_batches WHERE batch_sha256 = $1"
    uri = str(await rl.fetchval(query, batch.sha256))
    assert uri != batch.uri and agent not in str(asking.store.get(uri))
