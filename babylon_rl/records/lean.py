"""The lean view of a trajectory: what scoring needs, without prompts, answers, look-ups and results.

It reads the same `stepsJson` (and the same snapshot files) as the full view, with less time and a fraction of
the memory (`benchmarks/read_window.py`). Rows that are not in the documented shape take the tolerant reader
of the full view, so both views accept the same rows.
"""

from datetime import datetime
from typing import Any

import msgspec

from babylon_rl.records.steps import LlmCall, Number, Step, decode_steps
from babylon_rl.records.trajectory import RecordedTrajectory

_NOTHING = msgspec.Raw(b"")


class LeanState(msgspec.Struct, rename="camel", kw_only=True, gc=False):
    """The amounts of `EnvironmentState`, in USD."""

    agent_balance: Number | None
    agent_pnl: Number | None = msgspec.field(name="agentPnL")
    open_positions: int | None
    equity: Number | None = None


class LeanAction(msgspec.Struct, rename="camel", kw_only=True, gc=False):
    """What was done and how it ended."""

    action_type: str
    success: bool
    error: str | None = None


class LeanCall(msgspec.Struct, rename="camel", kw_only=True, gc=False):
    """Who answered a call, and whether its tokens were recorded; they themselves stay undecoded JSON."""

    model: str
    purpose: str
    policy_version: str | None = None
    response_id: str | None = None
    prompt_token_ids: msgspec.Raw = _NOTHING
    token_ids: msgspec.Raw = _NOTHING
    logprobs: msgspec.Raw = _NOTHING

    @property
    def has_tokens(self) -> bool:
        """The same as `LlmCall.has_tokens`."""
        tokens = _length(self.token_ids)
        return bool(
            self.policy_version
            and _length(self.prompt_token_ids)
            and tokens
            and _length(self.logprobs) == tokens
        )


class LeanStep(msgspec.Struct, rename="camel", kw_only=True, gc=False):
    """One decision."""

    step_number: int
    timestamp: Number | None
    """Milliseconds since 1970 in UTC."""
    environment_state: LeanState
    llm_calls: list[LeanCall]
    action: LeanAction


class LeanTrajectory(msgspec.Struct, kw_only=True):
    """What scoring needs of a `RecordedTrajectory`."""

    trajectory_id: str
    agent_id: str
    window_id: str
    start_time: datetime
    final_pnl: float | None
    steps: list[LeanStep]
    fingerprint: str


_decoder = msgspec.json.Decoder(list[LeanStep])
_trajectory_decoder = msgspec.json.Decoder(LeanTrajectory)


def decode_lean(text: str) -> list[LeanStep]:
    """Reads a `stepsJson` of any known writer.

    Raises:
        UnreadableRowError: The full view cannot read it either.
    """
    try:
        return _decoder.decode(text)
    except (msgspec.DecodeError, RecursionError, UnicodeEncodeError):
        return [_lean(step) for step in decode_steps(text)]


def decode_lean_record(line: bytes) -> LeanTrajectory:
    """Reads one line of a snapshot file."""
    return _trajectory_decoder.decode(line)


def lean_trajectory(trajectory: RecordedTrajectory) -> LeanTrajectory:
    """Returns the lean view of a trajectory that was read whole."""
    return LeanTrajectory(
        trajectory_id=trajectory.trajectory_id,
        agent_id=trajectory.agent_id,
        window_id=trajectory.window_id,
        start_time=trajectory.start_time,
        final_pnl=trajectory.final_pnl,
        steps=[_lean(step) for step in trajectory.steps],
        fingerprint=trajectory.fingerprint,
    )


def _lean(step: Step) -> LeanStep:
    state, action = step.environment_state, step.action
    return LeanStep(
        step_number=step.step_number,
        timestamp=step.timestamp,
        environment_state=LeanState(
            agent_balance=state.agent_balance,
            agent_pnl=state.agent_pnl,
            open_positions=state.open_positions,
            equity=state.equity,
        ),
        llm_calls=[_lean_call(call) for call in step.llm_calls],
        action=LeanAction(action_type=action.action_type, success=action.success, error=action.error),
    )


def _lean_call(call: LlmCall) -> LeanCall:
    return LeanCall(
        model=call.model,
        purpose=call.purpose,
        policy_version=call.policy_version,
        response_id=call.response_id,
        prompt_token_ids=_raw(call.prompt_token_ids),
        token_ids=_raw(call.token_ids),
        logprobs=_raw(call.logprobs),
    )


def _raw(values: list[Any] | None) -> msgspec.Raw:
    return _NOTHING if values is None else msgspec.Raw(msgspec.json.encode(values))


def _length(numbers: msgspec.Raw) -> int:
    """How many numbers a JSON array holds."""
    text = bytes(numbers)
    if not text.strip().strip(b"[]").strip() or text.strip() == b"null":
        return 0
    return text.count(b",") + 1
