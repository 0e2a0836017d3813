"""A day's same-prompt groups: the parent answers recorded prompts anew, once, priced by what happened."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydantic import SecretStr

from babylon_rl.database.connection import Databases
from babylon_rl.deployment import registry
from babylon_rl.deployment.resampled_day import find_batch
from babylon_rl.deployment.resampling import (
    build_resampled,
    day_prompts,
    key_of,
)
from babylon_rl.policy.engine import EmbeddedEngine
from babylon_rl.policy.server import PolicyServer
from babylon_rl.records.store import ArtifactStore
from babylon_rl.serving.target_policy import UnansweredError, open_policy
from babylon_rl.settings import Settings
from babylon_rl.training.batch import BatchRules, load_batch
from babylon_rl.windows import windows_of_day
from babylon_rl_tests.deployment.resampled import FEW, RULES, Counted, day, db, played

__all__ = ["day", "db", "played"]

pytestmark = pytest.mark.anyio


async def test_a_day_becomes_groups_of_one_prompt_each_once(
    db: Databases, day: str, base_engine: EmbeddedEngine, tmp_path: Path
) -> None:
    store, policy = ArtifactStore(tmp_path), Counted(base_engine)
    found = await day_prompts(db, day, RULES)
    assert len(found.decisions) == 24 and found.windows >= 20 and not found.leaks
    batch = await build_resampled(db, store, day, policy, found, RULES, FEW)
    assert (batch.status, batch.grouping) == ("ready", "resample"), batch.reason
    assert policy.asked == 24 * 4 and batch.policy_versions == {base_engine.version: batch.calls}
    assert batch.calls + sum(batch.dropped.values()) == 24 * 4
    _, episodes = load_batch(store, batch.uri)
    by_group: dict[str, list[float]] = {}
    for episode in episodes:
        assert episode.recorded_window in windows_of_day(day)
        assert len(episode.calls[0].token_ids) == len(episode.calls[0].logprobs) > 0
        by_group.setdefault(episode.window_id, []).append(episode.advantage)
    whole = [group for group in by_group.values() if len(group) == 4]
    assert whole and all(abs(sum(group)) < 1e-9 for group in whole), "the group is its own baseline"
    key = key_of(base_engine.version, await day_prompts(db, day, RULES), RULES, FEW)
    again = await find_batch(db.rl, store, day, key)
    assert again is not None and again.sha256 == batch.sha256
    repeated = await build_resampled(db, ArtifactStore(tmp_path / "other"), day, policy, found, RULES, FEW)
    assert repeated.sha256 == batch.sha256, "the same answers: they follow from the prompts and the policy"
    assert await find_batch(db.rl, store, day, key_of("v9.9.9", found, RULES, FEW)) is None
    other = key_of(base_engine.version, found, replace(RULES, answers=5), FEW)
    assert await find_batch(db.rl, store, day, other) is None


async def test_windows_wait_until_their_orders_have_matured(
    db: Databases, day: str, base_engine: EmbeddedEngine, tmp_path: Path
) -> None:
    noon = datetime.fromisoformat(f"{day}T12:30").replace(tzinfo=UTC)
    some = await day_prompts(db, day, RULES, now=noon)
    assert some.immature > 0 and {one.window_id for one in some.decisions} <= {
        f"{day}T{hour:02}:00" for hour in range(11)
    }
    early = datetime.fromisoformat(f"{day}T00:30").replace(tzinfo=UTC)
    none = await day_prompts(db, day, RULES, now=early)
    policy = Counted(base_engine)
    batch = await build_resampled(db, ArtifactStore(tmp_path), day, policy, none, RULES, FEW, now=early)
    assert batch.status == "empty" and "not matured yet" in batch.reason and policy.asked == 0


async def test_a_day_without_prompts_and_one_with_too_few_say_why(
    db: Databases, base_engine: EmbeddedEngine, tmp_path: Path, day: str
) -> None:
    store = ArtifactStore(tmp_path)
    nothing = await day_prompts(db, "2020-01-01", RULES)
    batch = await build_resampled(db, store, "2020-01-01", base_engine, nothing, RULES, FEW)
    assert batch.status == "empty" and "no matured window" in batch.reason
    found = await day_prompts(db, day, RULES)
    much = BatchRules(min_groups=25, min_episodes=4)
    batch = await build_resampled(db, store, day, base_engine, found, RULES, much)
    assert batch.status == "empty" and "of at least 25" in batch.reason


async def test_a_server_answers_with_tokens_and_one_that_is_gone_is_told(
    db: Databases,
    day: str,
    base_engine: EmbeddedEngine,
    base_checkpoint: Path,
    settings: Settings,
    tmp_path: Path,
) -> None:
    """A model at an OpenAI-compatible address; without log-probabilities nothing of it is trained."""
    found = await day_prompts(db, day, replace(RULES, prompts=6))
    model = await registry.get(db.rl, "v0.0.0")
    with PolicyServer(base_engine) as server:
        there = settings.model_copy(
            update={
                "gateway_upstream_url": server.base_url,
                "gateway_upstream_api_key": SecretStr(server.api_key),
                "base_model": "babylon-agent",
            }
        )
        async with open_policy(there, model) as policy:
            batch = await build_resampled(db, ArtifactStore(tmp_path), day, policy, found, RULES, FEW)
        told = batch.dropped.get("no_logprobs", 0) + batch.calls
        assert told > 0 and batch.diagnostics["answers_priced"] > 0
    async with open_policy(there, model) as policy:
        with pytest.raises(UnansweredError, match="did not answer"):
            await build_resampled(db, ArtifactStore(tmp_path), day, policy, found, RULES, FEW)


async def test_the_embedded_engine_is_used_itself(
    db: Databases, settings: Settings, base_checkpoint: Path
) -> None:
    await db.rl.execute("UPDATE rl.models SET storage_path = $1", base_checkpoint.as_uri())
    record = await registry.get(db.rl, "v0.0.0")
    async with open_policy(settings, record) as policy:
        assert isinstance(policy, EmbeddedEngine) and policy.version == "v0.0.0"


async def test_a_batch_that_is_found_again_is_the_one_that_is_trained(
    db: Databases, day: str, base_engine: EmbeddedEngine, tmp_path: Path
) -> None:
    store = ArtifactStore(tmp_path)
    found = await day_prompts(db, day, RULES)
    batch = await build_resampled(db, store, day, base_engine, found, RULES, FEW)
    await db.rl.execute("UPDATE rl.training_batches SET created_at = created_at - interval '1 hour'")
    await db.rl.execute(
        """INSERT INTO rl.training_batches (batch_sha256, day, uri, status, groups, episodes, calls, config)
           VALUES ('w', $1::text::date, 'windows', 'ready', 1, 1, 1, '{}')""",
        day,
    )
    await db.rl.execute(
        "UPDATE rl.training_batches SET created_at = now() - interval '1 minute' WHERE batch_sha256 = 'w'"
    )
    assert await find_batch(db.rl, store, day, key_of(base_engine.version, found, RULES, FEW)) is not None
    newest = (
        "SELECT batch_sha256 FROM rl.training_batches WHERE day = $1::text::date ORDER BY created_at DESC"
    )
    assert await db.rl.fetchval(newest, day) == batch.sha256
