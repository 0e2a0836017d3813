"""Recorded episodes become ART trajectories: exactly the messages the model saw and the tokens it produced.

Every recorded call is one history of its own. The tokens are passed as ``token_id:N`` with the log-
probabilities of the distribution they were sampled from, so that ART trains on the recorded ids and never re-
tokenises an answer.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import art
    from openai.types.chat.chat_completion import Choice

from babylon_rl.policy.chat import Message


@dataclass(frozen=True)
class TrainableCall:
    """One recorded call of a policy that we can train."""

    messages: Sequence[Message]
    content: str
    token_ids: Sequence[int]
    logprobs: Sequence[float]
    finish_reason: str


@dataclass(frozen=True)
class TrainableEpisode:
    """What one agent's window contributes to the gradient."""

    window_id: str
    agent_id: str
    advantage: float
    """Reward minus the leave-one-out mean of the window; dimensionless."""
    calls: Sequence[TrainableCall]


def to_art_groups(episodes: Iterable[TrainableEpisode]) -> "list[art.TrajectoryGroup]":
    """One ART group per window, in the order in which the windows first appear."""
    from babylon_rl.training.art_import import import_art

    art = import_art()
    windows: dict[str, list[Any]] = {}
    for episode in episodes:
        histories = [_messages_and_choice(call) for call in episode.calls]
        windows.setdefault(episode.window_id, []).append(
            art.Trajectory(
                messages_and_choices=histories[0],
                additional_histories=[
                    art.trajectories.History(messages_and_choices=h) for h in histories[1:]
                ],
                reward=episode.advantage,
                metadata={"agent_id": episode.agent_id},
            )
        )
    return [
        art.TrajectoryGroup(trajectories, metadata={"window_id": window})
        for window, trajectories in windows.items()
    ]


def _messages_and_choice(call: TrainableCall) -> list[Any]:
    return [*({"role": m["role"], "content": m["content"]} for m in call.messages), _choice(call)]


def _choice(call: TrainableCall) -> "Choice":
    from openai.types.chat import ChatCompletionMessage, ChatCompletionTokenLogprob
    from openai.types.chat.chat_completion import Choice, ChoiceLogprobs

    content = [
        ChatCompletionTokenLogprob(token=f"token_id:{token}", logprob=logprob, bytes=None, top_logprobs=[])
        for token, logprob in zip(call.token_ids, call.logprobs, strict=True)
    ]
    return Choice(
        index=0,
        finish_reason="length" if call.finish_reason == "length" else "stop",
        message=ChatCompletionMessage(role="assistant", content=call.content),
        logprobs=ChoiceLogprobs(content=content),
    )
