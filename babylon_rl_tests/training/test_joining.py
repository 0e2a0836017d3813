"""Recorded calls against the gateway's own record, on a real database."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import msgspec
import pytest

from babylon_rl.policy.engine import EmbeddedEngine
from babylon_rl.records.call_digest import content_sha256
from babylon_rl.records.steps import LlmCall
from babylon_rl.records.store import ArtifactStore
from babylon_rl.scoring.groups import RewardedDecision, ScoredGroup
from babylon_rl.settings import Settings
from babylon_rl.training.batch import BatchRules, build_batch, load_batch
from babylon_rl.training.eligibility import Eligibility, eligibility
from babylon_rl.training.joining import join_calls
from babylon_rl_tests.played import DAY, play_day, store_groups
from babylon_rl_tests.shared_database import dsn, file_dsn

__all__ = ["dsn", "file_dsn"]

pytestmark = pytest.mark.anyio

_INSERT = """
INSERT INTO rl.llm_calls (response_id, agent_id, agent_verified, started_at, latency_ms, requested_model,
    version, fallback, attempts, stream, status, messages, parameters, temperature, top_p, finish_reason,
    prompt_token_ids, token_ids, logprobs, content_sha256, untrainable, capture_level)
VALUES ($1, $2, true, $3, 1, 'm', $4, false, 1, false, 200, '[]', $11, $5, 1, 'stop', $6, $7, $8, $9, $10,
    'process')
"""


@pytest.fixture(scope="module")
def played(base_engine: EmbeddedEngine) -> list[ScoredGroup]:
    return play_day(base_engine, windows=1, agents=4, seed=3)


@pytest.fixture
def groups(played: list[ScoredGroup]) -> list[ScoredGroup]:
    """A copy that may be changed."""
    return msgspec.convert(msgspec.to_builtins(played), list[ScoredGroup])


def calls_of(groups: Sequence[ScoredGroup], agent: int = 0) -> list[LlmCall]:
    return groups[0].members[agent].calls


async def served(rl: asyncpg.Connection, call: LlmCall, agent: str, name: str, **other: Any) -> None:
    """What the gateway would have captured of a call."""
    known = {
        "version": call.policy_version,
        "temperature": 1.0,
        "ids": call.token_ids,
        "logprobs": call.logprobs,
        "untrainable": None,
        "parameters": "{}",
    } | other
    await rl.execute(
        _INSERT,
        name,
        agent,
        datetime(2026, 10, 1, tzinfo=UTC),
        known["version"],
        known["temperature"],
        call.prompt_token_ids,
        known["ids"],
        known["logprobs"],
        content_sha256(call.chat_messages(), call.response),
        known["untrainable"],
        known["parameters"],
    )


async def test_the_calls_that_are_left_keep_their_decisions(
    connection: asyncpg.Connection, groups: list[ScoredGroup]
) -> None:
    member = groups[0].members[0]
    member.decisions = [RewardedDecision(0.0, float(place)) for place in range(len(member.calls))]
    member.call_decisions = list(range(len(member.calls)))
    second = member.calls[1]
    await served(connection, second, member.agent_id, str(second.response_id), untrainable="cut")
    joined = await join_calls(connection, groups, unconfirmed=True)
    left = joined.groups[0].members[0]
    assert joined.dropped == {"gateway_cut": 1} and len(left.calls) == len(member.calls) - 1
    assert left.advantages_of_calls() == [0, *range(2, len(member.calls))]


async def test_the_gateways_tokens_and_version_win(
    connection: asyncpg.Connection, groups: list[ScoredGroup]
) -> None:
    call = calls_of(groups)[0]
    call.response_id = "r-1"
    await served(connection, call, "agent-0", "r-1", version="v0.0.9", ids=[7, 8], logprobs=[-0.5, -0.25])
    call.policy_version, call.logprobs = "v9.9.9", [0.0] * len(call.token_ids or [])
    joined = await join_calls(connection, groups, unconfirmed=False)
    (kept,) = [call for member in joined.groups[0].members for call in member.calls]
    assert (kept.policy_version, kept.token_ids, kept.logprobs) == ("v0.0.9", [7, 8], [-0.5, -0.25])
    assert joined.found == {"confirmed_by_id": 1, "unconfirmed": 15} and joined.dropped == {"unconfirmed": 15}
    assert [member.trainable for member in joined.groups[0].members] == [True, False, False, False]


async def test_a_call_without_an_id_is_found_by_what_was_said(
    connection: asyncpg.Connection, groups: list[ScoredGroup]
) -> None:
    first, second = calls_of(groups)[:2]
    first.response_id = second.response_id = None
    second.messages, second.response = first.messages, first.response
    tokens, first.token_ids, first.logprobs = list(first.token_ids or []), None, None
    logprobs = [-0.5] * len(tokens)
    await served(connection, first, "agent-0", "r-1", ids=tokens, logprobs=logprobs)
    await served(connection, first, "agent-1", "r-2", ids=tokens, logprobs=logprobs)
    joined = await join_calls(connection, groups, unconfirmed=False)
    (kept,) = joined.groups[0].members[0].calls
    assert kept.token_ids == tokens and kept.response_id == "r-1", "text alone got its tokens"
    assert joined.found["confirmed_by_content"] == 1, "one served call is one call, whoever said the same"


async def test_what_does_not_fit_is_left_out_with_its_reason(
    connection: asyncpg.Connection, groups: list[ScoredGroup]
) -> None:
    calls = calls_of(groups)
    for number, call in enumerate(calls):
        call.response_id = f"r-{number}"
    await served(connection, calls[0], "agent-3", "r-0")
    await served(connection, calls[1], "agent-0", "r-1", untrainable="greedy")
    await served(connection, calls[2], "agent-0", "r-2")
    calls[2].response = "BUY everything"
    await served(connection, calls[3], "agent-0", "r-3")
    again = calls_of(groups, 1)[0]
    again.response_id = "r-3"
    calls_of(groups, 1)[1].response_id = "no\0text"
    joined = await join_calls(connection, groups, unconfirmed=True)
    assert joined.dropped == {"of_another_agent": 1, "gateway_greedy": 1, "altered": 1, "claimed_twice": 1}
    assert joined.found == {"confirmed_by_id": 5, "unconfirmed": 11}


@pytest.mark.parametrize(
    ("parameters", "kept"),
    [
        ('{"temperature": 1, "top_p": 1, "max_tokens": 12, "seed": 3}', True),
        ('{"temperature": 1, "max_tokens": 12}', False),
        ('{"temperature": 1, "top_p": 1, "stop": ["."]}', False),
        ('{"temperature": 1, "top_p": 1, "top_k": 5}', False),
    ],
)
async def test_a_served_call_that_lacks_only_tokens_is_left_to_its_checkpoint(
    connection: asyncpg.Connection, groups: list[ScoredGroup], parameters: str, kept: bool
) -> None:
    call = calls_of(groups)[0]
    call.response_id = "r-0"
    lacking = {"ids": None, "logprobs": None, "untrainable": "no_tokens", "parameters": parameters}
    await served(connection, call, "agent-0", "r-0", **lacking)
    joined = await join_calls(connection, groups, unconfirmed=False)
    left = joined.groups[0].members[0]
    assert [one.token_ids for one in left.calls] == ([None] if kept else []) and not left.trainable
    assert joined.dropped == {"unconfirmed": 15} | ({} if kept else {"gateway_no_tokens": 1})


async def test_logprobs_of_another_temperature_need_the_gateways_word(
    connection: asyncpg.Connection, groups: list[ScoredGroup]
) -> None:
    calls = calls_of(groups)
    calls[0].temperature, calls[1].top_p = 0.7, 0.9
    calls[2].temperature, calls[2].response_id = 0.7, "r-2"
    await served(connection, calls[2], "agent-0", "r-2", temperature=0.7)
    joined = await join_calls(connection, groups, unconfirmed=True)
    assert joined.dropped == {"other_distribution": 2} and joined.found["confirmed_by_id"] == 1


async def test_a_batch_shows_who_confirms_its_calls(
    connection: asyncpg.Connection, groups: list[ScoredGroup], tmp_path: Path
) -> None:
    for agent in (0, 1):
        for number, call in enumerate(calls_of(groups, agent)):
            call.response_id = f"r-{agent}-{number}"
            await served(connection, call, f"agent-{agent}", call.response_id)
    store = ArtifactStore(tmp_path)
    await store_groups(connection, store, groups)
    rules = BatchRules(1, 2, takes=Eligibility(unconfirmed="drop"))
    batch = await build_batch(connection, store, DAY, rules)
    assert batch.confirmed == {"confirmed_by_id": 8, "unconfirmed": 8}
    assert (batch.calls, batch.episodes, batch.dropped) == (8, 2, {"unconfirmed": 8})
    assert load_batch(store, batch.uri)[0].confirmed == batch.confirmed


async def test_calls_of_policies_that_are_too_old_are_left_out(
    connection: asyncpg.Connection, groups: list[ScoredGroup], tmp_path: Path
) -> None:
    model = """INSERT INTO rl.models (version, model_id, base_model, status, verdict, branch, day)
               VALUES ($1, $1, 'tiny', 'ready', $2, $3, $4)"""
    for day, (version, verdict, branch) in enumerate(
        [
            ("v0.0.1", "promoted", None),
            ("v0.0.2", "rejected", None),
            ("v0.0.3", None, "side"),
            ("v0.0.4", None, None),
        ],
        start=1,
    ):
        await connection.execute(model, version, verdict, branch, datetime(2026, 9, day, tzinfo=UTC).date())
    for member, version in zip(groups[0].members, ("v0.0.1", "v0.0.3", "v0.0.4", "v0.0.4"), strict=True):
        for call in member.calls:
            call.policy_version = version
    store = ArtifactStore(tmp_path)
    await store_groups(connection, store, groups)
    for bound, kept, dropped in ((None, 16, {}), (1, 12, {"stale_policy": 4}), (0, 8, {"stale_policy": 8})):
        rules = BatchRules(1, 1, takes=Eligibility(max_versions_behind=bound))
        batch = await build_batch(connection, store, DAY, rules)
        assert (batch.calls, batch.dropped) == (kept, dropped)


def test_production_trusts_the_gateway_alone(tmp_path: Path) -> None:
    settings = Settings(babylon_home=tmp_path)
    assert eligibility(settings).unconfirmed == "train"
    production = settings.model_copy(update={"babylon_env": "production"})
    assert eligibility(production).unconfirmed == "drop"
    assert eligibility(production.model_copy(update={"unconfirmed_calls": "train"})).unconfirmed == "train"
