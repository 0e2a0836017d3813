"""The trajectories of one window in bounded portions, whole or lean, and an account of what was left out.

    stream = WindowStream(game, rl, "2026-10-01T14:00", view="lean")
    async for trajectories in stream: ...
    stream.read.excluded, stream.read.quarantined

A row whose version is the one that the feed examined is decoded and nothing else; one that has changed since
is examined again and written down.
"""

import gc
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Generic, Literal, TypeVar

import asyncpg
import msgspec

from babylon_rl import windows
from babylon_rl.records import game_rows
from babylon_rl.records.examine import ExaminedRow, examine
from babylon_rl.records.forgotten import NOBODY, forgotten_agents
from babylon_rl.records.known_rows import DELETED, content_fingerprint, note, note_deleted
from babylon_rl.records.lean import LeanTrajectory, decode_lean, lean_trajectory
from babylon_rl.records.steps import UnreadableRowError, decode_steps
from babylon_rl.records.trajectory import TEST_USER, RecordedTrajectory, finite

DUPLICATE = "duplicate"
"""A second copy of a row: same agent, same start, same steps under another id."""

View = Literal["full", "lean"]
Identity = tuple[str, str, str | None]
"""Agent, start and content of a row: what two copies of it share."""
T = TypeVar("T", RecordedTrajectory, LeanTrajectory)

_KNOWN = """
SELECT w.trajectory_id, w.agent_id, w.start_time::text AS started, w.fingerprint, w.content, w.excluded,
       w.row_version, w.bytes, q.reason, q.detail
  FROM rl.window_rows w
  LEFT JOIN rl.quarantine q ON q.trajectory_id = w.trajectory_id AND q.released_at IS NULL
 WHERE w.window_id = $1
 ORDER BY w.agent_id COLLATE "C", w.start_time, w.trajectory_id COLLATE "C"
"""
# Only what `rl` does not know of a row whose version it knows.
_COLUMNS = {
    "full": 't."id", t."scenarioId", t."endTime", t."finalBalance", t."finalStatus", ',
    "lean": "",
}
_ROWS = """
SELECT {columns} t."trajectoryId", {version} AS version, t."startTime", t."finalPnL", t."stepsJson"
  FROM "trajectories" t WHERE t."trajectoryId" = ANY($1::text[]) AND octet_length(t."stepsJson") <= $2
"""


class QuarantinedRow(msgspec.Struct, frozen=True):
    """A row that could not be read."""

    trajectory_id: str
    agent_id: str
    reason: str
    detail: str
    fingerprint: str


class WindowRead(msgspec.Struct, Generic[T]):
    """Everything that one window holds."""

    window_id: str
    trajectories: list[T]
    """Ordered by agent, start and id."""
    excluded: dict[str, int]
    """Rows left out on purpose, by reason."""
    quarantined: list[QuarantinedRow]
    """Rows that could not be read, by id."""
    fingerprint: str = ""
    """Of the content that was read; that of `rl.recorded_windows` differs as soon as there is news."""

    @property
    def agents(self) -> list[str]:
        """Ids of the agents with at least one readable trajectory."""
        return sorted({trajectory.agent_id for trajectory in self.trajectories})


class WindowStream:
    """The trajectories of one window in bounded portions; iterate over it once.

    Portions come in the order of agent, start and id, unless `reordered` says otherwise at the end. Meanwhile
    nothing can be written over the same connection to the game: its transaction only reads.

    Args:
        game: Connection to the game's database; only reads. A window of several portions is read from one
            snapshot of it, so that a group never mixes two of its states.
        rl: Connection to the database with schema `rl`; may be the same one.
        window_id: A canonical window id.
        view: `full`, or `lean`: without prompts, answers and look-ups.
        include_test_users: Do not leave out the rows of test users.

    Raises:
        UnknownWindowError: `window_id` is not a window id.
    """

    def __init__(
        self,
        game: asyncpg.Connection,
        rl: asyncpg.Connection,
        window_id: str,
        *,
        view: View = "full",
        include_test_users: bool = False,
    ) -> None:
        windows.parse_window(window_id)
        self._game, self._rl, self._view = game, rl, view
        self._read_anyway = (None, TEST_USER) if include_test_users else (None,)
        self.read: WindowRead[Any] = WindowRead(window_id, [], {}, [])
        """All but the trajectories; complete when the iteration has ended."""
        self.reordered = False
        """Whether rows that had changed since the feed saw them came out of their order."""
        self._known: dict[str, asyncpg.Record] = {}
        self._again: list[str] = []
        self._gone: list[str] = []
        self._news: list[ExaminedRow] = []
        self._content: dict[str, str] = {}
        self._copies: set[Identity] = set()

    async def __aiter__(self) -> AsyncIterator[list[Any]]:
        self._known = {row["trajectory_id"]: row for row in await self._rl.fetch(_KNOWN, self.read.window_id)}
        wanted = [row for row in self._known.values() if self._is_wanted(row)]
        portions = list(game_rows.portions((row["trajectory_id"], row["bytes"]) for row in wanted))
        version = await game_rows.version_column(self._game)
        query = _ROWS.format(columns=_COLUMNS[self._view], version=version)
        one_statement = len(portions) <= 1 or self._game.is_in_transaction()
        snapshot = self._game.transaction(isolation="repeatable_read", readonly=True)
        async with nullcontext() if one_statement else snapshot:
            for ids in portions:
                yield self._decode(ids, await self._game.fetch(query, ids, game_rows.LARGEST_ROW))
            if len(wanted) < len(self._known):
                await self._look_at_the_others()
            async for batch in self._examine_again():
                self.reordered = True
                yield batch
        await self._finish()

    def _is_wanted(self, known: asyncpg.Record) -> bool:
        """Whether the row's steps are to be read, as far as is known."""
        return known["reason"] is None and known["excluded"] in self._read_anyway

    def _decode(self, ids: Sequence[str], rows: Sequence[asyncpg.Record]) -> list[Any]:
        """Returns the trajectories of unchanged rows in the order of `ids`; the others get another look."""
        found = {row["trajectoryId"]: row for row in rows}
        decode = self._lean if self._view == "lean" else self._full
        batch = []
        with _paused_collector():
            for trajectory_id in ids:
                row, known = found.get(trajectory_id), self._known[trajectory_id]
                if row is None or row["version"] != known["row_version"]:
                    self._again.append(trajectory_id)
                elif self._is_new(known["agent_id"], known["started"], known["content"]):
                    try:
                        batch.append(decode(row, known))
                        self._content[trajectory_id] = known["fingerprint"]
                    except UnreadableRowError:  # an older version of this code could read it
                        self._again.append(trajectory_id)
        return batch

    def _lean(self, row: asyncpg.Record, known: asyncpg.Record) -> LeanTrajectory:
        return LeanTrajectory(
            trajectory_id=row["trajectoryId"],
            agent_id=known["agent_id"],
            window_id=self.read.window_id,
            start_time=row["startTime"],
            final_pnl=finite(row["finalPnL"]),
            steps=decode_lean(row["stepsJson"]),
            fingerprint=known["fingerprint"],
        )

    def _full(self, row: asyncpg.Record, known: asyncpg.Record) -> RecordedTrajectory:
        return RecordedTrajectory(
            id=row["id"],
            trajectory_id=row["trajectoryId"],
            agent_id=known["agent_id"],
            window_id=self.read.window_id,
            scenario_id=row["scenarioId"],
            start_time=row["startTime"],
            end_time=row["endTime"],
            final_pnl=finite(row["finalPnL"]),
            final_balance=finite(row["finalBalance"]),
            final_status=row["finalStatus"],
            # Otherwise the row would be excluded, and that for another reason than a test user's.
            is_training_data=True,
            is_evaluation=False,
            window_hours=1,
            steps=decode_steps(row["stepsJson"]),
            fingerprint=known["fingerprint"],
        )

    async def _look_at_the_others(self) -> None:
        """Accounts for the rows that are not wanted, after a look at their versions."""
        others = {i: known for i, known in self._known.items() if not self._is_wanted(known)}
        versions = await game_rows.read_versions(self._game, list(others))
        for trajectory_id, known in others.items():
            version, excluded = versions.get(trajectory_id), known["excluded"]
            if version is None:
                self._gone.append(trajectory_id)
            elif version != known["row_version"] or excluded == DELETED:
                self._again.append(trajectory_id)
            elif excluded not in self._read_anyway:
                identity = (known["agent_id"], known["started"], known["content"])
                readable = known["reason"] is None
                self._leave_out(trajectory_id, excluded, known["fingerprint"], identity, readable)
            else:
                self.read.quarantined.append(
                    QuarantinedRow(
                        trajectory_id,
                        known["agent_id"],
                        known["reason"],
                        known["detail"],
                        known["fingerprint"],
                    )
                )

    def _leave_out(
        self, trajectory_id: str, reason: str, fingerprint: str, identity: Identity, readable: bool
    ) -> None:
        self._exclude(reason)
        # Test users' rows are part of the content, because with another setting they would be read.
        if reason == TEST_USER and readable and self._is_new(*identity, counted=False):
            self._content[trajectory_id] = fingerprint

    async def _examine_again(self) -> AsyncIterator[list[Any]]:
        """Examines the rows that are not as they were known, and yields what belongs to the window."""
        again, found = self._again, set()
        forgotten = await forgotten_agents(self._rl) if again else NOBODY
        async for rows in game_rows.read_rows(self._game, [(i, self._known[i]["bytes"]) for i in again]):
            batch = []
            for row in rows:
                found.add(row["trajectoryId"])
                examined = examine(row, forgotten)
                if examined.facts.window_id == self.read.window_id:
                    batch += self._take(examined)
                # Its steps are not needed any more.
                examined.trajectory, examined.row = None, {**row, "stepsJson": None}
                self._news.append(examined)
            if batch:
                yield batch
        self._gone += [trajectory_id for trajectory_id in again if trajectory_id not in found]

    def _take(self, row: ExaminedRow) -> list[Any]:
        facts, problem, trajectory = row.facts, row.problem, row.trajectory
        started = f"{row.row['startTime']:%F %T.%f}".rstrip("0").rstrip(".")
        if facts.excluded not in self._read_anyway:
            identity, readable = (row.agent_id, started, row.content), row.quality is not None
            self._leave_out(row.trajectory_id, str(facts.excluded), facts.fingerprint, identity, readable)
        elif problem is not None:
            self.read.quarantined.append(
                QuarantinedRow(
                    row.trajectory_id, row.agent_id, problem.reason, problem.detail, facts.fingerprint
                )
            )
        elif trajectory is not None and self._is_new(row.agent_id, started, row.content):
            self._content[row.trajectory_id] = facts.fingerprint
            return [trajectory if self._view == "full" else lean_trajectory(trajectory)]
        return []

    async def _finish(self) -> None:
        read = self.read
        if self._gone:
            read.excluded[DELETED] = len(self._gone)
        read.excluded = dict(sorted(read.excluded.items()))
        read.quarantined.sort(key=lambda row: row.trajectory_id)
        read.fingerprint = content_fingerprint(self._content)
        await note(self._rl, self._news)
        await note_deleted(self._rl, self._gone)

    def _is_new(self, agent: str, started: str, content: str | None, *, counted: bool = True) -> bool:
        """Whether no row with this agent, start and steps came before."""
        if content is None:
            return True
        identity = (agent, started, content)
        if identity in self._copies:
            if counted:
                self._exclude(DUPLICATE)
            return False
        self._copies.add(identity)
        return True

    def _exclude(self, reason: str) -> None:
        self.read.excluded[reason] = self.read.excluded.get(reason, 0) + 1


@contextmanager
def _paused_collector() -> Iterator[None]:
    """No cyclic garbage collection: decoding makes many containers and no cycles."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
