"""A window as it was frozen: its snapshot file, its orders' values and its outcomes, ready to be scored."""

from collections.abc import Sequence

import asyncpg
import msgspec

from babylon_rl.outcomes.market import load_outcomes
from babylon_rl.outcomes.pricing import load_order_values
from babylon_rl.records.lean import decode_lean_record
from babylon_rl.records.reader import WindowRead
from babylon_rl.records.store import ArtifactStore
from babylon_rl.records.trajectory import decode_record
from babylon_rl.scoring.episodes import build_episodes
from babylon_rl.scoring.groups import IMMATURE, with_calls
from babylon_rl.scoring.window_scorer import ScoredWindow, WindowToScore

SETTLED = "settled"
"""Status of a window whose outcomes were derived after it was over."""

_STATE = "SELECT snapshot_uri, outcomes_status FROM rl.window_state WHERE window_id = $1"


class LoadedWindow(msgspec.Struct):
    """What there is to score of one window, and what is still missing."""

    window: WindowToScore
    missing: str | None
    """The asset that has not been materialized for it: then whatever is scored is immature."""
    lines: Sequence[bytes]
    """The snapshot's records; kept only where the episodes are lean, for the calls that are trained."""

    def complete(self, scored: ScoredWindow) -> ScoredWindow:
        """Returns the scored window with the calls of its members, or as immature if something is missing."""
        group = scored.group
        if self.missing is not None:
            group = msgspec.structs.replace(
                group,
                status=IMMATURE,
                reason=f"{self.missing} of this window is not materialized",
                members=[],
            )
        if group.members and self.lines:
            group = with_calls(group, map(decode_record, self.lines))
        return ScoredWindow(group, scored.run, scored.judgments)


async def load_window(
    rl: asyncpg.Connection, store: ArtifactStore, window_id: str, *, horizon: str, whole: bool
) -> LoadedWindow:
    """Reads a window from its stored snapshot.

    Args:
        rl: Connection to the database with schema `rl`; for outcomes, under a role that may read them.
        store: Where snapshots are.
        window_id: A window that may or may not have been frozen.
        horizon: Which of an order's values counts.
        whole: Read steps and calls as well; the lean view is enough for scores that only use numbers.

    Raises:
        ArtifactError: The snapshot's file is missing or damaged.
    """
    state = await rl.fetchrow(_STATE, window_id)
    uri = state["snapshot_uri"] if state else None
    lines = store.lines(uri) if uri else []
    settled = state is not None and state["outcomes_status"] == SETTLED
    orders = await load_order_values(rl, window_id) if settled else None
    if whole:
        read = WindowRead(window_id, [decode_record(line) for line in lines], {}, [])
        episodes = build_episodes(read, orders, horizon=horizon)
    else:
        lean = WindowRead(window_id, [decode_lean_record(line) for line in lines], {}, [])
        episodes = build_episodes(lean, orders, horizon=horizon)
    missing = None
    if uri is None:
        missing = "trajectories"
    elif episodes and not settled:
        missing = "market_outcomes"
    outcomes = await load_outcomes(rl, window_id) if whole and settled else None
    return LoadedWindow(WindowToScore(window_id, episodes, outcomes), missing, [] if whole else lines)
