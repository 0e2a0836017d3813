"""Windows with all that is kept of them: game rows, snapshot, outcomes, order values, group, scores."""

from collections.abc import Sequence
from pathlib import Path

import asyncpg

from babylon_rl.outcomes.market import derive_outcomes, store_outcomes
from babylon_rl.outcomes.pricing import value_orders
from babylon_rl.records.reader import read_window, refresh_window_rows
from babylon_rl.records.store import ArtifactStore
from babylon_rl.records.trajectory import to_records as snapshot_records
from babylon_rl.scoring.episodes import build_episodes
from babylon_rl.scoring.groups import ScoredGroup, score_window
from babylon_rl.scoring.groups import to_records as group_records
from babylon_rl.scoring.local import PnlScorer
from babylon_rl_tests.orchestration.recorded import record_window

AGENTS = ("agent-a", "agent-b", "agent-c", "agent-d")
WINDOW = "2026-10-02T03:00"


async def keep_window(
    connection: asyncpg.Connection, root: Path, window_id: str = WINDOW, agents: Sequence[str] = AGENTS
) -> tuple[ArtifactStore, ScoredGroup]:
    """Records a window and leaves behind what the hourly assets leave; one call log per trajectory."""
    store = ArtifactStore(root)
    await record_window(connection, window_id, agents, garbage=1)
    await connection.execute(
        """INSERT INTO "llm_call_logs" ("id", "trajectoryId", "stepId", "callId", "timestamp", "model",
               "purpose", "systemPrompt", "userPrompt", "response", "temperature", "maxTokens")
           SELECT t."id", t."trajectoryId", 's', t."id", t."startTime", 'm', 'action', 'T.', 'x', 'y', 1, 9
             FROM "trajectories" t ON CONFLICT DO NOTHING"""
    )
    await refresh_window_rows(connection, connection)
    await store_outcomes(connection, connection, await derive_outcomes(connection, window_id), False)
    values = await value_orders(connection, connection, window_id)
    read = await read_window(connection, connection, window_id)
    snapshot = store.put("trajectories", window_id, snapshot_records(read.trajectories))
    group = score_window(build_episodes(read, values), PnlScorer(0.25), 3, window_id=window_id)
    stored = store.put("groups", window_id, group_records(group))
    await connection.execute(
        """INSERT INTO rl.window_state (window_id, rows, agents, episodes, snapshot_status, snapshot_sha256,
               snapshot_uri, outcomes_status, group_status, group_sha256, group_uri, scorer)
           VALUES ($1, $2, $3, $3, 'frozen', $4, $5, 'settled', $6, $7, $8, $9)""",
        *(window_id, len(read.trajectories), len(read.agents), snapshot.sha256, snapshot.uri),
        *(group.status, stored.sha256, stored.uri, group.scorer),
    )
    for member in group.members:
        await connection.execute(
            """INSERT INTO rl.scores
                      (window_id, agent_id, scorer, group_sha256, reward, advantage, components)
               VALUES ($1, $2, $3, $4, $5, $6, $7)""",
            *(window_id, member.agent_id, group.scorer, stored.sha256, member.reward, member.advantage),
            member.components,
        )
    return store, group
