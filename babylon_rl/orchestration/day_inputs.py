"""What the daily assets are made of: is it there, and is it what it should be, whoever launched the run."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import asyncpg

from babylon_rl.errors import BabylonError
from babylon_rl.orchestration.readiness import PATIENCE, WindowFacts, partitions_of_day, read_windows
from babylon_rl.scoring.groups import IMMATURE, UNJUDGED
from babylon_rl.settings import Settings
from babylon_rl.training.batch_records import READY
from babylon_rl.training.errors import MissingBatchError
from babylon_rl.windows import window_id_at, windows_of_day

_TRAINED = "SELECT EXISTS (SELECT FROM rl.trained_days WHERE day = $1::text::date AND version IS NOT NULL)"
# A group's scores are kept under its hash, so its first one says since when the window has this group.
_SCORED_SINCE = """
SELECT state.window_id FROM rl.window_state AS state
 WHERE state.window_id >= $1 AND state.window_id <= $2 AND state.group_status = 'scored'
   AND (SELECT min(scored_at) FROM rl.scores AS score
         WHERE score.window_id = state.window_id AND score.group_sha256 = state.group_sha256)
       > (SELECT max(created_at) FROM rl.training_batches WHERE day = $3::text::date)
 ORDER BY 1
"""
_BATCH = """
SELECT batch.status, batch.created_at,
       EXISTS (SELECT FROM rl.training_units AS unit WHERE unit.day = batch.day) AS begun
  FROM rl.training_batches AS batch WHERE batch.day = $1::text::date ORDER BY created_at DESC LIMIT 1
"""


class UnresolvedDayError(BabylonError):
    """A day some of whose windows have rows and no verdict."""


class StaleBatchError(BabylonError):
    """A day whose windows were scored anew after its batch was made, and before it is trained."""


class UntrainedDayError(BabylonError):
    """A day that is to be judged and has not been trained."""


@dataclass(frozen=True)
class DayInputs:
    """The windows of a day that are not what they should be before it is trained.

    Attributes:
        unresolved: They have rows, and no final verdict on any of their content.
        stale: They have a verdict, and have changed since.
    """

    unresolved: Sequence[WindowFacts]
    stale: Sequence[WindowFacts]

    def require(self, day: str) -> None:
        """Checks that nothing is unresolved.

        Raises:
            UnresolvedDayError: With the first windows and their statuses.
        """
        if self.unresolved:
            named = ", ".join(
                f"{f.window_id} ({f.group_status or 'not scored'})" for f in self.unresolved[:3]
            )
            more = f" and {len(self.unresolved) - 3} more" if len(self.unresolved) > 3 else ""
            raise UnresolvedDayError(
                f"{day}: {len(self.unresolved)} windows with rows have no verdict yet: {named}{more}",
                f"`babylon backfill --from {day} --to {day}` makes them; `force: true` in the run config of "
                "training_batch trains without them.",
            )


async def day_inputs(rl: asyncpg.Connection, day: str, settings: Settings, now: datetime) -> DayInputs:
    """Looks at the windows of a day. A day that was trained has its batch already and needs nothing.

    A window that no judge could judge for `PATIENCE` does not hold its day for ever.
    """
    windows = partitions_of_day(day, settings)
    if not windows or await rl.fetchval(_TRAINED, day):
        return DayInputs((), ())
    given_up = window_id_at(now - PATIENCE)
    facts = [f for f in await read_windows(rl, windows[0], windows[-1]) if f.rows]
    return DayInputs(
        [
            f
            for f in facts
            if f.group_status in (None, IMMATURE) or (f.group_status == UNJUDGED and f.window_id >= given_up)
        ],
        [f for f in facts if f.stale],
    )


async def require_current_batch(rl: asyncpg.Connection, day: str) -> None:
    """Checks that a day's batch was made of its windows as they are. A trained day keeps its batch.

    Raises:
        StaleBatchError: Windows have other groups than when the batch was made.
    """
    if await rl.fetchval(_TRAINED, day):
        return
    windows = windows_of_day(day)
    changed = [row["window_id"] for row in await rl.fetch(_SCORED_SINCE, windows[0], windows[-1], day)]
    if changed:
        raise StaleBatchError(
            f"{day}: {len(changed)} windows were scored after the day's batch was made: "
            f"{', '.join(changed[:3])}{' …' if len(changed) > 3 else ''}",
            f"Materialize {day} of training_batch again; `force: true` in the run config of "
            "trained_checkpoint trains the batch as it is.",
        )


async def require_training(rl: asyncpg.Connection, day: str, tried_at: datetime | None = None) -> None:
    """Checks that there was a training of a day that has something to train, whatever came of it.

    Args:
        tried_at: When trained_checkpoint last ended. A training that failed before it began is not in the
            ledger.

    Raises:
        MissingBatchError: The day has no batch.
        UntrainedDayError: Its batch waits for its training.
    """
    batch = await rl.fetchrow(_BATCH, day)
    if batch is None:
        raise MissingBatchError(day)
    begun = batch["begun"] or (tried_at is not None and tried_at >= batch["created_at"])
    if batch["status"] == READY and not begun:
        raise UntrainedDayError(
            f"{day} has a batch and has not been trained", f"Materialize {day} of trained_checkpoint first."
        )
