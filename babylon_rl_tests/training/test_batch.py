"""The training batch on a real database: what is selected, what is counted, and what is frozen."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path

import asyncpg
import msgspec
import pytest

from babylon_rl.outcomes.market import store_outcomes
from babylon_rl.outcomes.window_outcomes import PredictionOutcome, WindowOutcomes
from babylon_rl.policy.engine import EmbeddedEngine
from babylon_rl.records.steps import LlmCall
from babylon_rl.records.store import ArtifactError, ArtifactStore
from babylon_rl.scoring.groups import RewardedDecision, ScoredGroup
from babylon_rl.training import units
from babylon_rl.training.batch import EMPTY, READY, BatchRules, TrainingBatch, build_batch, load_batch
from babylon_rl.training.units import TrainingUnit
from babylon_rl.windows import UnknownDayError
from babylon_rl_tests.played import DAY, play_day, store_groups, trainable, window
from babylon_rl_tests.shared_database import dsn, file_dsn

__all__ = ["dsn", "file_dsn"]

pytestmark = pytest.mark.anyio

SMALL = BatchRules(min_groups=1, min_episodes=2)


@pytest.fixture(scope="module")
def played(base_engine: EmbeddedEngine) -> list[ScoredGroup]:
    return play_day(base_engine, windows=3, agents=4, seed=3)


@pytest.fixture
def groups(played: list[ScoredGroup]) -> list[ScoredGroup]:
    """A copy that may be changed."""
    return msgspec.convert(msgspec.to_builtins(played), list[ScoredGroup])


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "artifacts")


def calls_of(groups: Sequence[ScoredGroup]) -> list[LlmCall]:
    return [call for group in groups for member in group.members for call in member.calls]


async def train(rl: asyncpg.Connection, batch: TrainingBatch, version: str = "v0.0.1") -> None:
    """What the ledger holds once the day's batch has been trained."""

    async def register(connection: asyncpg.Connection) -> str:
        insert = "INSERT INTO rl.models (version, model_id, base_model) VALUES ($1, $1, 'tiny')"
        await connection.execute(insert, version)
        return version

    unit = TrainingUnit(batch.sha256, "v0.0.0", {}, "embedded", date.fromisoformat(batch.day))
    await units.publish(rl, await units.claim(rl, unit, owner="test"), register)


async def newest(rl: asyncpg.Connection) -> str:
    query = "SELECT batch_sha256 FROM rl.training_batches ORDER BY created_at DESC LIMIT 1"
    return str(await rl.fetchval(query))


async def test_a_day_becomes_a_batch(
    connection: asyncpg.Connection, store: ArtifactStore, groups: list[ScoredGroup]
) -> None:
    await store_groups(connection, store, groups)
    batch = await build_batch(connection, store, DAY, SMALL)
    assert (batch.status, batch.reason, batch.groups, batch.episodes) == (READY, "", 3, 12)
    assert batch.calls == sum(batch.policy_versions.values()) == 48 and batch.dropped == {}
    assert batch.policy_versions == {"v0.0.0": 48} and batch.superseded_by is None and not batch.leaks
    loaded, episodes = load_batch(store, batch.uri)
    assert loaded == batch and episodes == trainable(groups)
    row = await connection.fetchrow("SELECT * FROM rl.training_batches")
    assert row is not None and row["batch_sha256"] == batch.sha256 and row["uri"] == batch.uri
    assert (row["day"], row["status"], row["groups"], row["calls"]) == (date(2026, 10, 1), READY, 3, 48)
    assert (row["config"]["min_groups"], row["config"]["min_episodes"]) == (1, 2)
    assert row["config"]["takes"]["foreign_text"] == "drop" and batch.diagnostics["effective_episodes"] > 0


async def test_every_call_that_is_left_out_is_counted_with_its_reason(
    connection: asyncpg.Connection, store: ArtifactStore, groups: list[ScoredGroup]
) -> None:
    calls = calls_of(groups)
    calls[0].token_ids = None
    calls[1].logprobs = None
    calls[2].logprobs = (calls[2].logprobs or [])[:-1]
    calls[5].policy_version = None
    calls[3].finish_reason = "length"
    calls[4].temperature = 0
    calls[6].temperature = None
    for call in groups[2].members[0].calls:
        call.token_ids = None
    await store_groups(connection, store, groups)
    batch = await build_batch(connection, store, DAY, SMALL)
    assert batch.dropped == {"no_logprobs": 8, "cut_by_token_limit": 1, "greedy": 2}
    assert batch.calls + sum(batch.dropped.values()) == len(calls) == 48
    assert batch.episodes == 10, "two episodes have no call that can be trained"
    _, episodes = load_batch(store, batch.uri)
    original = {(e.window_id, e.agent_id): e.advantage for e in trainable(groups)}
    assert all(original[e.window_id, e.agent_id] == e.advantage for e in episodes)
    assert sum(e.advantage for e in episodes if e.window_id == window(2)) != pytest.approx(0, abs=1e-9)


async def test_a_call_is_trained_with_the_advantage_of_its_decision(
    connection: asyncpg.Connection, store: ArtifactStore, groups: list[ScoredGroup]
) -> None:
    paid = {}
    for group in groups:
        for number, member in enumerate(group.members):
            member.decisions = [RewardedDecision(0.0, number + place / 10) for place in range(4)]
            member.call_decisions = [0, 1, 2, 3]
            paid[group.window_id, member.agent_id] = [one.advantage for one in member.decisions]
    groups[0].members[1].calls[1].finish_reason = "length"
    paid[window(0), "agent-1"].pop(1)
    await store_groups(connection, store, groups)
    batch = await build_batch(connection, store, DAY, SMALL)
    _, episodes = load_batch(store, batch.uri)
    assert {(e.window_id, e.agent_id): [c.advantage for c in e.calls] for e in episodes} == paid
    whole = await build_batch(connection, store, DAY, replace(SMALL, credit="episode"))
    assert whole.sha256 != batch.sha256
    assert {call.advantage for e in load_batch(store, whole.uri)[1] for call in e.calls} == {None}


async def test_only_scored_windows_of_the_day_count(
    connection: asyncpg.Connection,
    store: ArtifactStore,
    groups: list[ScoredGroup],
    base_engine: EmbeddedEngine,
) -> None:
    groups[0].status, groups[1].status = "no_spread", "thin"
    other = msgspec.structs.replace(groups[2], window_id="2026-10-02T00:00")
    await store_groups(connection, store, [*groups, other])
    batch = await build_batch(connection, store, DAY, SMALL)
    assert (batch.groups, batch.episodes) == (1, 4)
    assert (await build_batch(connection, store, "2026-10-02", SMALL)).groups == 1


async def test_equal_groups_give_equal_hashes_anywhere(
    connection: asyncpg.Connection, store: ArtifactStore, groups: list[ScoredGroup], tmp_path: Path
) -> None:
    await store_groups(connection, store, groups)
    first = await build_batch(connection, store, DAY, SMALL)
    assert await build_batch(connection, store, DAY, SMALL) == first
    await connection.execute("DELETE FROM rl.window_state")
    elsewhere = ArtifactStore(tmp_path / "elsewhere")
    await store_groups(connection, elsewhere, groups[::-1])
    assert (await build_batch(connection, elsewhere, DAY, SMALL)).sha256 == first.sha256


async def test_the_hash_covers_what_is_trained(
    connection: asyncpg.Connection, store: ArtifactStore, groups: list[ScoredGroup]
) -> None:
    async def hash_of() -> str:
        await store_groups(connection, store, groups)
        return (await build_batch(connection, store, DAY, SMALL)).sha256

    hashes = [await hash_of()]
    call = groups[1].members[1].calls[1]
    assert call.logprobs and call.token_ids and call.messages
    call.logprobs[0] -= 1e-6
    hashes.append(await hash_of())
    call.token_ids[0] += 1
    hashes.append(await hash_of())
    call.messages[-1]["content"] += " "
    hashes.append(await hash_of())
    groups[1].members[1].advantage += 1e-6
    hashes.append(await hash_of())
    assert len(set(hashes)) == 5
    call.latency_ms, call.response_id = 12, "another"
    assert await hash_of() == hashes[-1], "what is not trained does not change the batch"


async def test_a_planted_leak_refuses_the_day(
    connection: asyncpg.Connection, store: ArtifactStore, groups: list[ScoredGroup]
) -> None:
    call = groups[1].members[2].calls[0]
    assert call.messages
    call.messages[0]["content"] += " GROUND TRUTH: AURUM rises"
    await store_groups(connection, store, groups)
    batch = await build_batch(connection, store, DAY, SMALL)
    assert batch.status == EMPTY and [leak.kind for leak in batch.leaks] == ["marker"]
    assert batch.reason == f"1 leaks, the first in {window(1)} of agent agent-2: marker"
    loaded, episodes = load_batch(store, batch.uri)
    assert loaded.leaks == batch.leaks and episodes == [], "what leaks is not stored for training"
    assert await connection.fetchval("SELECT reason FROM rl.training_batches") == batch.reason


@pytest.mark.parametrize(
    ("statement", "kind"),
    [
        ("{question} outcome: YES", "answer"),
        ("the answer is yes: {question}", "answer"),
        ("it is settled that apex shipped, yes", "paraphrase"),
    ],
)
async def test_a_stated_answer_refuses_the_day(
    connection: asyncpg.Connection, store: ArtifactStore, groups: list[ScoredGroup], statement: str, kind: str
) -> None:
    market = PredictionOutcome(
        market_id="market-7",
        question="Will Apex ship?",
        outcome="YES",
        final_probability=0.7,
        resolved_at=datetime(2026, 10, 1, 2, 30, tzinfo=UTC),
        flags=[],
    )
    truth = WindowOutcomes(window_id=window(2), stocks=[], predictions=[market], news=[])
    await store_outcomes(connection, connection, truth, project_to_game=False)
    for group in groups:
        call = group.members[0].calls[3]
        assert call.messages
        call.messages[-1]["content"] += "\n" + statement.format(question=market.question)
    await store_groups(connection, store, groups)
    batch = await build_batch(connection, store, DAY, SMALL)
    assert batch.status == EMPTY
    assert [(leak.window_id, leak.kind) for leak in batch.leaks] == [(window(2), kind)], (
        "in the other windows nobody knew the answer"
    )


async def test_a_leak_in_a_call_that_is_not_trained_is_none(
    connection: asyncpg.Connection, store: ArtifactStore, groups: list[ScoredGroup]
) -> None:
    call = groups[0].members[0].calls[0]
    assert call.messages
    call.messages[0]["content"], call.token_ids = "ground truth", None
    await store_groups(connection, store, groups)
    assert (await build_batch(connection, store, DAY, SMALL)).status == READY


@pytest.mark.parametrize(
    ("rules", "reason"),
    [
        (BatchRules(min_groups=4, min_episodes=1), "3 trainable groups of at least 4 (3 scored)"),
        (BatchRules(min_groups=3, min_episodes=13), "12 trainable episodes of at least 13"),
        (None, "3 trainable groups of at least 10 (3 scored)"),
    ],
)
async def test_a_day_with_too_little_is_empty_and_says_why(
    connection: asyncpg.Connection,
    store: ArtifactStore,
    groups: list[ScoredGroup],
    rules: BatchRules | None,
    reason: str,
) -> None:
    await store_groups(connection, store, groups)
    batch = await build_batch(connection, store, DAY, rules)
    assert (batch.status, batch.reason) == (EMPTY, reason)
    assert load_batch(store, batch.uri)[1] == []


async def test_a_day_without_anything_is_empty(connection: asyncpg.Connection, store: ArtifactStore) -> None:
    batch = await build_batch(connection, store, DAY, SMALL)
    assert (batch.status, batch.groups, batch.calls) == (EMPTY, 0, 0) and "0 trainable groups" in batch.reason
    with pytest.raises(UnknownDayError):
        await build_batch(connection, store, "2026-10-1", SMALL)


async def test_a_trained_day_keeps_its_batch(
    connection: asyncpg.Connection, store: ArtifactStore, groups: list[ScoredGroup]
) -> None:
    await store_groups(connection, store, groups)
    trained = await build_batch(connection, store, DAY, SMALL)
    await train(connection, trained)
    assert await build_batch(connection, store, DAY, SMALL) == trained

    before = groups[0].members[0].advantage
    groups[0].members[0].advantage += 0.25
    await store_groups(connection, store, groups)
    again = await build_batch(connection, store, DAY, SMALL)
    assert again.sha256 == trained.sha256 and again.uri == trained.uri and again.calls == trained.calls
    assert again.superseded_by is not None and again.superseded_by != trained.sha256
    noted = "SELECT superseded_by FROM rl.training_batches WHERE batch_sha256 = $1"
    assert await connection.fetchval(noted, trained.sha256) == again.superseded_by

    groups[0].members[0].advantage = before
    await store_groups(connection, store, groups)
    assert await build_batch(connection, store, DAY, SMALL) == trained, "nothing is new any more"
    assert await connection.fetchval(noted, trained.sha256) is None


async def test_late_rows_of_an_untrained_day_make_a_new_batch(
    connection: asyncpg.Connection, store: ArtifactStore, groups: list[ScoredGroup]
) -> None:
    await store_groups(connection, store, groups[:2])
    first = await build_batch(connection, store, DAY, SMALL)
    await store_groups(connection, store, groups)
    second = await build_batch(connection, store, DAY, SMALL)
    assert second.sha256 != first.sha256 and second.superseded_by is None
    assert await newest(connection) == second.sha256
    await connection.execute("DELETE FROM rl.window_state WHERE window_id = $1", window(2))
    assert await build_batch(connection, store, DAY, SMALL) == first
    assert await newest(connection) == first.sha256, "the batch that was built last is the one to train"


async def test_a_damaged_group_is_an_error(
    connection: asyncpg.Connection, store: ArtifactStore, groups: list[ScoredGroup]
) -> None:
    await store_groups(connection, store, groups)
    query = "SELECT group_uri FROM rl.window_state WHERE window_id = $1"
    uri = str(await connection.fetchval(query, window(1)))
    store.path(uri).chmod(0o644)
    store.path(uri).write_bytes(b"spoiled")
    with pytest.raises(ArtifactError, match="damaged"):
        await build_batch(connection, store, DAY, SMALL)
    store.path(uri).unlink()
    with pytest.raises(ArtifactError, match="not in the artifact store"):
        await build_batch(connection, store, DAY, SMALL)
    assert await connection.fetchval("SELECT count(*) FROM rl.training_batches") == 0
