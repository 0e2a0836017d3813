"""Recorded episodes become ART trajectories: exactly the messages the model saw and the tokens it produced.

Every recorded call is one history of its own. The tokens are passed as ``token_id:N`` with the log-
probabilities of the distribution they were sampled from, so that ART trains on the recorded ids and never re-
tokenises an answer.

Text without log-probabilities (another model's, or a recorder's that kept none) needs the tokenizer of the
model that is trained; its log-probabilities are NaN, which stands for "as the parent would". Without a
tokenizer it is left out: a backend that is sent such text trains nothing of it.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from babylon_rl.policy.chat import Message
from babylon_rl.policy.control_tokens import neutral_messages, neutralise

if TYPE_CHECKING:
    import art
    from openai.types.chat.chat_completion import Choice
    from transformers import PreTrainedTokenizerBase

RESIDUAL = "residual"


@dataclass(frozen=True)
class TrainableCall:
    """One recorded call of a policy that we can train."""

    messages: Sequence[Message]
    content: str
    token_ids: Sequence[int]
    """Empty for text of another vocabulary."""
    logprobs: Sequence[float]
    """Empty where nobody recorded them."""
    finish_reason: str
    advantage: float | None = None
    """Of the decision that the call was made for; None where only the whole episode has one."""


@dataclass(frozen=True)
class TrainableEpisode:
    """What one agent's window contributes to the gradient."""

    window_id: str
    agent_id: str
    advantage: float
    """Reward minus the leave-one-out mean of the window; dimensionless."""
    calls: Sequence[TrainableCall]

    @property
    def recorded_window(self) -> str:
        """The window whose recording was learned from; groups of one prompt are named ``window/prompt``."""
        return self.window_id.partition("/")[0]

    @property
    def is_residual(self) -> bool:
        """Whether it pays what a resolution added to what the window was trained on before."""
        return is_residual(self.window_id)


def residual_name(window_id: str) -> str:
    """Name of the group that pays a window's residuals."""
    return f"{window_id}/{RESIDUAL}"


def is_residual(group: str) -> bool:
    """Whether a group's name is that of residuals."""
    return group.partition("/")[2] == RESIDUAL


def to_art_groups(
    episodes: Iterable[TrainableEpisode], tokenizer: "PreTrainedTokenizerBase | None" = None
) -> "list[art.TrajectoryGroup]":
    """One ART group per window, in the order in which the windows first appear; a trajectory holds the calls
    of an episode that share an advantage.

    Args:
        tokenizer: Of the model that is trained; reads text without log-probabilities.
    """
    from babylon_rl.training.art_import import import_art

    art = import_art()
    windows: dict[str, list[Any]] = {}
    for episode in episodes:
        calls = [read for call in episode.calls if (read := _with_tokens(call, tokenizer)) is not None]
        if not calls:
            continue
        for advantage, together in _by_advantage(episode, calls).items():
            histories = [_messages_and_choice(call) for call in together]
            windows.setdefault(episode.window_id, []).append(
                art.Trajectory(
                    messages_and_choices=histories[0],
                    additional_histories=[
                        art.trajectories.History(messages_and_choices=h) for h in histories[1:]
                    ],
                    reward=advantage,
                    metadata={"agent_id": episode.agent_id},
                )
            )
    return [
        art.TrajectoryGroup(trajectories, metadata={"window_id": window})
        for window, trajectories in windows.items()
    ]


def _by_advantage(
    episode: TrainableEpisode, calls: Sequence[TrainableCall]
) -> dict[float, list[TrainableCall]]:
    """ART gives a trajectory one advantage: calls of decisions with different ones are trajectories apart."""
    parts: dict[float, list[TrainableCall]] = {}
    for call in calls:
        parts.setdefault(episode.advantage if call.advantage is None else call.advantage, []).append(call)
    return parts


def _with_tokens(call: TrainableCall, tokenizer: "PreTrainedTokenizerBase | None") -> TrainableCall | None:
    """The call with a log-probability per token; None if it has none and there is no tokenizer."""
    if call.logprobs:
        return call
    if tokenizer is None:
        return None
    ids = list(call.token_ids) or text_tokens(call.content, tokenizer)
    return replace(call, token_ids=ids, logprobs=[math.nan] * len(ids))


def tokenizer_for(episodes: Iterable[TrainableEpisode], checkpoint: Path) -> "PreTrainedTokenizerBase | None":
    """The tokenizer of a checkpoint, where some of the text needs one."""
    from babylon_rl.policy.checkpoints import load_checkpoint

    if all(call.logprobs for episode in episodes for call in episode.calls):
        return None
    return load_checkpoint(checkpoint)[1]


def text_tokens(content: str, tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    """The tokens of an answer that was recorded as text, with the end of the turn."""
    ids = list(tokenizer.encode(neutralise(content), add_special_tokens=False))
    return ids if tokenizer.eos_token_id is None else [*ids, int(tokenizer.eos_token_id)]  # type: ignore[arg-type]


def _messages_and_choice(call: TrainableCall) -> list[Any]:
    return [*neutral_messages(call.messages), _choice(call)]


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
