"""What the recorder's benchmark records: seeded trajectories of ten steps with one LLM call each.

`OWN` is what this project's agents record (`babylon simulate`: 1.7 KB of `stepsJson` a step, 0.35 KB of
text a call), `LONG` what agents with long prompts would (3.4 KB and 2 KB).
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


@dataclass(frozen=True)
class Lengths:
    """Characters of a step's texts."""

    system: int
    user: int
    answer: int
    seen: int


OWN = Lengths(system=60, user=260, answer=24, seen=700)
LONG = Lengths(system=600, user=1300, answer=160, seen=500)


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

    def play(self, lengths: Lengths = OWN) -> list[Play]:
        """The steps of one trajectory."""
        return [self._step(lengths) for _ in range(STEPS)]

    def _step(self, lengths: Lengths) -> Play:
        draw = self._random.uniform
        answer = self.text(lengths.answer)
        return Play(
            EnvironmentState(agent_balance=draw(900, 1100), agent_pnl=draw(-50, 50), open_positions=2),
            ProviderAccess(
                provider_name="market_data",
                data={"price": draw(90, 110), "text": self.text(lengths.seen)},
                purpose="prices",
            ),
            LlmCall(
                model="qwen3-32b",
                system_prompt=self.text(lengths.system),
                user_prompt=self.text(lengths.user),
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
