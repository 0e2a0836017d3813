"""What a day's batch is made of: whether its windows have their verdicts, whoever launched the run."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import asyncpg

from babylon_rl.errors import BabylonError
from babylon_rl.orchestration.readiness import PATIENCE, WindowFacts, partitions_of_day, read_windows
from babylon_rl.scoring.groups import IMMATURE, UNJUDGED
from babylon_rl.settings import Settings
from babylon_rl.windows import window_id_at

_TRAINED = "SELECT EXISTS (SELECT FROM rl.trained_days WHERE day = $1::text::date AND version IS NOT NULL)"


class UnresolvedDayError(BabylonError):
    """A day some of whose windows have rows and no verdict."""


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
