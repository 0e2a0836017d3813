"""Recording of the agents' decisions: one trajectory per agent and half hour, through the recorder."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import asyncpg

from babylon_rl.policy.chat import ChatAnswer, ChatRequest
from babylon_rl.recorder import Ending, TrajectoryRecorder
from babylon_rl.records.steps import Action, EnvironmentState, LlmCall, ProviderAccess
from babylon_rl.simulation.ids import SimulatedIds

OPEN_REWARD = 0.1
"""The game's coordinator gives this for a trade that has not realised anything yet, and 0 for no trade."""

# The recorder dates rows by the clock; a simulated row was created when its trajectory ended.
_DATE_ROWS = """
UPDATE "trajectories" SET "createdAt" = "endTime", "updatedAt" = "endTime"
 WHERE "trajectoryId" = ANY($1::text[])
"""
_DATE_CALLS = """
UPDATE "llm_call_logs" SET "createdAt" = "timestamp" WHERE "trajectoryId" = ANY($1::text[])
"""


@dataclass(frozen=True)
class Moment:
    """One decision of one agent: the state before it, what it saw, asked and did."""

    at: datetime
    state: EnvironmentState
    seen: Mapping[str, Mapping[str, object]]
    request: ChatRequest
    answer: ChatAnswer
    action: Action


class Recording:
    """The trajectories of a day; each holds the decisions of one agent in half an hour.

    Args:
        game: Connection inside the day's transaction.
        ids: Source of ids; its `now` follows the simulated time.
    """

    def __init__(self, game: asyncpg.Connection, ids: SimulatedIds) -> None:
        self._game, self._ids = game, ids
        self._recorder = TrajectoryRecorder(game, new_id=ids)
        self._stored: list[str] = []

    async def store(
        self, decisions: Mapping[str, Sequence[Moment]], final: Mapping[str, tuple[float, float]]
    ) -> None:
        """Stores one trajectory per agent.

        Args:
            decisions: Each agent's decisions in time order, at least one.
            final: Each agent's balance and lifetime P&L after the last decision, in USD.
        """
        endings = []
        for agent_id, moments in decisions.items():
            self._ids.now = moments[0].at
            trajectory_id = await self._recorder.start_trajectory(agent_id, at=moments[0].at)
            for moment in moments:
                self._recorder.record_step(
                    trajectory_id,
                    environment_state=moment.state,
                    provider_accesses=[_access(moment)],
                    llm_calls=[_call(moment)],
                    action=moment.action,
                    reward=OPEN_REWARD if opened(moment.action) else 0.0,
                    at=moment.at,
                )
            balance, pnl = final[agent_id]
            endings.append(
                Ending(trajectory_id=trajectory_id, final_balance=balance, final_pnl=pnl, at=moments[-1].at)
            )
        self._ids.now = max(moments[-1].at for moments in decisions.values())
        await self._recorder.end_many(endings)
        self._stored += [ending.trajectory_id for ending in endings]

    async def date_rows(self) -> int:
        """Gives all stored rows their simulated creation times; returns how many trajectories there are."""
        await self._game.execute(_DATE_ROWS, self._stored)
        await self._game.execute(_DATE_CALLS, self._stored)
        return len(self._stored)


def opened(action: Action) -> bool:
    """Whether an action opened a position."""
    return action.action_type == "OPEN_PERP_POSITION" and action.success


def response_id(seed: int, agent_id: str, at: datetime) -> str:
    """The response id of a simulated call. A policy draws its own at random, which no second run repeats."""
    identity = f"{seed}/{agent_id}/{at.isoformat()}"
    return f"chatcmpl-{hashlib.sha256(identity.encode()).hexdigest()[:32]}"


def _access(moment: Moment) -> ProviderAccess:
    return ProviderAccess(
        provider_name="market_data",
        data=dict(moment.seen),
        purpose="get_market_data",
        timestamp=_ms(moment.at),
    )


def _call(moment: Moment) -> LlmCall:
    request, answer = moment.request, moment.answer
    prompts = {message["role"]: message["content"] for message in request.messages}
    return LlmCall(
        model=answer.model,
        system_prompt=prompts.get("system", ""),
        user_prompt=prompts.get("user", ""),
        response=answer.content,
        temperature=request.temperature,
        max_tokens=request.max_tokens,
        top_p=1.0,
        purpose="action",
        action_type=moment.action.action_type,
        timestamp=_ms(moment.at),
        model_version=answer.policy_version,
        messages=[dict(message) for message in request.messages],
        prompt_tokens=len(answer.prompt_token_ids),
        completion_tokens=len(answer.token_ids),
        prompt_token_ids=answer.prompt_token_ids,
        token_ids=answer.token_ids,
        logprobs=answer.logprobs,
        policy_version=answer.policy_version,
        response_id=answer.response_id,
        finish_reason=answer.finish_reason,
        chat_template_hash=answer.chat_template_hash,
    )


def _ms(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)
