"""TrajectoryRecorder: what an agent saw, asked and did, written as the game's own recorder writes it.

    recorder = TrajectoryRecorder(pool)
    trajectory = await recorder.start_trajectory(agent_id)
    recorder.start_step(trajectory, {"agentBalance": 1000.0, "agentPnL": 0.0, "openPositions": 0})
    recorder.log_llm_call(trajectory, call)
    recorder.complete_step(trajectory, {"actionType": "HOLD", "parameters": {}, "success": True})
    await recorder.end_trajectory(trajectory, final_balance=1000.0, final_pnl=0.0)

A trajectory lives in memory until its end, which stores it in one transaction: when `end_trajectory` returns
it is committed, when it fails nothing is stored and it can be repeated, and a repeat of a stored one does
nothing.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import asyncpg

from babylon_rl.recorder.errors import (
    InvalidRecordingError,
    StepAlreadyOpenError,
    StepNotOpenError,
    UnknownTrajectoryError,
)
from babylon_rl.recorder.group_commit import GroupCommit
from babylon_rl.recorder.rows import LONGEST_MS, SCENARIO_LIMIT, call_rows, trajectory_row
from babylon_rl.recorder.snowflake import snowflake
from babylon_rl.recorder.state import Ending, OpenStep, OpenTrajectory
from babylon_rl.recorder.storage import Database, store
from babylon_rl.recorder.values import as_record, check_call, finite, milliseconds, to_json
from babylon_rl.records.steps import Action, EnvironmentState, LlmCall, ProviderAccess
from babylon_rl.windows import parse_window, window_id_at

# Enough to recognise a late repeat; older ones are recognised by the database.
_REMEMBERED = 100_000


class TrajectoryRecorder:
    """Records any number of trajectories at once, each from one task at a time."""

    def __init__(self, database: Database, *, new_id: Callable[[], str] = snowflake) -> None:
        """`database`: a pool, or a connection outside of a transaction, to the game; `new_id`: makes ids."""
        self._database = database
        self._new_id = new_id
        self._one_at_a_time = asyncio.Lock()
        self._group_commit: GroupCommit | None = None
        self._open: dict[str, OpenTrajectory] = {}
        self._ended: OrderedDict[str, None] = OrderedDict()

    async def start_trajectory(
        self,
        agent_id: str,
        window_id: str | None = None,
        scenario_id: str | None = None,
        episode_id: str | None = None,
        at: datetime | None = None,
        metadata: Mapping[str, Any] | None = None,
        trajectory_id: str | None = None,
    ) -> str:
        """Starts a trajectory and returns its id.

        Args:
            agent_id: The agent's id in "User".
            window_id: The window it belongs to, whenever it ends; by default the hour of `at`.
            scenario_id: At most 100 characters; by default the window's id.
            episode_id: At most 100 characters; by default `<scenario id>-<milliseconds of the end>`.
            at: When it starts; by default now.
            metadata: Kept in `metadataJson`; `isTrainingData` and `isEvaluation` also set their columns.
            trajectory_id: An id of the caller's own, unique for ever; by default a new one. With it (and the
                same `agent_id` and `at`) a trajectory whose acknowledgement died with its process can be
                recorded again without being stored twice.

        Raises:
            UnknownWindowError: `window_id` is no window id.
            NaiveTimeError: `at` has no time zone.
            InvalidRecordingError: An id is empty, too long or taken.
        """
        moment = datetime.now(UTC) if at is None else at
        start_ms = milliseconds(moment, "at")
        if window_id is None:
            window_id = window_id_at(moment)
        else:
            parse_window(window_id)
        for name, text in (("scenario_id", scenario_id), ("episode_id", episode_id)):
            if text is not None and not 0 < len(text) <= SCENARIO_LIMIT:
                raise InvalidRecordingError(
                    f"{name} has {len(text)} characters", f"It needs between 1 and {SCENARIO_LIMIT}."
                )
        if not agent_id:
            raise InvalidRecordingError("agent_id is empty", 'Give the id of a row in "User".')
        kept = dict(metadata or {})
        to_json(kept, "metadata")
        if trajectory_id is None:
            trajectory_id = self._new_id()
        elif not trajectory_id or trajectory_id in self._open or trajectory_id in self._ended:
            raise InvalidRecordingError(
                f"trajectory_id {trajectory_id!r} is empty, or was started here before",
                "Give each trajectory an id of its own.",
            )
        self._open[trajectory_id] = OpenTrajectory(
            trajectory_id=trajectory_id,
            agent_id=agent_id,
            window_id=window_id,
            scenario_id=scenario_id or window_id,
            episode_id=episode_id,
            start_ms=start_ms,
            metadata=kept,
        )
        return trajectory_id

    def start_step(
        self,
        trajectory_id: str,
        environment_state: EnvironmentState | Mapping[str, Any],
        at: datetime | None = None,
    ) -> None:
        """Opens a step with the state *before* its action; amounts in USD.

        Raises:
            UnknownTrajectoryError: The trajectory is not open.
            StepAlreadyOpenError: The previous step was not completed.
            InvalidRecordingError: The state lacks a field or has one of another type.
            NaiveTimeError: `at` has no time zone.
        """
        trajectory = self._trajectory(trajectory_id)
        self._require_no_step(trajectory)
        timestamp = milliseconds(datetime.now(UTC) if at is None else at, "at")
        trajectory.open_step = OpenStep(timestamp, as_record(EnvironmentState, environment_state))

    def log_provider_access(self, trajectory_id: str, access: ProviderAccess | Mapping[str, Any]) -> None:
        """Adds something the agent looked up to the open step."""
        self._step(trajectory_id).provider_accesses.append(as_record(ProviderAccess, access))

    def log_llm_call(self, trajectory_id: str, call: LlmCall | Mapping[str, Any]) -> None:
        """Adds an LLM call to the open step; with token ids, logprobs and version it can be trained."""
        self._step(trajectory_id).llm_calls.append(check_call(as_record(LlmCall, call)))

    def complete_step(
        self, trajectory_id: str, action: Action | Mapping[str, Any], reward: float = 0.0
    ) -> None:
        """Closes the open step with the agent's action. Holding is a success, not an error.

        Raises:
            StepNotOpenError: There is no open step.
            InvalidRecordingError: The action lacks a field, or the reward is not finite.
        """
        step = self._step(trajectory_id)
        finite(reward, "reward")
        self._open[trajectory_id].add(step.complete(as_record(Action, action), reward))

    def record_step(
        self,
        trajectory_id: str,
        step_number: int | None = None,
        *,
        environment_state: EnvironmentState | Mapping[str, Any],
        action: Action | Mapping[str, Any],
        reward: float = 0.0,
        provider_accesses: Iterable[ProviderAccess | Mapping[str, Any]] = (),
        llm_calls: Iterable[LlmCall | Mapping[str, Any]] = (),
        at: datetime | None = None,
    ) -> None:
        """Adds a whole step at once; `step_number`, if given, must be the next one (from 0).

        Raises:
            InvalidRecordingError: A part is malformed, or the number is another one. Nothing is added.
        """
        trajectory = self._trajectory(trajectory_id)
        if step_number not in (None, len(trajectory.steps)):
            raise InvalidRecordingError(
                f"Step {step_number} of trajectory {trajectory_id} is out of order",
                f"The next one is {len(trajectory.steps)}; leave step_number out to count by itself.",
            )
        self._require_no_step(trajectory)
        step = OpenStep(
            timestamp=milliseconds(datetime.now(UTC) if at is None else at, "at"),
            environment_state=as_record(EnvironmentState, environment_state),
            provider_accesses=[as_record(ProviderAccess, access) for access in provider_accesses],
            llm_calls=[check_call(as_record(LlmCall, call)) for call in llm_calls],
        )
        finite(reward, "reward")
        trajectory.add(step.complete(as_record(Action, action), reward))

    async def end_trajectory(
        self,
        trajectory_id: str,
        final_status: str | None = None,
        final_balance: float | None = None,
        final_pnl: float | None = None,
        total_reward: float | None = None,
        at: datetime | None = None,
    ) -> bool:
        """Stores the trajectory; committed when it returns. See `Ending` for the arguments.

        Returns whether this call stored it; False for a repeat.

        Raises:
            UnknownTrajectoryError: It was not started here.
            UnknownAgentError: The agent is not in "User"; the trajectory stays open.
            NotStoredError: The database was lost; the trajectory stays open, repeat the call.
        """
        ending = Ending(
            trajectory_id=trajectory_id,
            final_status=final_status,
            final_balance=final_balance,
            final_pnl=final_pnl,
            total_reward=total_reward,
            at=at,
        )
        return await self.end_many([ending]) == 1

    async def end_many(self, endings: Sequence[Ending]) -> int:
        """Stores several trajectories in one transaction, all or none. Returns how many were new.

        The errors are those of `end_trajectory`.
        """
        now = datetime.now(UTC)
        rows: dict[str, dict[str, Any]] = {}
        calls: list[dict[str, Any]] = []
        for ending in endings:
            if ending.trajectory_id in self._ended or ending.trajectory_id in rows:
                continue
            trajectory = self._trajectory(ending.trajectory_id)
            rows[ending.trajectory_id] = self._row(trajectory, ending, now)
            calls += [{"id": self._new_id(), **call} for call in call_rows(trajectory)]
        if not rows:
            return 0
        stored = await self._store(list(rows.values()), calls)
        for trajectory_id in rows:
            self._open.pop(trajectory_id, None)
            self._ended[trajectory_id] = None
        while len(self._ended) > _REMEMBERED:
            self._ended.popitem(last=False)
        return stored

    async def _store(self, rows: list[dict[str, Any]], calls: list[dict[str, Any]]) -> int:
        if not isinstance(self._database, asyncpg.Pool):
            async with self._one_at_a_time:  # a connection runs one statement at a time
                return len(await store(self._database, rows, calls))
        if len(rows) > 1:
            return len(await store(self._database, rows, calls))
        if self._group_commit is None:
            self._group_commit = GroupCommit(self._database)
        return int(await self._group_commit.store(rows[0], calls))

    def abandon(self, trajectory_id: str) -> None:
        """Forgets an open trajectory without storing it."""
        self._trajectory(trajectory_id)
        del self._open[trajectory_id]

    def _row(self, trajectory: OpenTrajectory, ending: Ending, now: datetime) -> dict[str, Any]:
        end_ms = milliseconds(ending.at or now, "at")
        duration = end_ms - trajectory.start_ms
        if not 0 <= duration <= LONGEST_MS:
            raise InvalidRecordingError(
                f"Trajectory {trajectory.trajectory_id} would last {duration / 1000:.0f} s",
                "Give the moment of its end as `at`; by default it is now.",
            )
        for name in ("final_balance", "final_pnl", "total_reward"):
            finite(getattr(ending, name), name)
        return trajectory_row(trajectory, ending, self._new_id(), end_ms)

    def _trajectory(self, trajectory_id: str) -> OpenTrajectory:
        trajectory = self._open.get(trajectory_id)
        if trajectory is None:
            state = "has ended" if trajectory_id in self._ended else "is unknown to this recorder"
            raise UnknownTrajectoryError(
                f"Trajectory {trajectory_id} {state}", "Call start_trajectory and use the id that it returns."
            )
        return trajectory

    def _require_no_step(self, trajectory: OpenTrajectory) -> None:
        if trajectory.open_step is not None:
            raise StepAlreadyOpenError(
                f"Step {len(trajectory.steps)} of trajectory {trajectory.trajectory_id} is still open",
                "Call complete_step before the next step.",
            )

    def _step(self, trajectory_id: str) -> OpenStep:
        step = self._trajectory(trajectory_id).open_step
        if step is None:
            raise StepNotOpenError(
                f"Trajectory {trajectory_id} has no open step", "Call start_step first, or use record_step."
            )
        return step
