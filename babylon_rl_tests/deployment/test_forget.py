"""Forgetting an agent: nothing of it is found anywhere afterwards, and what was trained on it is named."""

import json
from datetime import date
from pathlib import Path

import asyncpg
import pytest

from babylon_rl.deployment import forget
from babylon_rl.deployment.forget import UnknownAgentError, forget_agent
from babylon_rl.records.archive import archive_window
from babylon_rl.records.forgotten import agent_hash
from babylon_rl.records.places import open_place
from babylon_rl.records.reader import BEGINNING, read_window, reconcile_window_rows, refresh_window_rows
from babylon_rl.records.store import ArtifactStore
from babylon_rl.settings import Settings
from babylon_rl.training.batch import BatchRules, build_batch
from babylon_rl_tests.kept_windows import WINDOW, keep_window

pytestmark = pytest.mark.anyio

AGENT = "agent-b"
DAY = date(2026, 10, 2)
RULES = BatchRules(min_groups=1, min_episodes=1)


class Kept:
    """A window that was archived, exported and trained: v0.0.1 on it, v0.0.2 on top, v0.0.3 on other data."""

    def __init__(self, connection: asyncpg.Connection, tmp_path: Path) -> None:
        self.connection = connection
        self.settings = Settings(_env_file=None, babylon_home=tmp_path / "home")
        self.store = ArtifactStore(self.settings.home / "artifacts")
        self.place = open_place(str(self.settings.home / "archives"), self.settings)
        self.checkpoint = self.settings.home / "checkpoints" / "v0.0.1"

    async def make(self) -> "Kept":
        await keep_window(self.connection, self.store.root)
        self.batch = await build_batch(self.connection, self.store, "2026-10-02", RULES)
        assert self.batch.status == "ready" and self.batch.episodes == 4
        self.checkpoint.mkdir(parents=True)
        (self.checkpoint / "manifest.json").write_text(json.dumps({"files": {}, "batch": self.batch.sha256}))
        for version, parent, batch in (
            ("v0.0.1", None, self.batch.sha256),
            ("v0.0.2", "v0.0.1", "another"),
            ("v0.0.3", None, "a third"),
        ):
            await self.connection.execute(
                """INSERT INTO rl.models (version, model_id, base_model, parent_version, batch_sha256,
                       storage_path, status, manifest)
                   VALUES ($1, $1, 'tiny', $2, $3, $4, 'ready', '{"seed": 1}')""",
                *(version, parent, batch, self.checkpoint.as_uri()),
            )
        await self.connection.execute(
            "INSERT INTO rl.trained_days (day, batch_sha256, version) VALUES ($1, $2, 'v0.0.1')",
            *(DAY, self.batch.sha256),
        )
        await self.connection.execute(
            "INSERT INTO rl.exports (url, form, window_ids, agents, calls) VALUES"
            " ('s3://b/one', 'art', $1, $2, 8), ('s3://b/two', 'art', $1, '{}', 8)",
            *([WINDOW], [agent_hash(AGENT)]),
        )
        self.archived = await archive_window(self.connection, self.connection, self.store, self.place, WINDOW)
        return self

    async def forget(self, *, game_rows: bool = False):
        return await forget_agent(
            self.connection, self.connection, self.store, self.settings, AGENT, game_rows=game_rows
        )

    async def mentions(self) -> list[str]:
        """Tables of `rl` and stored files in which the agent's id occurs."""
        tables = await self.connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'rl'")
        found = []
        for (table,) in tables:
            query = f"SELECT EXISTS (SELECT FROM rl.{table} t WHERE to_jsonb(t)::text LIKE $1)"
            if await self.connection.fetchval(query, f"%{AGENT}%"):
                found.append(f"rl.{table}")
        for path in sorted(self.store.root.glob("*/*/*.zst")):
            if AGENT in str(self.store.get(str(path.relative_to(self.store.root)))):
                found.append(path.parent.parent.name)
        return found


@pytest.fixture
async def kept(connection: asyncpg.Connection, tmp_path: Path) -> Kept:
    return await Kept(connection, tmp_path).make()


async def test_nothing_of_the_agent_stays_in_what_is_ours(kept: Kept, connection: asyncpg.Connection) -> None:
    assert {"rl.scores", "rl.order_value", "rl.payments", "groups", "trajectories", "training_batch"} <= set(
        await kept.mentions()
    )
    report = await kept.forget()
    # Its id remains beside the game's rows, which stay: they are left out by it.
    assert await kept.mentions() == ["rl.window_rows"]
    assert len(report.files) == 3 and report.pipeline_rows["scores"] == 1
    assert report.game_rows == 0
    assert await connection.fetchval('SELECT count(*) FROM "trajectories" WHERE "agentId" = $1', AGENT) == 1
    state = await connection.fetchrow("SELECT * FROM rl.window_state")
    assert state and len(kept.store.get(state["snapshot_uri"])) == 3
    assert len(kept.store.get(state["group_uri"])) == 4  # the verdict and three members
    assert state["snapshot_sha256"] in state["snapshot_uri"] and state["group_sha256"] in state["group_uri"]
    hashes = await connection.fetch("SELECT DISTINCT group_sha256 FROM rl.scores")
    assert [row[0] for row in hashes] == [state["group_sha256"]]


async def test_with_game_rows_they_go_as_well(kept: Kept, connection: asyncpg.Connection) -> None:
    report = await kept.forget(game_rows=True)
    assert report.game_rows == 1 and await kept.mentions() == []
    for table, column in (("trajectories", '"agentId"'), ("llm_call_logs", '"trajectoryId"')):
        left = await connection.fetchval(f'SELECT count(*) FROM "{table}"')
        assert left == 4, (table, column)
    assert await connection.fetchval("""SELECT EXISTS (SELECT FROM "User" WHERE "id" = 'agent-b')""")


async def test_the_feed_does_not_take_it_up_again(kept: Kept, connection: asyncpg.Connection) -> None:
    await kept.forget()
    await connection.execute("""UPDATE "trajectories" SET "finalPnL" = 77 WHERE "agentId" = $1""", AGENT)
    await refresh_window_rows(connection, connection, since=BEGINNING)
    await reconcile_window_rows(connection, connection)
    read = await read_window(connection, connection, WINDOW)
    assert AGENT not in read.agents and read.excluded["forgotten"] == 1
    assert await connection.fetchval("SELECT agents FROM rl.recorded_windows") == 3
    await connection.execute("""UPDATE "trajectories" SET "finalPnL" = 78 WHERE "agentId" = $1""", AGENT)
    read = await read_window(connection, connection, WINDOW)  # changed since the feed has seen it
    assert AGENT not in read.agents and read.excluded["forgotten"] == 1


async def test_versions_that_learned_from_it_are_named_and_marked(
    kept: Kept, connection: asyncpg.Connection
) -> None:
    report = await kept.forget()
    assert (report.affected_versions, report.built_on) == (["v0.0.1"], ["v0.0.2"])
    manifests = dict(await connection.fetch("SELECT version, manifest FROM rl.models"))
    assert manifests["v0.0.1"]["reproducible"] is False and manifests["v0.0.1"]["seed"] == 1
    assert "reproducible" not in manifests["v0.0.2"] and "reproducible" not in manifests["v0.0.3"]
    on_disk = json.loads((kept.checkpoint / "manifest.json").read_text())
    assert on_disk["reproducible"] is False and on_disk["batch"] == kept.batch.sha256
    assert report.exports == ["s3://b/one"]


async def test_a_trained_day_stays_trained(kept: Kept, connection: asyncpg.Connection) -> None:
    await kept.forget()
    batch = await build_batch(connection, kept.store, "2026-10-02", RULES)
    assert batch.sha256 == kept.batch.sha256 and batch.episodes == 3


async def test_archives_are_rewritten_also_those_the_ledger_does_not_know(
    kept: Kept, connection: asyncpg.Connection
) -> None:
    folder = kept.settings.home / "archives" / "2026-10-02T03_00"
    await connection.execute("DELETE FROM rl.archives")
    report = await forget_agent(
        connection, connection, kept.store, kept.settings, AGENT, archives=[kept.place.url]
    )
    (left,) = folder.iterdir()
    assert report.archives == [kept.place.at(f"2026-10-02T03_00/{left.name}")]
    assert left.name != kept.archived.sha256
    import zstandard

    for file in left.glob("*.zst"):
        with file.open("rb") as content:
            assert AGENT.encode() not in zstandard.ZstdDecompressor().stream_reader(content).read()


async def test_a_repetition_goes_on_and_changes_nothing_more(
    kept: Kept, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def crash(*_: object) -> None:
        raise RuntimeError("killed")

    with monkeypatch.context() as patched, pytest.raises(RuntimeError):
        patched.setattr(forget, "_point_to_successor", crash)  # between a file's successor and its pointers
        await kept.forget()
    report = await kept.forget()
    assert await kept.mentions() == ["rl.window_rows"]
    assert report.affected_versions == ["v0.0.1"]
    again = await kept.forget()
    assert again.files == [] and again.archives == [] and sum(again.pipeline_rows.values()) == 0
    assert again.affected_versions == ["v0.0.1"]


async def test_what_the_gateway_captured_of_it_goes_whoever_called(
    kept: Kept, connection: asyncpg.Connection
) -> None:
    steps = await connection.fetchval('SELECT "stepsJson" FROM "trajectories" WHERE "agentId" = $1', AGENT)
    theirs = json.loads(str(steps))[0]["llmCalls"][0]["responseId"]
    for response_id, agent in ((theirs, None), ("by-name", AGENT), ("another", "agent-a")):
        await connection.execute(
            """INSERT INTO rl.llm_calls (response_id, started_at, latency_ms, agent_id, agent_verified,
                   requested_model, fallback, attempts, stream, status, messages, parameters, content_sha256,
                   capture_level)
               VALUES ($1, now(), 1, $2, false, 'm', false, 1, false, 200, '[]', '{}', 'x', 'process')""",
            *(response_id, agent),
        )
    await kept.forget()
    left = await connection.fetch("SELECT response_id FROM rl.llm_calls")
    assert [row["response_id"] for row in left] == ["another"]


async def test_an_unknown_agent_is_an_error(kept: Kept, connection: asyncpg.Connection) -> None:
    with pytest.raises(UnknownAgentError, match="agent-nobody"):
        await forget_agent(connection, connection, kept.store, kept.settings, "agent-nobody")
    assert await connection.fetchval("SELECT count(*) FROM rl.forgotten_agents") == 0
