"""Which windows can be processed now, which days can be trained now, and why the others cannot.

Pure verdicts over one query on schema `rl` each; the sensor, the schedule and `babylon windows` share them.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Literal

import asyncpg

from babylon_rl.scoring.groups import UNJUDGED
from babylon_rl.settings import Settings
from babylon_rl.windows import (
    WINDOW_LENGTH,
    day_of,
    is_complete,
    window_id_at,
    window_range,
    windows_between,
    windows_of_day,
)

HORIZONS = {"1h": timedelta(hours=1), "24h": timedelta(hours=24)}

PATIENCE = timedelta(days=2)
"""How long a day waits for windows that could not be judged."""

Verdict = Literal["ready", "thin", "matured", "waiting", "done"]

# One row per wanted window that has rows or was processed: those from $1 to $2 and those named in $3.
_WINDOWS = """
SELECT coalesce(r.window_id, s.window_id) AS window_id,
       coalesce(r.rows, 0) AS rows, coalesce(r.agents, 0) AS agents, coalesce(r.test_rows, 0) AS test_rows,
       coalesce(r.test_agents, 0) AS test_agents, coalesce(r.unreadable, 0) AS unreadable, r.good_rows,
       coalesce(r.fingerprint, '') AS fingerprint, r.seen_at, r.taken, r.taken_rows, r.stale_reason,
       s.group_status, s.group_reason, s.snapshot_status, s.outcomes_status, s.updated_at AS processed_at,
       s.episodes, s.scorer, s.reward_mean, s.reward_std, s.pnl_mean
FROM (
    SELECT * FROM rl.recorded_windows WHERE window_id BETWEEN $1 AND $2 OR window_id = ANY($3)
) r
FULL JOIN (
    SELECT * FROM rl.window_state WHERE window_id BETWEEN $1 AND $2 OR window_id = ANY($3)
) s USING (window_id)
"""
_DUE = """
SELECT window_id, rows, agents, taken IS NOT NULL AND taken <> fingerprint AS stale
  FROM rl.recorded_windows WHERE due ORDER BY window_id
"""

_SPAN = "SELECT min(window_id) AS first, max(window_id) AS last FROM rl.window_rows"
# By content, not by when it was found: a window that was found during a tick, or that did not fit into one,
# is found again by the next. $1 helps where the content at the last scoring is not known.
_LATE_WINDOWS = """
SELECT r.window_id FROM rl.recorded_windows r LEFT JOIN rl.window_state s USING (window_id)
 WHERE r.due AND r.window_id < $2
   AND (r.taken <> r.fingerprint OR r.stale_reason IS NOT NULL OR r.seen_at > $1
        OR r.taken IS NULL AND (s.group_status IS NULL OR r.seen_at > s.updated_at))
 ORDER BY r.window_id LIMIT $3
"""

_DAYS = """
SELECT left(window_id, 10) AS day,
       count(*) FILTER (WHERE group_status <> 'immature'
                          AND (group_status <> 'unjudged' OR window_id < $1)) AS resolved,
       count(*) FILTER (WHERE group_status = 'scored') AS scored,
       coalesce(sum(episodes) FILTER (WHERE group_status = 'scored'), 0) AS episodes
FROM rl.window_state
WHERE snapshot_status IS NOT NULL OR group_status IS NOT NULL
GROUP BY 1
ORDER BY 1
"""


@dataclass(frozen=True)
class WindowFacts:
    """What is recorded of one window, and what was made of it.

    Attributes:
        rows: Rows that count: readable, each once, of players that are not test users.
        agents: Distinct agents among them.
        test_rows: Readable rows of test users; they count where INCLUDE_TEST_AGENTS is set.
        good_rows: Rows above the bar of data quality; None if that is not known.
        fingerprint: Hash over the window's row fingerprints; changes when a row comes, goes or changes.
        seen_at: When its content last changed.
        taken: Fingerprint of the content that the last snapshot was made of; None before the first.
        stale_reason: What else than rows has changed since the window was scored.
        group_status: Verdict of the last scoring, None before it.
        processed_at: When the window's state was last written.
    """

    window_id: str
    rows: int = 0
    agents: int = 0
    test_rows: int = 0
    test_agents: int = 0
    unreadable: int = 0
    good_rows: int | None = None
    fingerprint: str = ""
    seen_at: datetime | None = None
    taken: str | None = None
    taken_rows: int | None = None
    stale_reason: str | None = None
    group_status: str | None = None
    group_reason: str | None = None
    snapshot_status: str | None = None
    outcomes_status: str | None = None
    processed_at: datetime | None = None
    episodes: int | None = None
    scorer: str | None = None
    reward_mean: float | None = None
    reward_std: float | None = None
    pnl_mean: float | None = None

    @property
    def quality(self) -> float:
        """Share of the rows, unreadable ones included, that are above their bar; 1 where nothing is known."""
        found = self.rows + self.unreadable
        return 1.0 if self.good_rows is None or not found else self.good_rows / found

    @property
    def stale(self) -> str | None:
        """What has changed since the window was scored, in words; None if nothing has."""
        if self.group_status is None:
            return None
        if self.stale_reason:
            return self.stale_reason
        if self.taken is None:
            newer = self.processed_at is None or (
                self.seen_at is not None and self.seen_at > self.processed_at
            )
            return "rows arrived after it was scored" if newer else None
        if self.taken == self.fingerprint:
            return None
        if self.rows == self.taken_rows:
            return "rows changed after it was scored"
        return f"{self.taken_rows} rows when it was scored and {self.rows} now"


@dataclass(frozen=True)
class DueWindow:
    """A window with rows that has no final verdict on its present content."""

    window_id: str
    rows: int
    agents: int
    stale: bool
    """Whether it had one on an earlier content."""


@dataclass(frozen=True)
class WindowVerdict:
    """Whether a window should be processed now.

    Attributes:
        verdict: `ready` (enough agents), `thin` (too few, but the deadline has passed), `matured` (scored
        before
            its orders' horizon had passed, which now has), `waiting`, or `done`.
        reason: The verdict in words for a person.
    """

    facts: WindowFacts
    verdict: Verdict
    reason: str

    @property
    def requested(self) -> bool:
        return self.verdict in ("ready", "thin", "matured")

    @property
    def run_key(self) -> str:
        """Key under which this content at this stage is requested once and never again."""
        stage = "matured" if self.verdict == "matured" else "rows"
        if self.facts.stale_reason:
            stage += f"-{hashlib.sha256(self.facts.stale_reason.encode()).hexdigest()[:8]}"
        return f"{self.facts.window_id}:{self.facts.fingerprint or 'empty'}:{stage}"


@dataclass(frozen=True)
class DayFacts:
    """How far the windows of one day are.

    Attributes:
        resolved: Windows with a final scoring verdict, of 24.
        scored: Windows whose group carries a signal.
        episodes: Episodes in the scored groups.
    """

    day: str
    resolved: int = 0
    scored: int = 0
    episodes: int = 0

    def complete(self, settings: Settings) -> bool:
        """Whether every window of the day that is a partition has a final verdict."""
        return self.resolved >= len(partitions_of_day(self.day, settings))


def partitions_of_day(day: str, settings: Settings) -> list[str]:
    """Returns the windows of a day that are partitions: all 24, unless FIRST_PARTITION lies inside it."""
    return [window_id for window_id in windows_of_day(day) if window_id >= settings.first_partition]


async def recorded_span(rl: asyncpg.Connection) -> tuple[str, str] | None:
    """Returns the oldest and the newest window with a recorded row, None before anything was recorded."""
    row = await rl.fetchrow(_SPAN)
    return (row["first"], row["last"]) if row and row["first"] else None


async def late_windows(
    rl: asyncpg.Connection, since: datetime, before: str, *, limit: int = 1000
) -> list[str]:
    """Returns the windows older than `before` that are stale, were never scored with the rows that they have
    now, or whose content changed after `since`; oldest first, at most `limit`.
    """
    return [row["window_id"] for row in await rl.fetch(_LATE_WINDOWS, since, before, limit)]


async def read_windows(
    rl: asyncpg.Connection, first: str, last: str, also: Iterable[str] = ()
) -> list[WindowFacts]:
    """Returns the facts of every window from `first` to `last` (both included) and of those in `also`.

    Oldest first, in one query; windows of which nothing is known are returned empty.
    """
    more = list(also)
    found = {row["window_id"]: _facts(row) for row in await rl.fetch(_WINDOWS, first, last, more)}
    wanted = {*windows_between(window_range(first)[0], window_range(last)[1]), *more}
    return [found.get(w) or WindowFacts(w) for w in sorted(wanted)]


async def due_windows(rl: asyncpg.Connection) -> list[DueWindow]:
    """Returns every window with rows that is unscored, immature or stale, oldest first, in one query."""
    return [DueWindow(**row) for row in await rl.fetch(_DUE)]


def judge_window(facts: WindowFacts, now: datetime, settings: Settings) -> WindowVerdict:
    """Says whether a window should be processed at `now` (aware UTC)."""
    end = window_range(facts.window_id)[1]
    if facts.group_status == UNJUDGED:
        facts = replace(facts, stale_reason=f"not judged; asked again once a day ({now:%Y-%m-%d})")
    needed, found, rows = settings.min_agents_per_window, facts.agents, facts.rows
    if settings.include_test_agents:
        found, rows = found + facts.test_agents, rows + facts.test_rows
    stale = facts.stale
    agents = f"stale, {stale}; " if stale else ""
    agents += f"{found} of {needed} agents"
    if not is_complete(facts.window_id, now, settings.window_delay):
        return WindowVerdict(facts, "waiting", f"not complete before {end + settings.window_delay:%H:%M} UTC")
    if facts.group_status == "immature":
        matures = end + HORIZONS[settings.training_horizon] + settings.window_delay
        if now >= matures:
            return WindowVerdict(
                facts, "matured", f"its orders reached their {settings.training_horizon} horizon"
            )
    if facts.group_status is not None and not stale:
        if facts.group_status == "immature":
            return WindowVerdict(facts, "waiting", f"orders mature at {matures:%Y-%m-%d %H:%M} UTC")
        return WindowVerdict(facts, "done", facts.group_reason or facts.group_status)
    good = facts.quality >= settings.data_quality_threshold
    if not good:
        agents += f", data quality too low ({facts.quality:.0%} < {settings.data_quality_threshold:.0%})"
    if found >= needed and good:
        return WindowVerdict(facts, "ready", f"{agents}, {rows} rows")
    deadline = end + timedelta(minutes=settings.thin_window_deadline_minutes)
    if now >= deadline:
        return WindowVerdict(facts, "thin", f"{agents} at the deadline")
    return WindowVerdict(facts, "waiting", f"{agents}; taken as it is at {deadline:%H:%M} UTC")


def newest_complete_window(now: datetime, settings: Settings) -> str:
    """Returns the last window that is complete at `now`."""
    return window_id_at(now - settings.window_delay - WINDOW_LENGTH)


async def read_days(rl: asyncpg.Connection) -> list[DayFacts]:
    """Returns the days from the first to the last processed window, oldest first, empty ones included.

    A window that no judge could judge for `PATIENCE` counts as resolved, so that its day is not lost.
    """
    given_up = window_id_at(datetime.now(UTC) - PATIENCE)
    found = {row["day"]: DayFacts(**dict(row)) for row in await rl.fetch(_DAYS, given_up)}
    if not found:
        return []
    start = window_range(f"{min(found)}T00:00")[0]
    end = window_range(f"{max(found)}T23:00")[1]
    days = sorted({day_of(w) for w in windows_between(start, end)})
    return [found.get(day) or DayFacts(day) for day in days]


def _facts(row: asyncpg.Record) -> WindowFacts:
    return WindowFacts(**row)
