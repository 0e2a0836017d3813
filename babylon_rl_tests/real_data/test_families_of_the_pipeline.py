"""The hidden cases between recording and training (`babylon.md` section 8): late rows, groups, secrets."""

import json
from contextlib import asynccontextmanager, closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg
import psycopg2
import pytest

from babylon_rl.database.connection import Databases, connect
from babylon_rl.database.errors import UnreachableDatabaseError
from babylon_rl.database.migrations import migrate
from babylon_rl.orchestration.readiness import due_windows, judge_window, late_windows, read_windows
from babylon_rl.orchestration.scoring_steps import score_windows
from babylon_rl.orchestration.window_steps import derive_window, freeze_window
from babylon_rl.outcomes.market import load_outcomes
from babylon_rl.outcomes.sync import sync_window
from babylon_rl.records.quality import load_window_quality
from babylon_rl.records.reader import read_window, refresh_window_rows
from babylon_rl.records.store import ArtifactStore
from babylon_rl.settings import Settings
from babylon_rl.training.batch import BatchRules, build_batch
from babylon_rl.windows import parse_day
from babylon_rl_tests.game_rows import (
    START,
    WINDOW,
    add_company,
    add_order,
    add_price,
    add_trajectory,
    add_user,
    at,
    call,
    step,
)
from babylon_rl_tests.real_data.conftest import PRISMA_TABLES

pytestmark = pytest.mark.anyio
NOW = START + timedelta(days=3)
LONG = call(systemPrompt="s" * 60, userPrompt="u" * 120)
AGENTS = ("agent-a", "agent-b", "agent-c")


def good_steps(agent: str) -> list[dict]:
    access = {"providerName": "market_data", "data": {"price": 100}, "purpose": "context"}
    return [step(llmCalls=[LONG | {"responseId": agent}], providerAccesses=[access])]


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "artifacts")


async def record(connection: asyncpg.Connection, *agents: str) -> None:
    """One trajectory and one order per agent; the first earns, the others lose."""
    for number, agent in enumerate(agents):
        await add_trajectory(connection, agent, good_steps(agent))
        await add_order(
            connection,
            agent,
            side="long" if number == 0 else "short",
            size=100.0 * (number + 1),
            liquidationPrice=50.0 if number == 0 else 150.0,
        )


@pytest.fixture
async def recorded(connection: asyncpg.Connection) -> asyncpg.Connection:
    await add_company(connection)
    for price, moment in ((100, at(-1)), (104, at(30)), (104, at(200)), (104, NOW)):
        await add_price(connection, price, moment)
    await record(connection, *AGENTS)
    return connection


async def process(db: Databases, store: ArtifactStore, settings: Settings, window: str = WINDOW):
    """What one materialization of the window's three assets does."""
    await refresh_window_rows(db.game, db.rl)
    frozen = await freeze_window(db, store, window, settings)
    derived = await derive_window(db, window, settings)
    [done] = [done async for done in score_windows(db, store, [window], settings, own_connection)]
    return frozen, derived, done.scored.group, done.file


@asynccontextmanager
async def own_connection():
    """A local scorer needs none of its own."""
    raise AssertionError("no judge is asked here")
    yield


async def verdict(db: Databases, settings: Settings, now: datetime = NOW, window: str = WINDOW):
    [facts] = await read_windows(db.rl, window, window)
    return judge_window(facts, now, settings)


async def test_family_18_late_rows_make_a_scored_window_stale_with_the_reason(recorded, db, store, settings):
    first, _, group, _ = await process(db, store, settings)
    assert group.status == "scored" and len(group.members) == 3
    assert (await verdict(db, settings)).verdict == "done"
    assert await due_windows(db.rl) == []
    before = (await verdict(db, settings)).run_key

    await record(recorded, "agent-late")
    await refresh_window_rows(db.game, db.rl)
    late = await verdict(db, settings)
    assert late.requested and late.run_key != before
    assert "stale, 3 rows when it was scored and 4 now" in late.reason
    assert [(w.window_id, w.stale) for w in await due_windows(db.rl)] == [(WINDOW, True)]
    assert await late_windows(db.rl, datetime.now(UTC) + timedelta(hours=1), "2026-10-02T00:00") == [WINDOW]

    second, _, group, _ = await process(db, store, settings)
    assert second.snapshot.sha256 != first.snapshot.sha256 and len(group.members) == 4
    assert (await verdict(db, settings)).verdict == "done"


async def test_family_18_scoring_twice_is_silent(recorded, db, store, settings):
    frozen, derived, _, scored = await process(db, store, settings)
    for _ in range(2):
        again, derived_again, _, scored_again = await process(db, store, settings)
        assert again.snapshot == frozen.snapshot and scored_again == scored
        assert derived_again.digest == derived.digest
        assert (await verdict(db, settings)).verdict == "done" and await due_windows(db.rl) == []
    # What we and the game write into the rows afterwards is no news either.
    await recorded.execute('UPDATE "trajectories" SET "aiJudgeReward" = 0.7, "usedInTraining" = true')
    await refresh_window_rows(db.game, db.rl)
    assert (await verdict(db, settings)).verdict == "done" and await due_windows(db.rl) == []


async def test_family_18_a_row_that_changes_back_is_no_news(recorded, db, store, settings):
    await process(db, store, settings)
    await recorded.execute('UPDATE "trajectories" SET "finalPnL" = 7 WHERE "agentId" = \'agent-a\'')
    await refresh_window_rows(db.game, db.rl)
    assert "rows changed after it was scored" in (await verdict(db, settings)).reason
    await recorded.execute('UPDATE "trajectories" SET "finalPnL" = 0 WHERE "agentId" = \'agent-a\'')
    await refresh_window_rows(db.game, db.rl)
    assert (await verdict(db, settings)).verdict == "done"


async def test_family_18_a_trained_batch_never_changes(recorded, connection, db, store, settings):
    await process(db, store, settings)
    rules = BatchRules(min_groups=1, min_episodes=1)
    batch = await build_batch(connection, store, "2026-10-01", rules)
    assert batch.status == "ready" and batch.episodes == 3
    await connection.execute(
        "INSERT INTO rl.trained_days (day, batch_sha256, version) VALUES ($1, $2, 'v0.0.1')",
        parse_day("2026-10-01"),
        batch.sha256,
    )
    await record(connection, "agent-late")
    _, _, group, _ = await process(db, store, settings)
    assert len(group.members) == 4, "the window itself is scored anew"
    again = await build_batch(connection, store, "2026-10-01", rules)
    assert (again.sha256, again.episodes) == (batch.sha256, 3)
    assert again.superseded_by not in (None, batch.sha256)


async def test_family_18_late_prices_score_a_window_again(recorded, db, store, settings):
    _, _, group, _ = await process(db, store, settings)
    await add_price(recorded, 110, at(64))
    synced = await sync_window(db.game, db.rl, WINDOW, now=NOW)
    assert synced.stale
    late = await verdict(db, settings)
    assert late.requested and "the values of 3 orders at +1h changed" in late.reason
    _, _, again, _ = await process(db, store, settings)
    assert again.members[0].reward > group.members[0].reward
    assert (await verdict(db, settings)).verdict == "done"


async def test_family_18_an_open_window_is_not_scored(connection, db, store, settings):
    now = datetime.now(UTC)
    window = f"{now:%Y-%m-%dT%H}:00"
    for agent in AGENTS:
        await add_trajectory(
            connection,
            agent,
            windowId=window,
            scenarioId=window,
            startTime=now,
            endTime=now,
            createdAt=now,
            updatedAt=now,
        )
    _, derived, group, _ = await process(db, store, settings, window)
    assert derived.outcomes is None and "is not over" in derived.status
    assert group.status == "immature"
    found = await verdict(db, settings, now, window)
    assert found.verdict == "waiting"


async def test_family_20_groups_that_are_too_small_or_mixed(connection, db, store, settings):
    await add_company(connection)
    await add_price(connection, 100, at(-1))
    await add_price(connection, 104, NOW)
    await record(connection, "agent-a", "agent-b")
    await add_user(connection, "tester", isTest=True)
    await add_trajectory(connection, "tester", good_steps("tester"))
    await add_trajectory(connection, "examined", good_steps("examined"), isEvaluation=True)
    _, _, group, _ = await process(db, store, settings)
    assert (group.status, group.reason) == ("thin", "2 of at least 3 agents")
    # An agent played by a rule joins the baseline and is not trained; two versions of ours may meet.
    await add_trajectory(connection, "rule", [step()])
    other = [step(llmCalls=[LONG | {"policyVersion": "v0.0.2", "responseId": "x"}])]
    await add_trajectory(connection, "newer", other)
    _, _, group, _ = await process(db, store, settings)
    members = {member.agent_id: member for member in group.members}
    assert set(members) == {"agent-a", "agent-b", "newer", "rule"}
    assert [member.agent_id for member in group.trainable] == ["agent-a", "agent-b", "newer"]
    assert members["newer"].policy_versions == ["v0.0.2"] and members["rule"].policy_versions == []


async def test_family_07_a_nan_in_a_row_never_reaches_a_window_s_mean(recorded, db, store, settings):
    await add_trajectory(recorded, "nan", good_steps("nan"), finalPnL=float("nan"), totalReward=float("nan"))
    _, _, group, _ = await process(db, store, settings)
    assert group.pnl_mean is not None and abs(group.pnl_mean) < 100
    mean = await db.rl.fetchval("SELECT avg(pnl_mean) FROM rl.window_state")
    assert mean == pytest.approx(group.pnl_mean)


async def test_family_04_one_busy_agent_is_a_thin_window(connection, db, store, settings):
    for minute in range(60):
        await add_trajectory(connection, "busy", startTime=at(minute), endTime=at(minute + 1))
    _, _, group, _ = await process(db, store, settings)
    assert (group.status, group.agents) == ("thin", 1)
    assert (await read_windows(db.rl, WINDOW, WINDOW))[0].agents == 1


async def test_family_06_a_bad_row_does_not_sink_its_window(recorded, db, store, settings):
    await add_trajectory(recorded, "broken", "[{")
    frozen, _, group, _ = await process(db, store, settings)
    assert group.status == "scored" and len(group.members) == 3
    assert [row.reason for row in frozen.read.quarantined] == ["invalid_json"]


async def test_two_databases_of_which_the_game_s_has_nothing_of_ours(server, template, store):
    """RL_DATABASE_URL: Prisma's database stays as it is, but for the projection."""
    settings = Settings(_env_file=None)
    game_name, rl_name = server.create(), server.create(template)
    try:
        with closing(psycopg2.connect(server.dsn(game_name))) as made, made, made.cursor() as cursor:
            cursor.execute(PRISMA_TABLES.read_text())
        await migrate(server.dsn(rl_name), embedded=False, game_dsn=server.dsn(game_name))
        owner = await connect(server.dsn(game_name))
        game = await connect(server.dsn(game_name), role="babylon_judge")
        rl = await connect(server.dsn(rl_name), role="babylon_judge")
        try:
            await add_company(owner)
            for price, moment in ((100, at(-1)), (104, at(30)), (104, NOW)):
                await add_price(owner, price, moment)
            await record(owner, *AGENTS)
            db = Databases(game=game, rl=rl)
            _, derived, group, _ = await process(db, store, settings)
            assert group.status == "scored" and len(derived.orders) == 6
            assert await owner.fetchval('SELECT count(*) FROM "market_outcomes"') == 1
            await record(owner, "agent-late")
            await refresh_window_rows(game, rl)
            assert "stale" in (await verdict(db, settings)).reason
        finally:
            for connection in (owner, game, rl):
                await connection.close()
    finally:
        server.drop(game_name)
        server.drop(rl_name)


# Data quality: a score per row with reasons, per window, and what readiness makes of it


async def test_a_window_waits_for_better_rows_until_its_deadline(recorded, db, settings):
    await refresh_window_rows(db.game, db.rl)
    soon = at(66)
    assert (await verdict(db, settings, soon)).verdict == "ready"
    bare = await add_trajectory(recorded, "bare", [step()])
    await refresh_window_rows(db.game, db.rl)
    found = await verdict(db, settings, soon)
    assert found.verdict == "waiting" and "data quality too low (75% < 95%)" in found.reason
    assert (await verdict(db, settings, at(121))).verdict == "thin", "every window is taken in the end"
    lenient = settings.model_copy(update={"data_quality_threshold": 0.7})
    assert (await verdict(db, lenient, soon)).verdict == "ready"
    await recorded.execute(
        'UPDATE "trajectories" SET "stepsJson" = $1 WHERE "trajectoryId" = $2',
        json.dumps(good_steps("bare")),
        bare,
    )
    await refresh_window_rows(db.game, db.rl)
    assert (await verdict(db, settings, soon)).verdict == "ready"


async def test_quality_is_stored_per_row_and_per_window_with_reasons(recorded, db, store, settings):
    await add_trajectory(recorded, "bare", [step()])
    await add_trajectory(recorded, "broken", "[{")
    frozen, _, _, _ = await process(db, store, settings)
    rows = await recorded.fetch("SELECT agent_id, quality, quality_reasons FROM rl.window_rows")
    found = {row["agent_id"]: (row["quality"], row["quality_reasons"]) for row in rows}
    assert found["agent-a"] == (1.0, [])
    assert found["bare"] == (
        pytest.approx(0.4),
        ["steps_without_calls", "short_prompts", "no_provider_data"],
    )
    assert found["broken"] == (None, None)
    quality = await load_window_quality(db.rl, WINDOW)
    assert quality == frozen.quality and quality is not None
    assert (quality.rows, quality.good_rows, quality.share) == (5, 3, 0.6)
    assert quality.mean == pytest.approx((3 + 0.4) / 5)
    assert quality.reasons == {
        "no_provider_data": 1,
        "short_prompts": 1,
        "steps_without_calls": 1,
        "unreadable": 1,
    }


# Secrets and roles


async def test_family_26_errors_and_records_hold_no_secrets(connection, db, store, settings):
    with pytest.raises(UnreachableDatabaseError) as caught:
        await connect("postgresql://agent:hunter2@127.0.0.1:1/babylon")
    assert "hunter2" not in str(caught.value)
    await add_user(connection, "keeper")
    await connection.execute(
        'UPDATE "User" SET "agentSystem" = \'key sk-secret-123\' WHERE "id" = \'keeper\''
    )
    await add_trajectory(connection, "keeper", good_steps("keeper"))
    await add_trajectory(connection, "keeper", '[{"secret": "sk-secret-456"', startTime=at(9))
    frozen, _, _, _ = await process(db, store, settings)
    kept = [*store.lines(frozen.snapshot.uri)]
    tables = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'rl'")
    for table in tables:
        kept += [
            str(row).encode() for row in await connection.fetch(f"SELECT * FROM rl.{table['tablename']}")
        ]
    assert not [text for text in kept if b"sk-secret" in text]
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await db.game.fetch('SELECT "agentSystem" FROM "User"')


@pytest.mark.parametrize(
    "query",
    [
        'SELECT "outcome" FROM "Question"',
        'SELECT "resolvedOutcome" FROM "Question"',
        'SELECT "pointsToward" FROM "WorldEvent"',
        'SELECT "metadataJson" FROM "trajectories"',
        'SELECT * FROM "market_outcomes"',
        "SELECT * FROM rl.outcomes",
        "SELECT * FROM rl.market_resolutions",
    ],
)
@pytest.mark.parametrize("role", ["babylon_trainer", "babylon_reader", "babylon_gateway"])
async def test_the_trainers_role_is_denied_the_hidden_answers(dsn, role, query):
    other = await connect(dsn, role=role)
    try:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await other.fetch(query)
    finally:
        await other.close()


async def test_the_trainer_reads_windows_and_not_what_the_judge_knows(recorded, db, dsn, store, settings):
    await process(db, store, settings)
    trainer = await connect(dsn, role="babylon_trainer")
    try:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await load_outcomes(trainer, WINDOW)
        assert len((await read_window(trainer, trainer, WINDOW)).trajectories) == 3
        assert await read_windows(trainer, WINDOW, WINDOW)
    finally:
        await trainer.close()
