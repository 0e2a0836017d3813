"""Whether there is enough to train, in the seeds' words, and which day would be trained.

What counts is what the live lineage was not trained on yet: its readable rows, and its windows with enough
agents. The thresholds are settings; nothing here starts anything.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import asyncpg

from babylon_rl.settings import Settings
from babylon_rl.windows import windows_of_day

READY = "Ready to train!"

_TOTALS = """
SELECT coalesce(sum(recorded.rows + CASE WHEN $2 THEN test_rows ELSE 0 END), 0)::int AS rows,
       coalesce(sum(recorded.rows) FILTER (WHERE due), 0)::int AS unscored,
       count(*) FILTER (WHERE agents + CASE WHEN $2 THEN test_agents ELSE 0 END >= $1)::int AS groups,
       coalesce(sum(recorded.rows + unreadable), 0)::int AS found,
       coalesce(sum(good_rows), 0)::int AS good,
       count(*) FILTER (WHERE due AND taken IS NOT NULL)::int AS stale
  FROM rl.recorded_windows AS recorded
 WHERE NOT EXISTS (SELECT FROM rl.trained_windows AS trained
                    WHERE trained.window_id = recorded.window_id AND trained.branch IS NULL)
"""
# Days that are over and not trained; `empty` is why a day's batch came out empty.
_DAYS = """
SELECT days.day, coalesce(state.resolved, 0)::int AS resolved, coalesce(state.scored, 0)::int AS scored,
       coalesce(state.episodes, 0)::int AS episodes, batch.reason AS empty
  FROM (SELECT DISTINCT left(window_id, 10) AS day FROM rl.recorded_windows) AS days
  LEFT JOIN (SELECT left(window_id, 10) AS day,
                    count(*) FILTER (WHERE group_status <> 'immature') AS resolved,
                    count(*) FILTER (WHERE group_status = 'scored') AS scored,
                    sum(episodes) FILTER (WHERE group_status = 'scored') AS episodes
               FROM rl.window_state GROUP BY 1) AS state USING (day)
  LEFT JOIN LATERAL (SELECT status, reason FROM rl.training_batches
                      WHERE training_batches.day = days.day::date
                      ORDER BY created_at DESC LIMIT 1) AS batch ON batch.status = 'empty'
 WHERE days.day < $1 AND ($2::text IS NULL OR days.day = $2)
   AND NOT EXISTS (SELECT FROM rl.trained_days AS trained
                    WHERE trained.day = days.day::date AND trained.version IS NOT NULL)
 ORDER BY days.day
"""


@dataclass(frozen=True)
class Day:
    """A day that is over and not trained.

    Attributes:
        resolved: Windows with a final verdict, of those that are partitions.
        scored: Windows whose group carries a signal.
        episodes: Episodes in them.
        empty: Why its batch came out empty; None where it did not.
    """

    day: str
    resolved: int
    scored: int
    episodes: int
    empty: str | None

    def waits(self, settings: Settings) -> str | None:
        """What it waits for; None if nothing."""
        windows = sum(window >= settings.first_partition for window in windows_of_day(self.day))
        if self.resolved >= windows:
            return None
        return f"{self.day} waits: {self.resolved} of {windows} windows are resolved"


@dataclass(frozen=True)
class Readiness:
    """Whether training makes sense now.

    Attributes:
        reasons: Why not, all of them; empty when ready.
        day: The day that would be trained; None if there is none.
        stale: Windows whose content changed after they were scored.
    """

    reasons: tuple[str, ...]
    trajectories: int
    unscored: int
    groups: int
    quality: float
    stale: int
    day: Day | None
    thresholds: dict[str, float]

    @property
    def ready(self) -> bool:
        return not self.reasons

    def to_json(self) -> dict[str, Any]:
        """The seeds' object; `reasons`, `day` and `thresholds` are additions."""
        return {
            "ready": self.ready,
            "reason": self.reasons[0] if self.reasons else READY,
            "stats": {
                "totalTrajectories": self.trajectories,
                "unscoredTrajectories": self.unscored,
                "scenarioGroups": self.groups,
                "dataQuality": round(self.quality, 4),
            },
            "reasons": list(self.reasons),
            "day": self.day.day if self.day else None,
            "thresholds": self.thresholds,
        }


async def read_readiness(
    rl: asyncpg.Connection, settings: Settings, now: datetime | None = None
) -> Readiness:
    """Reads it in two queries."""
    needed = settings.min_agents_per_window
    row = await rl.fetchrow(_TOTALS, needed, settings.include_test_agents)
    assert row is not None  # an aggregate has one row
    quality = row["good"] / row["found"] if row["found"] else 1.0
    day = next((day for day in await untrained_days(rl, now=now) if day.empty is None), None)
    reasons = []
    if row["rows"] < settings.training_min_trajectories:
        reasons.append(f"Need {settings.training_min_trajectories - row['rows']} more trajectories")
    if row["groups"] < settings.training_min_groups:
        reasons.append(f"Need more scenario groups ({row['groups']}/{settings.training_min_groups} minimum)")
    if quality < settings.data_quality_threshold:
        reasons.append(
            f"Data quality too low ({quality * 100:.1f}% < {settings.data_quality_threshold * 100:.1f}%)"
        )
    if day is None:
        reasons.append("No day is over that was recorded and not trained")
    elif waits := day.waits(settings):
        reasons.append(waits)
    elif not day.episodes:
        reasons.append(f"No data: no group of {day.day} carries a signal")
    return Readiness(
        tuple(reasons),
        row["rows"],
        row["unscored"],
        row["groups"],
        quality,
        row["stale"],
        day,
        {
            "trajectories": settings.training_min_trajectories,
            "groups": settings.training_min_groups,
            "agentsPerWindow": needed,
            "quality": settings.data_quality_threshold,
        },
    )


async def untrained_days(
    rl: asyncpg.Connection, day: str | None = None, *, now: datetime | None = None
) -> list[Day]:
    """The recorded days before today (UTC) that are not trained, oldest first; or only the named one."""
    today = f"{(now or datetime.now(UTC)).astimezone(UTC):%Y-%m-%d}"
    return [Day(**row) for row in await rl.fetch(_DAYS, today, day)]
