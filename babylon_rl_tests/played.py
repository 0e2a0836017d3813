"""Scored groups that the base model really played, and how the hourly assets leave them in the database."""

import asyncio
from collections.abc import Sequence

import asyncpg
import numpy as np

from babylon_rl.policy.chat import ChatAnswer, ChatRequest
from babylon_rl.policy.engine import EmbeddedEngine
from babylon_rl.records.steps import LlmCall
from babylon_rl.records.store import ArtifactStore
from babylon_rl.scoring.groups import SCORED, Member, ScoredGroup, leave_one_out, to_records
from babylon_rl.simulation.market import MarketSpec, generate_market
from babylon_rl.simulation.play import Episode, play_policy
from babylon_rl.simulation.trader import BANKROLL
from babylon_rl.training.conversion import TrainableCall, TrainableEpisode

DAY = "2026-10-01"


def window(hour: int, day: str = DAY) -> str:
    return f"{day}T{hour:02d}:00"


def play_day(
    engine: EmbeddedEngine, windows: int = 3, agents: int = 4, *, day: str = DAY, seed: int = 0
) -> list[ScoredGroup]:
    """One scored group per window: every agent plays the same market, the reward is the return.

    Must not be called while an event loop runs.
    """
    groups = []
    for hour in range(windows):
        market = generate_market(MarketSpec(), 1000 * seed + hour, hours=1)
        seeds = [100_000 * seed + 100 * hour + agent for agent in range(agents)]
        episodes = asyncio.run(play_policy(engine, [market] * agents, seeds))
        groups.append(scored(window(hour, day), episodes))
    return groups


def scored(window_id: str, episodes: Sequence[Episode]) -> ScoredGroup:
    """The group of a window; agents are called agent-0 and so on."""
    rewards = np.array([episode.clipped_return for episode in episodes])
    return ScoredGroup(
        window_id=window_id,
        status=SCORED,
        reason="",
        scorer="pnl",
        scorer_version="1",
        agents=len(episodes),
        members=[
            _member(window_id, f"agent-{number}", episode, reward, advantage)
            for number, (episode, reward, advantage) in enumerate(
                zip(episodes, rewards, leave_one_out(rewards), strict=True)
            )
        ],
    )


def recorded_call(request: ChatRequest, answer: ChatAnswer) -> LlmCall:
    """A call as the recorder stores it."""
    return LlmCall(
        model=answer.model,
        system_prompt=request.messages[0]["content"],
        user_prompt=request.messages[-1]["content"],
        messages=[dict(message) for message in request.messages],
        response=answer.content,
        temperature=request.temperature,
        max_tokens=request.max_tokens,
        purpose="action",
        prompt_token_ids=answer.prompt_token_ids,
        token_ids=answer.token_ids,
        logprobs=answer.logprobs,
        policy_version=answer.policy_version,
        response_id=answer.response_id,
        finish_reason=answer.finish_reason,
        chat_template_hash=answer.chat_template_hash,
    )


def _member(window_id: str, agent: str, episode: Episode, reward: float, advantage: float) -> Member:
    calls = [recorded_call(request, answer) for request, answer in episode.calls]
    return Member(
        agent_id=agent,
        reward=float(reward),
        advantage=float(advantage),
        trainable=True,
        components={"pnl": float(reward)},
        trajectory_ids=[f"{window_id}-{agent}"],
        calls=calls,
        policy_versions=["v0.0.0"],
        attributed_pnl=episode.pnl,
        pnl_source="orders",
        start_equity=BANKROLL,
        actions=episode.decisions,
        invalid_actions=episode.invalid,
        trades=episode.orders,
        wins=episode.wins,
        losses=episode.orders - episode.wins,
        unpriced_orders=0,
    )


def trainable(groups: Sequence[ScoredGroup]) -> list[TrainableEpisode]:
    """The members as the training takes them, calls cut by the token limit left out."""
    return [
        TrainableEpisode(
            window_id=group.window_id,
            agent_id=member.agent_id,
            advantage=member.advantage,
            calls=[
                TrainableCall(
                    messages=call.chat_messages(),
                    content=call.response,
                    token_ids=call.token_ids or [],
                    logprobs=call.logprobs or [],
                    finish_reason=call.finish_reason or "stop",
                )
                for call in member.calls
                if call.finish_reason == "stop"
            ],
        )
        for group in groups
        for member in group.members
    ]


async def store_groups(rl: asyncpg.Connection, store: ArtifactStore, groups: Sequence[ScoredGroup]) -> None:
    """What the asset `scored_groups` leaves behind; storing a window again is a re-score."""
    for group in groups:
        artifact = store.put("scored_groups", group.window_id, to_records(group))
        await rl.execute(
            """INSERT INTO rl.window_state (window_id, agents, group_status, group_sha256, group_uri)
               VALUES ($1, $2, $3, $4, $5)
               ON CONFLICT (window_id) DO UPDATE SET agents = excluded.agents,
                   group_status = excluded.group_status, group_sha256 = excluded.group_sha256,
                   group_uri = excluded.group_uri""",
            group.window_id,
            group.agents,
            group.status,
            artifact.sha256,
            artifact.uri,
        )
