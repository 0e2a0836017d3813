"""Calls without log-probabilities, read again by the checkpoint that answered them, on a real database."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import asyncpg
import msgspec
import pytest

from babylon_rl.database.connection import open_databases
from babylon_rl.deployment.candidates import TRAINED, ensure_base, train_day
from babylon_rl.policy.checkpoints import load_checkpoint, save_checkpoint
from babylon_rl.policy.engine import EmbeddedEngine
from babylon_rl.records.call_digest import content_sha256
from babylon_rl.records.steps import LlmCall
from babylon_rl.records.store import ArtifactStore
from babylon_rl.scoring.groups import ScoredGroup
from babylon_rl.settings import Settings
from babylon_rl.training.batch import READY, BatchRules, build_batch, load_batch
from babylon_rl.training.eligibility import Eligibility
from babylon_rl.training.rescoring import rescore
from babylon_rl.training.selection import Selection
from babylon_rl_tests.played import DAY, play_day, store_groups
from babylon_rl_tests.shared_database import dsn, file_dsn

__all__ = ["dsn", "file_dsn"]

pytestmark = pytest.mark.anyio

SMALL = BatchRules(min_groups=1, min_episodes=2)


@pytest.fixture(scope="module")
def played(base_engine: EmbeddedEngine) -> list[ScoredGroup]:
    return play_day(base_engine, windows=2, agents=4, seed=3)


@pytest.fixture
def groups(played: list[ScoredGroup]) -> list[ScoredGroup]:
    """A copy that may be changed."""
    return msgspec.convert(msgspec.to_builtins(played), list[ScoredGroup])


@pytest.fixture(scope="module")
def other_checkpoint(base_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The base model with a head that is a little off."""
    import torch

    model, tokenizer = load_checkpoint(base_checkpoint)
    with torch.no_grad():
        model.lm_head.weight.mul_(0.9)
    folder = tmp_path_factory.mktemp("other") / "model"
    save_checkpoint(folder, model, tokenizer, {"base_model": "tiny"})
    return folder


@pytest.fixture
async def base_model(connection: asyncpg.Connection, base_checkpoint: Path) -> None:
    await register(connection, "v0.0.0", base_checkpoint.as_uri())


async def register(
    rl: asyncpg.Connection, version: str, address: str | None, status: str = "ready", **manifest: Any
) -> None:
    await rl.execute(
        """INSERT INTO rl.models (version, model_id, base_model, storage_path, status, manifest)
           VALUES ($1, $1, 'tiny', $2, $3, $4)""",
        version,
        address,
        status,
        manifest,
    )


def calls_of(groups: Iterable[ScoredGroup]) -> list[LlmCall]:
    return [call for group in groups for member in group.members for call in member.calls]


def forget(groups: Iterable[ScoredGroup], *, ids: bool = True) -> list[list[float]]:
    """Takes the log-probabilities (and token ids) away, and returns them."""
    known = []
    for call in calls_of(groups):
        known.append(list(call.logprobs or []))
        call.logprobs = None
        if ids:
            call.token_ids = call.prompt_token_ids = None
    for group in groups:
        for member in group.members:
            member.trainable = False
    return known


def furthest(calls: Iterable[LlmCall], known: Iterable[list[float]]) -> float:
    return max(
        abs(one - other)
        for call, values in zip(calls, known, strict=True)
        for one, other in zip(call.logprobs or [], values, strict=True)
    )


@pytest.mark.parametrize("ids", [False, True], ids=["ids are kept", "text alone"])
async def test_what_the_engine_recorded_is_found_again(
    connection: asyncpg.Connection, base_model: None, groups: list[ScoredGroup], ids: bool
) -> None:
    tokens = [call.token_ids for call in calls_of(groups)]
    prompts = [call.prompt_token_ids for call in calls_of(groups)]
    known = forget(groups, ids=ids)
    renewed, found = await rescore(connection, groups)
    assert found == {"rescored": 32}
    calls = calls_of(renewed)
    assert [call.token_ids for call in calls] == tokens
    assert [call.prompt_token_ids for call in calls] == prompts
    assert furthest(calls, known) < 1e-4
    assert all(member.trainable for group in renewed for member in group.members)


async def test_another_checkpoint_gives_other_numbers(
    connection: asyncpg.Connection, base_model: None, groups: list[ScoredGroup], other_checkpoint: Path
) -> None:
    await register(connection, "v0.0.1", other_checkpoint.as_uri())
    known = forget(groups)
    for call in calls_of(groups)[::2]:
        call.policy_version = "v0.0.1"
    renewed, found = await rescore(connection, groups)
    assert found == {"rescored": 32}
    assert furthest(calls_of(renewed)[1::2], known[1::2]) < 1e-4
    assert furthest(calls_of(renewed)[::2], known[::2]) > 1e-2


async def test_a_call_that_has_logprobs_stays_as_it_is(
    connection: asyncpg.Connection, base_model: None, groups: list[ScoredGroup]
) -> None:
    before = msgspec.to_builtins(groups)
    renewed, found = await rescore(connection, groups)
    assert found == {} and msgspec.to_builtins(renewed) == before


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"policy_version": None}, "not_ours"),
        ({"policy_version": "gpt-5", "temperature": 0.7}, "not_ours"),
        ({"policy_version": "v0.0.7\0"}, "not_ours"),
        ({"policy_version": "v0.0.5"}, "not_ours"),
        ({"policy_version": "v0.0.1"}, "checkpoint_not_held"),
        ({"policy_version": "v0.0.2"}, "checkpoint_not_held"),
        ({"policy_version": "v0.0.3"}, "checkpoint_not_held"),
        ({"policy_version": "v0.0.4"}, "checkpoint_not_held"),
        ({"temperature": 0}, "other_sampling"),
        ({"temperature": 0.7}, "other_sampling"),
        ({"temperature": None}, "other_sampling"),
        ({"top_p": 0.9}, "other_sampling"),
        ({"finish_reason": "length"}, "cut"),
        ({"finish_reason": "content_filter"}, "cut"),
        ({"finish_reason": None, "max_tokens": 1}, "cut"),
        ({"response": " "}, "empty_answer"),
        ({"chat_template_hash": "another"}, "other_chat_template"),
        ({"messages": [{"role": "user", "content": None}]}, "unreadable_prompt"),
        ({"messages": [{"role": "user", "content": "BUY " * 300}]}, "prompt_too_long"),
        ({"finish_reason": None, "top_p": 1, "chat_template_hash": None}, "rescored"),
    ],
)
async def test_every_call_is_counted_with_what_became_of_it(
    connection: asyncpg.Connection,
    base_model: None,
    base_checkpoint: Path,
    groups: list[ScoredGroup],
    tmp_path: Path,
    changes: dict[str, Any],
    reason: str,
) -> None:
    await register(connection, "v0.0.1", (tmp_path / "gone").as_uri())
    await register(connection, "v0.0.2", "wandb-artifact:///entity/project/agent:step3")
    await register(connection, "v0.0.3", base_checkpoint.as_uri(), backend="local")
    (tmp_path / "damaged").mkdir()
    await register(connection, "v0.0.4", (tmp_path / "damaged").as_uri())
    await register(connection, "v0.0.5", base_checkpoint.as_uri(), status="failed")
    call = calls_of(groups)[0]
    call.logprobs = call.token_ids = None
    for name, value in changes.items():
        setattr(call, name, value)
    renewed, found = await rescore(connection, groups)
    assert found == {reason: 1}
    first = calls_of(renewed)[0]
    assert first.has_tokens == (reason == "rescored") and (first is call) == (reason != "rescored")


async def test_ids_that_do_not_say_what_was_answered_are_not_believed(
    connection: asyncpg.Connection, base_model: None, groups: list[ScoredGroup]
) -> None:
    calls = calls_of(groups)[:3]
    tokens = [list(call.token_ids or []) for call in calls]
    for call, other in zip(calls, ([10**9], [-1, 3], tokens[3 - 1][::-1]), strict=True):
        call.token_ids, call.logprobs = other, None
    renewed, found = await rescore(connection, groups)
    assert found == {"rescored": 3}
    assert [call.token_ids for call in calls_of(renewed)[:3]] == tokens


async def test_a_checkpoint_that_was_copied_away_is_read_where_it_was_made(
    connection: asyncpg.Connection, home_with_base: Path, base_checkpoint: Path, groups: list[ScoredGroup]
) -> None:
    (home_with_base / "checkpoints").mkdir()
    (home_with_base / "checkpoints" / "unit").symlink_to(base_checkpoint)
    await register(connection, "v0.0.0", "s3://bucket/models/unit")
    forget(groups)
    assert (await rescore(connection, groups))[1] == {"rescored": 32}


async def test_a_day_without_logprobs_becomes_the_batch_that_it_would_have_been(
    connection: asyncpg.Connection, base_model: None, groups: list[ScoredGroup], tmp_path: Path
) -> None:
    known = forget(groups)
    calls_of(groups)[0].temperature = 0.7
    calls_of(groups)[5].policy_version = "gpt-5"
    store = ArtifactStore(tmp_path)
    await store_groups(connection, store, groups)
    batch = await build_batch(connection, store, DAY, SMALL)
    assert (batch.status, batch.calls, batch.policy_versions) == (READY, 30, {"v0.0.0": 30})
    assert batch.without_logprobs == {"not_ours": 1, "other_sampling": 1, "rescored": 30}
    assert batch.dropped == {"no_logprobs": 2}
    loaded, episodes = load_batch(store, batch.uri)
    assert loaded == batch and {episode.advantage > 0 for episode in episodes} == {True, False}
    trained = [call for episode in episodes for call in episode.calls]
    expected = [values for number, values in enumerate(known) if number not in (0, 5)]
    assert (
        max(
            abs(one - other)
            for call, values in zip(trained, expected, strict=True)
            for one, other in zip(call.logprobs, values, strict=True)
        )
        < 1e-4
    )
    assert await build_batch(connection, store, DAY, SMALL) == batch
    capped = await build_batch(connection, store, DAY, SMALL, Selection(cap=6))
    assert capped.episodes == 6, "whoever is scored again counts as trainable"


async def test_in_production_only_what_the_gateway_served_is_scored_again(
    connection: asyncpg.Connection, base_model: None, groups: list[ScoredGroup], tmp_path: Path
) -> None:
    known = forget(groups)
    call = calls_of(groups)[0]
    await connection.execute(
        """INSERT INTO rl.llm_calls (response_id, agent_id, agent_verified, started_at, latency_ms,
               requested_model, version, fallback, attempts, stream, status, messages, parameters,
               temperature, top_p, finish_reason, content_sha256, untrainable, capture_level)
           VALUES ($1, 'agent-0', true, now(), 1, 'm', 'v0.0.0', false, 1, false, 200, '[]',
               '{"temperature": 1, "top_p": 1}', 1, 1, 'stop', $2, 'no_tokens', 'process')""",
        call.response_id,
        content_sha256(call.chat_messages(), call.response),
    )
    store = ArtifactStore(tmp_path)
    await store_groups(connection, store, groups)
    takes = Eligibility(unconfirmed="drop", foreign_text="positive")
    batch = await build_batch(connection, store, DAY, BatchRules(1, 1, takes=takes))
    assert (batch.calls, batch.dropped, batch.without_logprobs) == (1, {"unconfirmed": 31}, {"rescored": 1})
    [episode] = load_batch(store, batch.uri)[1]
    assert episode.calls[0].logprobs == pytest.approx(known[0], abs=1e-4)


async def test_a_day_that_nobody_kept_logprobs_of_trains(
    connection: asyncpg.Connection, settings: Settings, home_with_base: Path, groups: list[ScoredGroup]
) -> None:
    await ensure_base(connection, settings)
    forget(groups)
    store = ArtifactStore(settings.home / "artifacts")
    await store_groups(connection, store, groups)
    await build_batch(connection, store, DAY, SMALL)
    async with open_databases(settings) as db:
        trained = await train_day(db, store, settings, DAY)
    assert (trained.status, trained.parent.model.version) == (TRAINED, "v0.0.0")
    assert trained.batch.without_logprobs == {"rescored": 32}
    assert trained.metrics["off_policy/ratio_mean"] == pytest.approx(1, abs=1e-4)
    assert trained.metrics["off_policy/ratio_max"] == pytest.approx(1, abs=1e-3)
    assert trained.metrics["off_policy/without_logprobs_share"] == 0.0
    assert all(map(math.isfinite, trained.metrics["losses"]))
