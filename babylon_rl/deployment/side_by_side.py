"""What another model would have answered at each recorded step of a trajectory, beside what was answered.

    replayed = await replay_trajectory(game, trajectory_id, policy)

The policy sees exactly the messages that the agent's model saw. Nothing follows from its answers: the next
step's prompt is the recorded one, so this compares decisions, not courses of events.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, is_dataclass
from datetime import UTC, datetime
from typing import Any

import asyncpg

from babylon_rl.benchmark.answers import Reading, read_answer
from babylon_rl.deployment.errors import DeploymentError
from babylon_rl.errors import BabylonError
from babylon_rl.policy.chat import ChatRequest, Policy
from babylon_rl.records.game_rows import read_rows
from babylon_rl.records.steps import LlmCall, Step
from babylon_rl.records.trajectory import decode_row, row_facts
from babylon_rl.simulation.trader import Hold, Invalid

ANSWER_TOKENS = 300
"""Limit of an answer whose own was not recorded."""
AT_ONCE = 16
"""Calls that are asked together."""


class UnknownTrajectoryError(DeploymentError):
    """No recorded trajectory has this id."""


@dataclass(frozen=True)
class ReplayedCall:
    """One recorded call of a model, and the other model's answer to the same messages.

    Attributes:
        step: Number of the step, as its recorder counted.
        model: Who answered then: the policy's version where it is known.
        problem: Why the other model did not answer; None where it did.
        same: Whether both answers mean the same decision; None where the other has none.
    """

    step: int
    at: datetime | None
    purpose: str
    model: str
    prompt: str
    recorded: str
    recorded_decision: str
    answer: str | None
    decision: str | None
    same: bool | None
    problem: str | None
    action: str
    success: bool


@dataclass(frozen=True)
class Replayed:
    """All calls of a trajectory, in order."""

    trajectory_id: str
    agent_id: str
    window_id: str
    version: str
    calls: Sequence[ReplayedCall]

    @property
    def same(self) -> int:
        return sum(call.same is True for call in self.calls)

    @property
    def answered(self) -> int:
        return sum(call.answer is not None for call in self.calls)

    def to_json(self) -> dict[str, Any]:
        calls = [{**asdict(call), "at": call.at.isoformat() if call.at else None} for call in self.calls]
        return {
            "trajectory_id": self.trajectory_id,
            "agent_id": self.agent_id,
            "window_id": self.window_id,
            "version": self.version,
            "answered": self.answered,
            "same": self.same,
            "calls": calls,
        }


async def replay_trajectory(
    game: asyncpg.Connection,
    trajectory_id: str,
    policy: Policy,
    *,
    temperature: float | None = 0.0,
    seed: int = 0,
) -> Replayed:
    """Asks a policy at each recorded call of a trajectory.

    A call that the policy cannot answer (a prompt that is too long, a server's refusal) says so; the others
    are answered all the same.

    Args:
        trajectory_id: The game's `trajectoryId`.
        temperature: 0 takes the most likely answer; None samples as the recorded call did.
        seed: Fixes what is sampled.

    Raises:
        UnknownTrajectoryError: It is not recorded.
        UnreadableRowError: Its steps cannot be read.
    """
    rows = [row async for page in read_rows(game, [(trajectory_id, None)]) for row in page]
    if not rows:
        raise UnknownTrajectoryError(
            f"there is no trajectory {trajectory_id!r}",
            "`babylon windows check WINDOW` and /api/admin/training-data name some.",
        )
    trajectory = decode_row(rows[0], row_facts(rows[0]))
    calls = [(step, call) for step in trajectory.steps for call in step.llm_calls]
    requests = [_request(call, temperature, seed + number) for number, (_, call) in enumerate(calls)]
    answers = await _ask(policy, requests)
    return Replayed(
        trajectory.trajectory_id,
        trajectory.agent_id,
        trajectory.window_id,
        policy.version,
        [_compare(step, call, *answer) for (step, call), answer in zip(calls, answers, strict=True)],
    )


async def _ask(policy: Policy, requests: Sequence[ChatRequest]) -> list[tuple[str | None, str | None]]:
    """Answer and problem of each request; a group that fails is asked again one by one."""
    found: list[tuple[str | None, str | None]] = []
    for first in range(0, len(requests), AT_ONCE):
        group = requests[first : first + AT_ONCE]
        try:
            found += [(answer.content, None) for answer in await policy.complete(group)]
        except BabylonError as problem:
            if len(group) == 1:
                found.append((None, problem.problem))
                continue
            for request in group:
                found += await _ask(policy, [request])
    return found


def _request(call: LlmCall, temperature: float | None, seed: int) -> ChatRequest:
    recorded = float(call.temperature) if call.temperature is not None else 1.0
    return ChatRequest(
        messages=[
            {"role": str(message.get("role", "user")), "content": _text(message.get("content"))}
            for message in call.chat_messages()
        ],
        temperature=recorded if temperature is None else temperature,
        max_tokens=call.max_tokens or ANSWER_TOKENS,
        seed=seed,
        top_p=float(call.top_p) if temperature is None and call.top_p else 1.0,
    )


def _text(content: Any) -> str:
    """A message's text; of a list of parts, their texts."""
    if isinstance(content, list):
        return "\n".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return "" if content is None else str(content)


def _compare(step: Step, call: LlmCall, answer: str | None, problem: str | None) -> ReplayedCall:
    before = read_answer(call.response)
    after = None if answer is None else read_answer(answer)
    messages = call.chat_messages()
    return ReplayedCall(
        step=step.step_number,
        at=_moment(step.timestamp),
        purpose=call.purpose,
        model=call.policy_version or call.model_version or call.model,
        prompt=_text(messages[-1].get("content")) if messages else "",
        recorded=call.response,
        recorded_decision=describe(before),
        answer=answer,
        decision=None if after is None else describe(after),
        same=None if after is None else _same(before, after, call.response, answer or ""),
        problem=problem,
        action=step.action.action_type,
        success=step.action.success,
    )


def _same(before: Reading, after: Reading, recorded: str, answer: str) -> bool:
    """Two answers that are no orders mean the same only if they say the same."""
    if isinstance(before, Invalid) or isinstance(after, Invalid):
        return recorded.strip() == answer.strip()
    return before == after


def describe(reading: Reading) -> str:
    """A decision in a few words."""
    if isinstance(reading, Hold):
        return "hold"
    if isinstance(reading, Invalid):
        return f"no order: {reading.reason}"
    values = asdict(reading) if is_dataclass(reading) else {}
    if "side" in values:
        leverage = f" {values['leverage']:g}x" if values["leverage"] != 1 else ""
        return f"{values['side']} {values['instrument']} ${values['size']:g}{leverage}"
    return f"close {values['instrument']}" if "instrument" in values else f"post: {values['content'][:60]}"


def _moment(milliseconds: float | int | None) -> datetime | None:
    try:
        return None if milliseconds is None else datetime.fromtimestamp(milliseconds / 1000, UTC)
    except (OverflowError, OSError, ValueError):
        return None
