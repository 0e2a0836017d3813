"""A window as it was frozen: its snapshot file, its orders' values and its outcomes, ready to be scored."""

from collections.abc import Sequence

import asyncpg
import msgspec

from babylon_rl.outcomes.market import load_outcomes
from babylon_rl.outcomes.pricing import OrderValue, load_order_values
from babylon_rl.outcomes.window_outcomes import WindowOutcomes
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


class KeptWindow(msgspec.Struct, frozen=True, kw_only=True):
    """A window as it is stored; small to keep and to send, decoded by whoever scores it."""

    window_id: str
    lines: list[bytes]
    """The snapshot's records."""
    kept: bool
    """Whether there is a snapshot."""
    settled: bool
    orders: list[OrderValue] | None
    outcomes: WindowOutcomes | None
    horizon: str
    whole: bool

    def load(self) -> LoadedWindow:
        """Decodes the records and builds the episodes."""
        decode = decode_record if self.whole else decode_lean_record
        read = WindowRead(self.window_id, [decode(line) for line in self.lines], {}, [])  # type: ignore[arg-type]
        episodes = build_episodes(read, self.orders, horizon=self.horizon)
        missing = None
        if not self.kept:
            missing = "trajectories"
        elif episodes and not self.settled:
            missing = "market_outcomes"
        window = WindowToScore(self.window_id, episodes, self.outcomes)
        return LoadedWindow(window, missing, [] if self.whole else self.lines)


async def read_frozen(
    rl: asyncpg.Connection, store: ArtifactStore, window_id: str, *, horizon: str, whole: bool
) -> KeptWindow:
    """Reads a window's stored snapshot, and what its orders and its hour came to.

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
    settled = state is not None and state["outcomes_status"] == SETTLED
    return KeptWindow(
        window_id=window_id,
        lines=list(store.lines(uri)) if uri else [],
        kept=uri is not None,
        settled=settled,
        orders=await load_order_values(rl, window_id) if settled else None,
        outcomes=await load_outcomes(rl, window_id) if whole and settled else None,
        horizon=horizon,
        whole=whole,
    )


async def load_window(
    rl: asyncpg.Connection, store: ArtifactStore, window_id: str, *, horizon: str, whole: bool
) -> LoadedWindow:
    """Reads and decodes a window; see `read_frozen`."""
    return (await read_frozen(rl, store, window_id, horizon=horizon, whole=whole)).load()
