"""Forgetting an agent: its part of everything that is stored is deleted, and what was trained on it is named.

    report = await forget_agent(db.game, db.rl, store, settings, "agent-7", game_rows=False)
    report.affected_versions     # ["v0.0.4"]: their batches are no longer what they were trained on

Deleted: the agent's part of snapshots, groups, batches and archives, its scores, order values, captured
calls and what judges said of it. With `game_rows` also its trajectories and call logs in the game. From
then on rows of the agent are left out. Nothing can be taken back from trained weights, from exports, or
from what W&B and Dagster's event log were told; the report says where to look.

Every step can be repeated: after a crash the same call finishes the work.
"""

import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import asyncpg
import msgspec

from babylon_rl.deployment.errors import DeploymentError
from babylon_rl.deployment.registry import get
from babylon_rl.deployment.storage import local_path
from babylon_rl.policy.checkpoints import MANIFEST
from babylon_rl.records.archive_files import fetch, folder_of, publish
from babylon_rl.records.forgotten import FORGOTTEN, Forgotten, agent_hash
from babylon_rl.records.known_rows import note_deleted
from babylon_rl.records.places import open_place
from babylon_rl.records.scrub import Replaced, response_ids, scrub_store, without_agents
from babylon_rl.records.store import ArtifactStore
from babylon_rl.settings import Settings
from babylon_rl.training.payments import FORGET as _PAYMENTS

REASON = "data of an agent that was forgotten were deleted from its batch"

_REMEMBER = """
INSERT INTO rl.forgotten_agents AS known (agent_sha256, game_rows) VALUES ($1, $2)
ON CONFLICT (agent_sha256) DO UPDATE SET game_rows = known.game_rows OR excluded.game_rows
"""
_AFFECTED = """
UPDATE rl.forgotten_agents SET affected_versions = ARRAY(
    SELECT DISTINCT version FROM unnest(affected_versions || $2::text[]) AS version ORDER BY version
) WHERE agent_sha256 = $1
"""
_MARK = """
UPDATE rl.models SET manifest = coalesce(manifest, '{}') || $2::jsonb WHERE batch_sha256 = $1 RETURNING
version
"""
_DESCENDANTS = """
WITH RECURSIVE below AS (
    SELECT version FROM rl.models WHERE parent_version = ANY($1::text[])
    UNION
    SELECT model.version FROM rl.models AS model JOIN below ON model.parent_version = below.version
)
SELECT version FROM below WHERE version <> ALL ($1::text[]) ORDER BY version
"""
_POINTERS = (
    "UPDATE rl.window_state SET snapshot_uri = $2, snapshot_sha256 = $3 WHERE snapshot_uri = $1",
    "UPDATE rl.window_state SET group_uri = $2, group_sha256 = $3 WHERE group_uri = $1",
)
_GROUP_HASHES = (
    "UPDATE rl.scores SET group_sha256 = $2 WHERE group_sha256 = $1",
    "UPDATE rl.judge_runs SET group_sha256 = $2 WHERE group_sha256 = $1",
)
_CAPTURED = "DELETE FROM rl.llm_calls WHERE response_id = ANY ($1::text[])"
_STEPS = 'SELECT "stepsJson" FROM "trajectories" WHERE "agentId" = $1 AND "stepsJson" LIKE \'%"responseId"%\''
_BATCHES = "UPDATE rl.training_batches SET uri = $2 WHERE uri = $1 RETURNING batch_sha256"
# Verdicts quote the episodes that they are about, and a request holds several agents.
_JUDGED = """
DELETE FROM rl.judge_cache WHERE cache_key IN (
    SELECT calls.cache_key FROM rl.judge_calls AS calls JOIN rl.window_rows AS rows USING (window_id)
     WHERE rows.agent_id = $1)
"""
_OF_AGENT = {
    "scores": "DELETE FROM rl.scores WHERE agent_id = $1",
    "order_value": "DELETE FROM rl.order_value WHERE agent_id = $1",
    "llm_calls": "DELETE FROM rl.llm_calls WHERE agent_id = $1",
    "judgments": "DELETE FROM rl.judgments WHERE agent_id = $1",
    "paid_answers": "DELETE FROM rl.paid_answers WHERE agent_id = $1",
    "payments": _PAYMENTS,
    "judge_cache": _JUDGED,
    "quarantine": """DELETE FROM rl.quarantine WHERE trajectory_id IN
                     (SELECT trajectory_id FROM rl.window_rows WHERE agent_id = $1)""",
}
_KEEP_OUT = """
UPDATE rl.window_rows SET excluded = $2, content = NULL, quality = NULL, quality_reasons = NULL,
       instruments = NULL WHERE agent_id = $1
"""
_GAME = (
    """DELETE FROM "llm_call_logs" WHERE "trajectoryId" IN
       (SELECT "trajectoryId" FROM "trajectories" WHERE "agentId" = $1)""",
    'DELETE FROM "trajectories" WHERE "agentId" = $1',
)


class UnknownAgentError(DeploymentError):
    """Nothing is stored of the agent."""


class Forgetting(msgspec.Struct):
    """What forgetting an agent did."""

    pipeline_rows: dict[str, int] = {}
    """Rows deleted from `rl`, by table."""
    game_rows: int = 0
    """Trajectories deleted from the game."""
    files: list[Replaced] = []
    archives: list[str] = []
    """Addresses of the archives that were rewritten."""
    affected_versions: list[str] = []
    """Versions trained on the agent's data; their manifests say that they are not reproducible."""
    built_on: list[str] = []
    """Versions trained on top of those."""
    exports: list[str] = []
    """Datasets that were exported with the agent's data, for people to delete."""


async def forget_agent(
    game: asyncpg.Connection,
    rl: asyncpg.Connection,
    store: ArtifactStore,
    settings: Settings,
    agent_id: str,
    *,
    game_rows: bool = False,
    archives: Sequence[str] = (),
) -> Forgetting:
    """Deletes an agent's part of everything stored; see the module's text.

    Args:
        game_rows: Also delete its trajectories and call logs from the game's tables.
        archives: Places of archives that this installation's ledger does not know.

    Raises:
        UnknownAgentError: Nothing is stored of such an agent.
        PlaceError: An archive cannot be reached; what was done before stays done, and a repetition goes on.
    """
    agents = Forgotten(frozenset({agent_hash(agent_id)}))
    if not await _is_known(game, rl, agent_id):
        raise UnknownAgentError(
            f"nothing is stored of an agent {agent_id!r}", 'Agents are named by their id in "User".'
        )
    report = Forgetting()
    # First, so that no feed takes its rows up again meanwhile.
    await rl.execute(_REMEMBER, agent_hash(agent_id), game_rows)
    report.archives = await _rewrite_archives(rl, settings, agents, archives)
    for replaced in scrub_store(store, agents):
        await _point_to_successor(rl, replaced, agent_id)
        report.files.append(replaced)
    await _delete_captured(game, rl, agent_id)
    async with rl.transaction():
        for table, statement in _OF_AGENT.items():
            status = await rl.execute(statement, agent_id)
            report.pipeline_rows[table] = int(status.rsplit(" ", 1)[1])
    if game_rows:
        async with game.transaction():
            statuses = [await game.execute(statement, agent_id) for statement in _GAME]
        report.game_rows = int(statuses[-1].rsplit(" ", 1)[1])
    await _leave_out(rl, agent_id, gone=game_rows)
    affected = "SELECT affected_versions FROM rl.forgotten_agents WHERE agent_sha256 = $1"
    report.affected_versions = list(await rl.fetchval(affected, agent_hash(agent_id)) or ())
    for version in report.affected_versions:
        await _mark_checkpoint(rl, version)
    report.built_on = [row["version"] for row in await rl.fetch(_DESCENDANTS, report.affected_versions)]
    report.exports = [
        row["url"]
        for row in await rl.fetch(
            "SELECT url FROM rl.exports WHERE $1 = ANY(agents) ORDER BY id", agent_hash(agent_id)
        )
    ]
    return report


async def _is_known(game: asyncpg.Connection, rl: asyncpg.Connection, agent_id: str) -> bool:
    queries = (
        (rl, "SELECT EXISTS (SELECT FROM rl.forgotten_agents WHERE agent_sha256 = $1)", agent_hash(agent_id)),
        (rl, "SELECT EXISTS (SELECT FROM rl.window_rows WHERE agent_id = $1)", agent_id),
        (rl, "SELECT EXISTS (SELECT FROM rl.llm_calls WHERE agent_id = $1)", agent_id),
        (game, 'SELECT EXISTS (SELECT FROM "trajectories" WHERE "agentId" = $1)', agent_id),
    )
    for connection, query, value in queries:
        if await connection.fetchval(query, value):
            return True
    return False


async def _point_to_successor(rl: asyncpg.Connection, replaced: Replaced, agent_id: str) -> None:
    note = {"reproducible": False, "not_reproducible_because": REASON}
    async with rl.transaction():
        for statement in _POINTERS:
            await rl.execute(statement, replaced.old_uri, replaced.new_uri, replaced.new_sha256)
        for statement in _GROUP_HASHES:
            await rl.execute(statement, replaced.old_sha256, replaced.new_sha256)
        for batch in await rl.fetch(_BATCHES, replaced.old_uri, replaced.new_uri):
            models = await rl.fetch(_MARK, batch["batch_sha256"], note)
            await rl.execute(_AFFECTED, agent_hash(agent_id), [row["version"] for row in models])
        await rl.execute(_CAPTURED, replaced.response_ids)


async def _delete_captured(game: asyncpg.Connection, rl: asyncpg.Connection, agent_id: str) -> None:
    """Deletes what the gateway captured of calls that the agent recorded, whoever it thought was calling."""
    async with game.transaction():
        async for row in game.cursor(_STEPS, agent_id, prefetch=20):
            await rl.execute(_CAPTURED, response_ids(row["stepsJson"]))


async def _leave_out(rl: asyncpg.Connection, agent_id: str, *, gone: bool) -> None:
    ids = [
        row["trajectory_id"]
        for row in await rl.fetch("SELECT trajectory_id FROM rl.window_rows WHERE agent_id = $1", agent_id)
    ]
    await note_deleted(rl, ids)  # for the summaries of its windows
    if gone:
        await rl.execute("DELETE FROM rl.window_rows WHERE agent_id = $1", agent_id)
    else:
        await rl.execute(_KEEP_OUT, agent_id, FORGOTTEN)


async def _rewrite_archives(
    rl: asyncpg.Connection, settings: Settings, agents: Forgotten, places: Sequence[str]
) -> list[str]:
    """Replaces the archives that hold the agents, those of the ledger and those at more places."""
    known = {row["url"]: row["window_id"] for row in await rl.fetch("SELECT url, window_id FROM rl.archives")}
    for address in places:
        place = open_place(address, settings)
        for folder in place.names():
            window_id = folder.replace("_", ":")
            known |= {place.at(f"{folder}/{name}"): window_id for name in place.names(folder)}
    rewritten = []
    for url, window_id in known.items():
        root, _, sha256 = url.removesuffix("/").rsplit("/", 2)
        place = open_place(root, settings)
        with tempfile.TemporaryDirectory(prefix="babylon-forget-") as scratch:
            manifest = fetch(place, window_id, Path(scratch), sha256)
            without = without_agents(Path(scratch), manifest, agents)
            if without.sha256 == manifest.sha256:
                continue
            publish(place, Path(scratch), without)
            new_url = place.at(f"{folder_of(window_id)}/{without.sha256}")
            await rl.execute(
                "UPDATE rl.archives SET url = $2, sha256 = $3 WHERE url = $1", url, new_url, without.sha256
            )
            place.delete(f"{folder_of(window_id)}/{sha256}")
            rewritten.append(new_url)
    return rewritten


async def _mark_checkpoint(rl: asyncpg.Connection, version: str) -> None:
    """Says in the manifest beside the weights, too, that they cannot be made again."""
    try:
        path = local_path(await get(rl, version)) / MANIFEST
        manifest = json.loads(path.read_text())
    except (DeploymentError, OSError, ValueError):
        return  # not on this machine: the registry's copy says it
    manifest |= {"reproducible": False, "not_reproducible_because": REASON}
    staged = path.with_name(f".{MANIFEST}.{os.getpid()}")
    staged.write_text(json.dumps(manifest, indent=2, sort_keys=True) + "\n")
    os.replace(staged, path)
