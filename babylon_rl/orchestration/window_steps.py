"""The first two steps of a window, each from the rooms that do it to the verdict in `rl.window_state`.

    frozen = await freeze_window(db, store, "2026-10-01T14:00", settings)     # trajectories
    derived = await derive_window(db, "2026-10-01T14:00", settings)           # market_outcomes

The third one is in `scoring_steps.py`. No step raises for what a window holds: an empty, thin or unreadable
one gets a status. Steps are idempotent, and each reads what the one before it stored, not what it returned.
"""

import hashlib
from dataclasses import dataclass

import msgspec

from babylon_rl.database.connection import Databases
from babylon_rl.outcomes.credit import credit_windows
from babylon_rl.outcomes.market import OpenWindowError
from babylon_rl.outcomes.pricing import OrderValue
from babylon_rl.outcomes.sync import sync_window
from babylon_rl.outcomes.window_outcomes import WindowOutcomes
from babylon_rl.records.lean import LeanTrajectory, lean_trajectory
from babylon_rl.records.quality import WindowQuality, load_window_quality
from babylon_rl.records.reader import WindowRead, WindowStream, read_window
from babylon_rl.records.store import Artifact, ArtifactStore
from babylon_rl.records.trajectory import to_record
from babylon_rl.scoring.frozen import SETTLED
from babylon_rl.settings import Settings

_FROZEN = """
INSERT INTO rl.window_state (window_id, rows, agents, snapshot_status, snapshot_sha256, snapshot_uri)
VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (window_id) DO UPDATE
   SET rows = excluded.rows, agents = excluded.agents, snapshot_status = excluded.snapshot_status,
       snapshot_sha256 = excluded.snapshot_sha256, snapshot_uri = excluded.snapshot_uri, updated_at = now()
"""
# A window whose content is another one than before has no verdict on it yet; an older verdict is stale, which
# has to be remembered: the run may end here, and from now on the rows are those of the snapshot.
_TAKEN = """
UPDATE rl.recorded_windows AS recorded
   SET settled = settled AND taken IS NOT DISTINCT FROM $2,
       stale_reason = CASE WHEN taken IS DISTINCT FROM $2 AND state.group_status IS NOT NULL
                           THEN coalesce(stale_reason, 'frozen with other rows and not scored since')
                           ELSE stale_reason END,
       taken = $2, taken_rows = $3, taken_at = now()
  FROM rl.window_state AS state
 WHERE recorded.window_id = $1 AND state.window_id = $1
"""
_DERIVED = """
INSERT INTO rl.window_state (window_id, outcomes_status, outcomes_sha256, outcomes_at)
VALUES ($1, $2, $3, now())
ON CONFLICT (window_id) DO UPDATE
   SET outcomes_status = excluded.outcomes_status, outcomes_sha256 = excluded.outcomes_sha256,
       outcomes_at = excluded.outcomes_at, updated_at = now()
"""


@dataclass(frozen=True)
class FrozenWindow:
    """A window's snapshot.

    Attributes:
        read: What the window holds: trajectories (lean), rows left out by reason, quarantined rows.
        snapshot: The immutable file of its whole trajectories.
        quality: Data quality of its rows; None for a window without rows.
    """

    read: WindowRead[LeanTrajectory]
    snapshot: Artifact
    quality: WindowQuality | None

    @property
    def status(self) -> str:
        return "frozen" if self.read.trajectories else "empty"


@dataclass(frozen=True)
class DerivedWindow:
    """What the markets did in a window, and what its agents' orders were worth.

    Attributes:
        outcomes: None while the window is open.
        orders: Values at every horizon.
        status: `settled`, or why there is nothing yet.
    """

    outcomes: WindowOutcomes | None
    orders: list[OrderValue]
    status: str

    @property
    def digest(self) -> str:
        """Hash of the outcomes and of the orders' values."""
        digest = hashlib.sha256((self.outcomes.sha256 if self.outcomes else self.status).encode())
        digest.update(msgspec.json.encode(self.orders, order="deterministic"))
        return digest.hexdigest()


async def freeze_window(
    db: Databases, store: ArtifactStore, window_id: str, settings: Settings
) -> FrozenWindow:
    """Reads a window as `rl.window_rows` lists it and stores its trajectories as an immutable file.

    The window is streamed, so it may be larger than the memory.
    """
    read, snapshot = await _store_snapshot(db, store, window_id, settings.include_test_agents)
    frozen = FrozenWindow(read, snapshot, await load_window_quality(db.rl, window_id))
    rows = len(read.trajectories)
    async with db.rl.transaction():
        await db.rl.execute(
            _FROZEN, window_id, rows, len(read.agents), frozen.status, snapshot.sha256, snapshot.uri
        )
        await db.rl.execute(_TAKEN, window_id, read.fingerprint, rows)
    return frozen


async def _store_snapshot(
    db: Databases, store: ArtifactStore, window_id: str, include_test_users: bool
) -> tuple[WindowRead[LeanTrajectory], Artifact]:
    stream = WindowStream(db.game, db.rl, window_id, include_test_users=include_test_users)
    with store.writer("trajectories", window_id) as file:
        async for batch in stream:
            for trajectory in batch:
                file.add(to_record(trajectory))
                stream.read.trajectories.append(lean_trajectory(trajectory))
        if not stream.reordered:
            return stream.read, file.publish()
    # Rows changed under our hands, so they came out of order: equal content has to give an equal file.
    whole = await read_window(db.game, db.rl, window_id, include_test_users=include_test_users)
    snapshot = store.put("trajectories", window_id, map(to_record, whole.trajectories))
    trajectories = [lean_trajectory(trajectory) for trajectory in whole.trajectories]
    read = WindowRead(window_id, trajectories, whole.excluded, whole.quarantined, whole.fingerprint)
    return read, snapshot


async def derive_window(db: Databases, window_id: str, settings: Settings) -> DerivedWindow:
    """Derives a window's outcomes and values its orders at the horizons that have passed.

    What was resolved in it is credited to the orders of the windows in which it was traded.
    """
    delay, horizon = settings.window_delay, settings.training_horizon
    try:
        synced = await sync_window(
            db.game,
            db.rl,
            window_id,
            delay=delay,
            horizon=horizon,
            project_to_game=settings.project_to_game,
        )
    except OpenWindowError as still_open:
        derived = DerivedWindow(None, [], still_open.problem)
    else:
        await credit_windows(db.game, db.rl, delay=delay, horizon=horizon)
        derived = DerivedWindow(synced.outcomes, synced.orders, SETTLED)
    await db.rl.execute(
        _DERIVED, window_id, derived.status, derived.outcomes.sha256 if derived.outcomes else None
    )
    return derived
