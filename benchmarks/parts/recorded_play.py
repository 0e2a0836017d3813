"""What the recorder's benchmark records: seeded trajectories of ten steps with one LLM call each.

A trajectory has about 30 KB of `stepsJson` and ten rows of `llm_call_logs` with about 20 KB of text, which is
what the game's own recorder writes for such a one.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from babylon_rl.recorder import TrajectoryRecorder
from babylon_rl.records.steps import Action, EnvironmentState, LlmCall, ProviderAccess

STEPS = 10
START = datetime(2026, 10, 1, 14, tzinfo=UTC)
_SYSTEM, _USER, _ANSWER, _SEEN = 600, 1300, 160, 500  # characters


@dataclass(frozen=True)
class Play:
    """One step as an agent hands it to the recorder."""

    state: EnvironmentState
    access: ProviderAccess
    call: LlmCall
    action: Action


class Author:
    """Writes text whose words follow Zipf's law, as language does; real prompts compress better."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        letters = "abcdefghijklmnopqrstuvwxyz"
        self._words = ["".join(self._random.choices(letters, k=2 + i % 8)) for i in range(5000)]
        self._weights = [1 / (rank + 1) for rank in range(len(self._words))]

    def text(self, characters: int) -> str:
        words = self._random.choices(self._words, self._weights, k=characters // 3)
        return " ".join(words)[:characters]

    def play(self) -> list[Play]:
        """The steps of one trajectory."""
        return [self._step() for _ in range(STEPS)]

    def _step(self) -> Play:
        draw = self._random.uniform
        answer = self.text(_ANSWER)
        return Play(
            EnvironmentState(agent_balance=draw(900, 1100), agent_pnl=draw(-50, 50), open_positions=2),
            ProviderAccess(
                provider_name="market_data",
                data={"price": draw(90, 110), "text": self.text(_SEEN)},
                purpose="prices",
            ),
            LlmCall(
                model="qwen3-32b",
                system_prompt=self.text(_SYSTEM),
                user_prompt=self.text(_USER),
                response=answer,
                temperature=0.7,
                max_tokens=300,
                purpose="action",
                latency_ms=draw(100, 900),
            ),
            Action(
                action_type="BUY_SHARES",
                parameters={"ticker": "APEXCORP", "shares": 10},
                success=True,
                result={"executed": True, "pnl": draw(-5, 5)},
                reasoning=answer,
            ),
        )


async def record(
    recorder: TrajectoryRecorder, agent: str, steps: Sequence[Play], **start: Any
) -> tuple[str, datetime]:
    """Starts a trajectory and records its steps; returns its id and the moment of its end."""
    trajectory = await recorder.start_trajectory(agent, at=START, **start)
    for number, step in enumerate(steps):
        recorder.record_step(
            trajectory,
            environment_state=step.state,
            provider_accesses=[step.access],
            llm_calls=[step.call],
            action=step.action,
            reward=0.1,
            at=START + timedelta(seconds=number),
        )
    return trajectory, START + timedelta(minutes=1)
