"""The scoring of frozen windows: from snapshots to rewards, verdicts in `rl`, and the game's projection.

    async for done in score_windows(db, store, window_ids, settings, connect):
        done.scored.group, done.file

Results come in the order of the windows. A judge works on several windows at once, at most as many as it may
have requests, so the memory does not grow with the number of windows. A window that could not be judged keeps
the verdict that it had before.
"""

import logging
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

import asyncpg

from babylon_rl.database.connection import Databases
from babylon_rl.records.store import Artifact, ArtifactStore
from babylon_rl.scoring.frozen import KeptWindow, read_frozen
from babylon_rl.scoring.groups import IMMATURE, UNJUDGED, to_records
from babylon_rl.scoring.judge.history import EarlierScores, earlier_scores, project, store_run
from babylon_rl.scoring.scorers import JUDGED, Connect
from babylon_rl.scoring.stream import score_stream
from babylon_rl.scoring.window_scorer import ScoredWindow
from babylon_rl.settings import Settings

logger = logging.getLogger(__name__)

_SETTLED = """
UPDATE rl.recorded_windows SET settled = $2, stale_reason = $3 WHERE window_id = $1
"""
_SCORED = """
INSERT INTO rl.window_state (window_id, episodes, group_status, group_reason, group_sha256, group_uri, scorer,
                             reward_mean, reward_std, pnl_mean, pnl_spearman, pnl_variance_share)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
ON CONFLICT (window_id) DO UPDATE
   SET episodes = excluded.episodes, group_status = excluded.group_status,
       group_reason = excluded.group_reason, group_sha256 = excluded.group_sha256,
       group_uri = excluded.group_uri, scorer = excluded.scorer, reward_mean = excluded.reward_mean,
       reward_std = excluded.reward_std, pnl_mean = excluded.pnl_mean, pnl_spearman = excluded.pnl_spearman,
       pnl_variance_share = excluded.pnl_variance_share, updated_at = now()
"""
_SCORES = """
INSERT INTO rl.scores (window_id, agent_id, scorer, group_sha256, reward, advantage, components)
VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (window_id, agent_id, group_sha256) DO NOTHING
"""
_HAS_VERDICT = """
SELECT group_status IN ('scored', 'no_spread') FROM rl.window_state WHERE window_id = $1
"""


@dataclass(frozen=True)
class StoredWindow:
    """A scored window.

    Attributes:
        scored: Its group, and how it was judged.
        file: The immutable file of the group.
        earlier: Its judgment before this one, None if there was none.
    """

    scored: ScoredWindow
    file: Artifact
    earlier: EarlierScores | None = None


async def score_windows(
    db: Databases, store: ArtifactStore, window_ids: Sequence[str], settings: Settings, connect: Connect
) -> AsyncIterator[StoredWindow]:
    """Scores windows from their stored snapshots and stores each group as an immutable file.

    Args:
        db: Databases under the judge's role; used by the caller's task only.
        store: Where snapshots are and groups go.
        window_ids: The windows, in order.
        settings: Which scorer, and how.
        connect: Opens the connection on which a judge keeps verdicts and books.

    Raises:
        ScoringError: No window can be scored like this; those before are stored.
    """
    judged = settings.scorer in JUDGED
    whole = judged or settings.scorer == "function"

    async def frozen() -> AsyncIterator[KeptWindow]:
        for window_id in window_ids:
            yield await read_frozen(db.rl, store, window_id, horizon=settings.training_horizon, whole=whole)

    async for scored in score_stream(frozen(), settings, connect):
        earlier = await earlier_scores(db.rl, scored.group.window_id) if scored.judgments else None
        yield StoredWindow(scored, await _store(db, store, scored, settings), earlier)


async def _store(db: Databases, store: ArtifactStore, scored: ScoredWindow, settings: Settings) -> Artifact:
    group = scored.group
    artifact = store.put("groups", group.window_id, to_records(group))
    async with db.rl.transaction():
        unjudged = group.status == UNJUDGED
        if not unjudged or not await db.rl.fetchval(_HAS_VERDICT, group.window_id):
            settled = group.status not in (IMMATURE, UNJUDGED)
            why = "it could not be judged" if unjudged else None
            await db.rl.execute(_SETTLED, group.window_id, settled, why)
            await _store_verdict(db.rl, scored, artifact)
        await store_run(db.rl, scored, artifact.sha256 if group.members else None)
    if settings.project_to_game and scored.judgments:
        await _project(db.game, scored, artifact.sha256)
    return artifact


async def _store_verdict(rl: asyncpg.Connection, scored: ScoredWindow, artifact: Artifact) -> None:
    group = scored.group
    await rl.execute(
        _SCORED,
        group.window_id,
        group.agents,
        group.status,
        group.reason,
        artifact.sha256,
        artifact.uri,
        group.scorer,
        group.reward_mean,
        group.reward_std,
        group.pnl_mean,
        group.pnl_spearman,
        group.pnl_variance_share,
    )
    await rl.executemany(
        _SCORES,
        [
            (group.window_id, m.agent_id, group.scorer, artifact.sha256, m.reward, m.advantage, m.components)
            for m in group.members
        ],
    )


async def _project(game: asyncpg.Connection, scored: ScoredWindow, group_sha256: str) -> None:
    """Shows judgments to the game; a failure undoes nothing in `rl`, and the next scoring repeats it."""
    try:
        await project(game, scored, group_sha256)
    except asyncpg.PostgresError as problem:
        logger.warning("judgments of %s were not shown to the game: %s", scored.group.window_id, problem)
