"""What `babylon windows check` says: are there enough windows with enough agents to train, and are they good?

The questions, the thresholds and the closing line are those of the seed documents' `check_windows` and
`verify_data`. Everything is read from `rl` and from plain columns of the game's rows, never from their steps.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import asyncpg

from babylon_rl.orchestration.readiness import WindowFacts
from babylon_rl.settings import Settings

THRESHOLDS = (2, 3, 5, 8)
"""Distinct agents."""
NEEDED_WINDOWS = 3
"""Windows with MIN_AGENTS_PER_WINDOW agents before there is something to compare."""
SHOWN = 20
"""Rows in quarantine that one window shows."""

_SPAN = """
SELECT min(window_id) AS first, max(window_id) AS last, count(*) AS windows,
       coalesce(sum(rows), 0)::int AS rows,
       coalesce(sum(test_rows), 0)::int AS test_rows, coalesce(sum(unreadable), 0)::int AS unreadable,
       coalesce(sum(good_rows), 0)::int AS good_rows
  FROM rl.recorded_windows WHERE $1::text IS NULL OR window_id >= $1
"""
_BY_AGENTS = """
SELECT needed, count(window_id) AS windows
  FROM unnest($2::int[]) AS needed
  LEFT JOIN rl.recorded_windows ON ($1::text IS NULL OR window_id >= $1)
       AND agents + CASE WHEN $3 THEN test_agents ELSE 0 END >= needed
 GROUP BY needed
"""
_HELD = """
SELECT reason, count(*) AS rows, min(trajectory_id) AS example FROM rl.quarantine
 WHERE released_at IS NULL AND ($1::text IS NULL OR window_id >= $1)
 GROUP BY reason ORDER BY count(*) DESC, reason
"""
_REASONS = """
SELECT reason, sum(number::int)::int AS rows
  FROM rl.recorded_windows, jsonb_each_text(quality_reasons) AS one (reason, number)
 WHERE ($1::text IS NULL OR window_id >= $1) AND reason <> 'unreadable'
 GROUP BY reason ORDER BY 2 DESC, 1
"""
_SAMPLE = """
SELECT window_id FROM rl.recorded_windows
 WHERE ($1::text IS NULL OR window_id >= $1) AND agents + CASE WHEN $2 THEN test_agents ELSE 0 END > 0
 ORDER BY agents + CASE WHEN $2 THEN test_agents ELSE 0 END >= $3 DESC, window_id DESC LIMIT 1
"""
_SAMPLE_ROWS = """
SELECT trajectory_id FROM rl.window_rows WHERE window_id = $1
   AND (excluded IS NULL OR ($2 AND excluded = 'test_user'))
"""
_STATISTICS = """
SELECT count(*) AS rows, count(DISTINCT "agentId") AS agents, avg("episodeLength")::float8 AS steps,
       avg("durationMs")::float8 / 1000 AS seconds, avg(pnl) AS mean, min(pnl) AS low, max(pnl) AS high
  FROM (SELECT "agentId", "episodeLength", "durationMs", nullif("finalPnL", 'NaN') AS pnl
          FROM "trajectories" WHERE "trajectoryId" = ANY ($1::text[])) AS sample
"""
_OF_WINDOW = """
SELECT trajectory_id, reason, detail FROM rl.quarantine
 WHERE window_id = $1 AND released_at IS NULL ORDER BY trajectory_id LIMIT $2
"""


@dataclass(frozen=True)
class Sample:
    """Statistics of one window's rows; P&L in USD is an agent's lifetime result, as its recorder wrote it."""

    window_id: str
    rows: int
    agents: int
    steps: float
    seconds: float
    pnl: tuple[float, float, float] | None
    """Lowest, mean, highest."""


@dataclass(frozen=True)
class Overview:
    """What is recorded altogether.

    Attributes:
        windows: Windows with any row.
        rows: Rows that count.
        test_rows: Rows of test users.
        unreadable: Rows in quarantine, of the windows that were counted.
        good_rows: Rows above their bar of data quality.
        by_agents: Windows with at least so many distinct agents.
        held: Quarantined rows by reason, each with an example's id.
        quality_reasons: Rows by what takes them below full quality.
        test_users: Whether rows of test users count.
    """

    first: str | None
    last: str | None
    windows: int
    rows: int
    test_rows: int
    unreadable: int
    good_rows: int
    by_agents: dict[int, int]
    held: list[tuple[str, int, str]]
    quality_reasons: dict[str, int]
    sample: Sample | None
    test_users: bool

    @property
    def quality(self) -> float:
        """Share of the rows, unreadable ones included, that are above their bar; 1 without rows."""
        found = self.rows + self.unreadable
        return self.good_rows / found if found else 1.0

    def problems(self, settings: Settings) -> list[str]:
        """Why training should wait, one line each with the remedy; empty when ready."""
        needed = settings.min_agents_per_window
        enough = self.by_agents.get(needed, 0)
        found = []
        if enough < NEEDED_WINDOWS:
            more = "record more, or lower MIN_AGENTS_PER_WINDOW"
            if self.test_rows and not self.test_users:
                more += f"; {self.test_rows} rows of test users are left out, --test-users counts them"
            found.append(f"{enough} of {NEEDED_WINDOWS} windows have {needed}+ agents: {more}")
        if self.quality < settings.data_quality_threshold:
            found.append(
                f"{self.quality:.0%} of the rows are good enough, {settings.data_quality_threshold:.0%} are "
                "needed: see the reasons above, or DATA_QUALITY_THRESHOLD"
            )
        return found


async def read_overview(
    game: asyncpg.Connection,
    rl: asyncpg.Connection,
    settings: Settings,
    *,
    since: str | None = None,
    test_users: bool = False,
) -> Overview:
    """Reads the overview of all windows from `since` (a window id) on; by default of all."""
    span = await rl.fetchrow(_SPAN, since)
    assert span is not None
    counted = sorted({*THRESHOLDS, settings.min_agents_per_window})
    by_agents = dict(await rl.fetch(_BY_AGENTS, since, counted, test_users))
    return Overview(
        **dict(span),
        by_agents=by_agents,
        held=[tuple(row) for row in await rl.fetch(_HELD, since)],
        quality_reasons=dict(await rl.fetch(_REASONS, since)),
        sample=await _sample(game, rl, settings, since, test_users),
        test_users=test_users,
    )


def overview_lines(overview: Overview, settings: Settings) -> list[str]:
    """The overview for people; the last line says whether there is enough to train."""
    lines = []
    if overview.first is not None:
        lines.append(f"{overview.windows} windows recorded, from {overview.first} to {overview.last}")
    lines += [f"Windows with {n}+ agents: {overview.by_agents.get(n, 0)}" for n in sorted(overview.by_agents)]
    if overview.sample is not None:
        lines.append(_sample_line(overview.sample))
    held = sum(rows for _, rows, _ in overview.held)
    share = held / (overview.rows + held) if held else 0.0
    lines.append(f"rows: {overview.rows} readable, {held} in quarantine ({share:.1%})")
    lines += [f"  {reason}: {rows}, for example {example}" for reason, rows, example in overview.held]
    lines.append(f"quality: {overview.quality:.0%} of the rows above their bar")
    lines += [f"  {reason}: {rows} rows" for reason, rows in overview.quality_reasons.items()]
    problems = overview.problems(settings)
    if problems:
        return [*lines, *(f"❌ NOT READY: {problem}" for problem in problems)]
    return [*lines, "✅ READY FOR TRAINING!"]


async def quarantine_lines(rl: asyncpg.Connection, window: WindowFacts) -> list[str]:
    """The rows of a window that could not be read, each with its reason."""
    rows: Sequence[asyncpg.Record] = await rl.fetch(_OF_WINDOW, window.window_id, SHOWN)
    if not rows:
        return []
    more = f", the first {SHOWN}" if window.unreadable > len(rows) else ""
    lines = [f"quarantine: {max(window.unreadable, len(rows))} rows{more}"]
    return lines + [f"  {row['trajectory_id']} {row['reason']}: {row['detail']}" for row in rows]


def _sample_line(sample: Sample) -> str:
    line = f"sample {sample.window_id}: {sample.rows} rows of {sample.agents} agents, on average "
    line += f"{sample.steps:.1f} steps in {sample.seconds:.0f} s"
    if sample.pnl is None:
        return line
    low, mean, high = sample.pnl
    return f"{line}; lifetime P&L {low:+.2f} to {high:+.2f} $, mean {mean:+.2f} $"


async def _sample(
    game: asyncpg.Connection, rl: asyncpg.Connection, settings: Settings, since: str | None, test_users: bool
) -> Sample | None:
    """The newest window with enough agents, or the newest with any."""
    window_id = await rl.fetchval(_SAMPLE, since, test_users, settings.min_agents_per_window)
    if window_id is None:
        return None
    ids = [row["trajectory_id"] for row in await rl.fetch(_SAMPLE_ROWS, window_id, test_users)]
    row = await game.fetchrow(_STATISTICS, ids)
    if row is None or not row["rows"]:
        return None
    pnl = None if row["mean"] is None else (row["low"], row["mean"], row["high"])
    return Sample(window_id, row["rows"], row["agents"], row["steps"], row["seconds"], pnl)
