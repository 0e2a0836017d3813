"""A trajectory while it is being recorded, and how it ends."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from babylon_rl.recorder.values import step_json
from babylon_rl.records.steps import Action, EnvironmentState, LlmCall, ProviderAccess, Step


@dataclass
class OpenStep:
    """A step between `start_step` and `complete_step`."""

    timestamp: int
    environment_state: EnvironmentState
    provider_accesses: list[ProviderAccess] = field(default_factory=list)
    llm_calls: list[LlmCall] = field(default_factory=list)

    def complete(self, action: Action, reward: float) -> Step:
        """The step, numbered when it is added to its trajectory."""
        return Step(
            step_number=0,
            timestamp=self.timestamp,
            environment_state=self.environment_state,
            provider_accesses=self.provider_accesses,
            llm_calls=self.llm_calls,
            action=action,
            reward=reward,
        )


@dataclass
class OpenTrajectory:
    """A trajectory between its start and its end; window and scenario are fixed at the start."""

    trajectory_id: str
    agent_id: str
    window_id: str
    scenario_id: str
    episode_id: str | None
    start_ms: int
    metadata: dict[str, Any]
    steps: list[Step] = field(default_factory=list)
    encoded: list[str] = field(default_factory=list)
    """Each step's JSON as of its completion: what the caller changes later is not recorded."""
    open_step: OpenStep | None = None

    def add(self, step: Step) -> None:
        """Appends a completed step and gives it its number; nothing happens where it cannot be written."""
        step.step_number = len(self.steps)
        self.encoded.append(step_json(step))
        self.steps.append(step)
        self.open_step = None


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How a trajectory ended.

    Attributes:
        final_status: None derives it: `completed`, or `completed_with_errors` if an action failed.
        final_balance: USD.
        final_pnl: USD, realised over the agent's whole life.
        total_reward: None sums the steps' rewards.
        at: When; None is now.
    """

    trajectory_id: str
    final_status: str | None = None
    final_balance: float | None = None
    final_pnl: float | None = None
    total_reward: float | None = None
    at: datetime | None = None
