"""A training day under both groupings: triggered twice, cut off, killed, and searched for what is hidden."""

import asyncio
import json
from typing import Any

import asyncpg
import pytest

from babylon_rl.benchmark.replay import NothingToReplayError
from babylon_rl.database.connection import Databases, connect, open_databases
from babylon_rl.deployment import registry, resampling
from babylon_rl.deployment.candidates import NO_DATA, REPEATED, TRAINED, DayTraining
from babylon_rl.deployment.lineage import parent_for_training
from babylon_rl.deployment.replaying import held_out_decisions
from babylon_rl.orchestration.prompt_report import of_prompts
from babylon_rl.records.store import ArtifactStore
from babylon_rl.training.batch import load_batch
from babylon_rl.training.conversion import to_art_groups
from babylon_rl.training.leaks import MARKERS
from babylon_rl.training.unit_errors import UnitBusyError
from babylon_rl.windows import parse_day, windows_of_day
from babylon_rl_tests.deployment.scored_days import DAY, HIDDEN, TrainingDay, dsn, scored_day, training_day

__all__ = ["dsn", "scored_day", "training_day"]

pytestmark = pytest.mark.anyio


async def counts(db: Databases) -> list[int]:
    """Batches, models, units and trained days."""
    tables = ("training_batches", "models", "training_units", "trained_days")
    return [int(await db.rl.fetchval(f"SELECT count(*) FROM rl.{table}") or 0) for table in tables]


async def test_two_triggers_of_a_day_make_one_batch_and_one_version(training_day: TrainingDay) -> None:
    async def trigger(db: Databases) -> DayTraining:
        await training_day.build(db)
        return await training_day.train(db)

    async with open_databases(training_day.settings) as one, open_databases(training_day.settings) as two:
        ended = await asyncio.gather(trigger(one), trigger(two), return_exceptions=True)
        done = [end for end in ended if isinstance(end, DayTraining)]
        refused = [end for end in ended if not isinstance(end, DayTraining)]
        assert done and all(isinstance(end, UnitBusyError) for end in refused), ended
        assert await counts(one) == [1, 2, 1, 1]
        again = await trigger(two)
        assert again.status == REPEATED and again.batch.sha256 == done[0].batch.sha256
        assert await counts(one) == [1, 2, 1, 1]


LOST = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)
"""How asyncpg says that its connection has gone."""


async def test_a_connection_that_is_cut_in_mid_batch_leaves_nothing_half_done(
    training_day: TrainingDay, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server ends the session while the batch is made; a second try makes the batch of a quiet day."""
    async with open_databases(training_day.settings) as db:
        pid = db.rl.get_server_pid()

        async def cut() -> None:
            other = await connect(dsn)
            await other.execute("SELECT pg_terminate_backend($1)", pid)
            await other.close()

        if training_day.grouping == "resample":
            settle = resampling.settle_answers

            async def settle_and_cut(*arguments: Any, **named: Any) -> Any:
                found = await settle(*arguments, **named)
                await cut()
                return found

            monkeypatch.setattr(resampling, "settle_answers", settle_and_cut)
        else:
            monkeypatch.setattr(ArtifactStore, "put", _cutting(ArtifactStore.put, dsn, pid))
        with pytest.raises(LOST):
            await training_day.build(db)
    monkeypatch.undo()
    async with open_databases(training_day.settings) as db:
        assert await counts(db) == [0, 1 if training_day.grouping == "resample" else 0, 0, 0]
        first = await training_day.build(db)
        await db.rl.execute("DELETE FROM rl.training_batches")
        second = await training_day.build(db)
        assert first.status == "ready" and first.sha256 == second.sha256


def _cutting(put: Any, dsn: str, pid: int) -> Any:
    import psycopg2

    def cut_and_put(*arguments: Any) -> Any:
        with psycopg2.connect(dsn) as other, other.cursor() as cursor:
            cursor.execute("SELECT pg_terminate_backend(%s)", (pid,))
        return put(*arguments)

    return cut_and_put


async def test_nothing_hidden_is_in_what_is_trained(training_day: TrainingDay) -> None:
    """Whatever the game's tables know, neither the stored batch nor ART's trajectories hold it."""
    async with open_databases(training_day.settings) as db:
        hidden = """SELECT (SELECT count(*) FROM "WorldEvent" WHERE "pointsToward" LIKE $1) AS events,
                           (SELECT count(*) FROM "market_outcomes" WHERE "outcome" LIKE $1) AS outcomes,
                           (SELECT count(*) FROM "trajectories" WHERE "stepsJson" LIKE $1
                               AND "metadataJson" LIKE $1 AND "aiJudgeReasoning" LIKE $1) AS rows"""
        planted = await db.game.fetchrow(hidden, f"%{HIDDEN}%")
        assert planted is not None and all(planted), str(planted)
        batch = await training_day.build(db)
    assert batch.status == "ready", batch.reason
    stored = json.dumps(training_day.store.get(batch.uri))
    _, episodes = load_batch(training_day.store, batch.uri)
    sent = json.dumps([group.model_dump(mode="json") for group in to_art_groups(episodes)])
    for text in (stored, sent):
        assert "Trade perpetuals" in text, "the prompts are there"
        assert HIDDEN not in text
        assert not [name for name in (*MARKERS, "correctness", "outcome:") if name in text.lower()]


@pytest.mark.parametrize(
    "told",
    [
        'pointsToward: "NO"',
        '{"gameKnowledge": {"q": 0.7}}',
        "predictionCorrect=true",
        "market_outcomes says up",
        "GROUND TRUTH follows",
        '"resolvedOutcome": true',
    ],
)
async def test_a_planted_secret_refuses_the_day(training_day: TrainingDay, told: str) -> None:
    async with open_databases(training_day.settings) as db:
        await _plant(db, training_day, told)
        batch = await training_day.build(db)
        assert batch.status == "empty" and {leak.kind for leak in batch.leaks} == {"marker"}
        assert load_batch(training_day.store, batch.uri)[1] == [] and batch.prompts == []
        trained = await training_day.train(db)
        assert (trained.status, trained.model.version) == (NO_DATA, "v0.0.0")
        assert "leaks" in trained.reason


async def _plant(db: Databases, training_day: TrainingDay, told: str) -> None:
    """Into every prompt of a window: of the recorded rows, and of the scored group that was made of them."""
    window = windows_of_day(DAY)[5]
    said = f"Trade perpetuals. {json.dumps(told)[1:-1]}"
    await db.game.execute(
        """UPDATE "trajectories" SET "stepsJson" = replace("stepsJson", 'Trade perpetuals', $2)
            WHERE "windowId" = $1""",
        *(window, said),
    )
    uri = str(await db.rl.fetchval("SELECT group_uri FROM rl.window_state WHERE window_id = $1", window))
    group = json.dumps(training_day.store.get(uri)).replace("Trade perpetuals", said)
    artifact = training_day.store.put("groups", window, json.loads(group))
    await db.rl.execute(
        "UPDATE rl.window_state SET group_uri = $2, group_sha256 = $3 WHERE window_id = $1",
        *(window, artifact.uri, artifact.sha256),
    )


async def test_what_a_day_learned_from_judges_nothing_within_the_embargo(training_day: TrainingDay) -> None:
    async with open_databases(training_day.settings) as db:
        await training_day.build(db)
        trained = await training_day.train(db)
        assert trained.status == TRAINED
        _, episodes = load_batch(training_day.store, trained.batch.uri)
        learned = {episode.recorded_window for episode in episodes}
        rows = await db.rl.fetch("SELECT DISTINCT window_id FROM rl.trained_windows WHERE version = 'v0.0.1'")
        assert {row["window_id"] for row in rows} == learned <= set(windows_of_day(DAY))
        assert (await parent_for_training(db.rl, parse_day(DAY))).model.version == "v0.0.0"
        await registry.register(db.rl, parent_version="v0.0.1", storage_path="file:///models/child")
        for version in ("v0.0.1", "v0.0.2"):
            with pytest.raises(NothingToReplayError, match="and start at 2026-10-0[45]"):
                await held_out_decisions(db, [version, "v0.0.0"])
        await db.rl.execute("DELETE FROM rl.trained_windows WHERE window_id > $1", min(learned))
        with pytest.raises(NothingToReplayError, match=r"2026-10-04 0\d:00 UTC or later"):
            await held_out_decisions(db, ["v0.0.2", "v0.0.0"])
        await db.rl.execute("DELETE FROM rl.trained_windows")
        assert (await held_out_decisions(db, ["v0.0.2", "v0.0.0"])).decisions, "that alone forbade it"


async def test_the_game_is_shown_no_reward_that_nobody_earned(training_day: TrainingDay) -> None:
    async with open_databases(training_day.settings) as db:
        await training_day.build(db)
        trained = await training_day.train(db)
        columns = '"trajectoryIds", "rewardsJson", "status"'
        shown = await db.game.fetchrow(f'SELECT {columns} FROM "training_batches"')
    assert shown is not None and shown["status"] == "completed"
    ids, rewards = json.loads(shown["trajectoryIds"]), json.loads(shown["rewardsJson"])
    records = training_day.store.get(trained.batch.uri)[1:]
    assert set(ids) == {name for record in records for name in record["trajectory_ids"]}
    assert len(rewards) == (len(ids) if training_day.grouping == "window" else 0)


async def test_prompts_are_shown_in_a_table_and_a_picture(training_day: TrainingDay) -> None:
    async with open_databases(training_day.settings) as db:
        batch = await training_day.build(db)
    shown = of_prompts(batch)
    if training_day.grouping == "window":
        assert shown == {}
        return
    assert shown["prompts/count"] == 24 and shown["cost/usd"] == 0
    table = shown["prompts"].value.splitlines()
    assert len(table) == 2 + 24 and "| spread |" in table[0]
    widest = max(batch.prompts, key=lambda one: one["spread"] or 0)
    assert widest["window_id"] in table[2] and widest["agent_id"] in table[2]
    assert "order" in shown["answers"].value and "svg" in shown["rewards within prompts"].value
