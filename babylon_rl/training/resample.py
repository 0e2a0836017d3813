"""Same-prompt groups from logs: several answers of the current policy to one recorded prompt.

Episodes of one hour are compared although their agents held different accounts, and yesterday's answers are
off-policy. Here a prompt that was really shown is answered anew, several times, by the policy that is about
to be trained, and each order is priced against the path that was recorded afterwards. Group and policy are
right by construction, the log-probabilities are real, and every backend can train them.

It is a one-step counterfactual of a small trader, and no more: prices and the account are those that were,
whatever the answer, so it says nothing of an order's market impact or of what the agent would have seen next.
"""

import hashlib
import math
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from babylon_rl.policy.chat import ChatAnswer, ChatRequest, Message, Policy
from babylon_rl.policy.errors import PromptTooLongError
from babylon_rl.scoring.groups import SMALLEST_SPREAD, leave_one_out
from babylon_rl.training.conversion import TrainableCall, TrainableEpisode

TOO_LONG, NO_LOGPROBS, CUT = "prompt_too_long", "no_logprobs", "cut_by_token_limit"
UNPRICED, NO_SPREAD, THIN = "unpriced", "no_spread", "too_few_answers"
CHUNK = 256
"""Requests per call of a policy, about: a prompt's are asked together."""


@dataclass(frozen=True)
class RecordedPrompt:
    """A prompt that an agent got in a window that has matured."""

    id: str
    """Trajectory and step."""
    window_id: str
    agent_id: str
    messages: Sequence[Message] = field(repr=False)
    temperature: float = 1.0
    max_tokens: int = 300


@dataclass(frozen=True)
class Resampled:
    """The groups of one day.

    Attributes:
        episodes: One per answer; their ``window_id`` is ``window/prompt``, one group per prompt.
        dropped: Answers (prompts, where they could not be asked) that are not trained, by reason.
        rewards: Of every answer that was priced, by prompt.
    """

    episodes: list[TrainableEpisode]
    dropped: dict[str, int]
    versions: dict[str, int]
    rewards: dict[str, list[float]] = field(default_factory=dict, repr=False)


Rewards = Callable[[Sequence[tuple[RecordedPrompt, ChatAnswer]]], Awaitable[Sequence[float | None]]]
"""Prices answers against what was recorded; None for one without a price (unknown market, no path)."""


async def resample(
    policy: Policy, prompts: Sequence[RecordedPrompt], answers: int, rewards: Rewards, *, seed: int = 0
) -> Resampled:
    """Answer every prompt several times and make a group of the answers; equal seeds give equal groups.

    An answer that was cut by the token limit counts in its group's baseline like an invalid one, but is not
    trained: nobody knows how it would have ended.

    Args:
        answers: Per prompt, at least 2.
        rewards: Called once, with all answers.
        seed: Another one gives other answers.
    """
    if answers < 2:
        raise ValueError("a group needs at least two answers")
    dropped: Counter[str] = Counter()
    asked = plan(prompts, answers, seed=seed)
    given = await _ask(policy, [request for _, request in asked], answers)
    dropped[TOO_LONG] += sum(answer is None for answer in given) // answers
    pairs = [(prompt, answer) for (prompt, _), answer in zip(asked, given, strict=True) if answer is not None]
    valued = await rewards(pairs) if pairs else []
    groups: dict[str, list[tuple[RecordedPrompt, ChatAnswer, float]]] = {}
    for (prompt, answer), reward in zip(pairs, valued, strict=True):
        if reward is None or not math.isfinite(reward):
            dropped[UNPRICED] += 1
        else:
            groups.setdefault(prompt.id, []).append((prompt, answer, float(reward)))
    episodes: list[TrainableEpisode] = []
    versions: Counter[str] = Counter()
    for group in groups.values():
        earned = np.array([reward for _, _, reward in group])
        if len(group) < 2 or float(np.ptp(earned)) <= SMALLEST_SPREAD:
            dropped[THIN if len(group) < 2 else NO_SPREAD] += len(group)
            continue
        for number, ((prompt, answer, _), advantage) in enumerate(
            zip(group, leave_one_out(earned), strict=True)
        ):
            if reason := _untrainable(answer):
                dropped[reason] += 1
                continue
            versions[answer.policy_version] += 1
            episodes.append(_episode(prompt, answer, number, float(advantage)))
    by_prompt = {name: [reward for _, _, reward in group] for name, group in groups.items()}
    return Resampled(episodes, dict(sorted((+dropped).items())), dict(sorted(versions.items())), by_prompt)


def plan(
    prompts: Sequence[RecordedPrompt], answers: int, *, seed: int = 0
) -> list[tuple[RecordedPrompt, ChatRequest]]:
    """Every request that `resample` makes, those of a prompt beside each other."""
    return [(prompt, _request(prompt, seed, k)) for prompt in prompts for k in range(answers)]


def _untrainable(answer: ChatAnswer) -> str | None:
    if answer.finish_reason == "length":
        return CUT
    if not answer.token_ids or len(answer.logprobs) != len(answer.token_ids):
        return NO_LOGPROBS
    if not all(map(math.isfinite, answer.logprobs)):
        return NO_LOGPROBS
    return None


def _episode(prompt: RecordedPrompt, answer: ChatAnswer, number: int, advantage: float) -> TrainableEpisode:
    call = TrainableCall(
        messages=prompt.messages,
        content=answer.content,
        token_ids=answer.token_ids,
        logprobs=answer.logprobs,
        finish_reason=answer.finish_reason,
    )
    return TrainableEpisode(
        f"{prompt.window_id}/{prompt.id}", f"{prompt.agent_id}#{number}", advantage, [call]
    )


def _request(prompt: RecordedPrompt, seed: int, number: int) -> ChatRequest:
    """Sampled at temperature 1 at least: a greedy prompt would get the same answer every time."""
    identity = f"{seed}/{prompt.id}/{number}"
    stream = int.from_bytes(hashlib.sha256(identity.encode()).digest()[:6], "big")
    temperature = prompt.temperature if prompt.temperature > 0 else 1.0
    return ChatRequest(prompt.messages, temperature, prompt.max_tokens, stream)


async def _ask(policy: Policy, requests: Sequence[ChatRequest], per_prompt: int) -> list[ChatAnswer | None]:
    """Every answer in order; None where the prompt exceeds the model's context."""
    answers: list[ChatAnswer | None] = []
    size = max(1, CHUNK // per_prompt) * per_prompt
    for first in range(0, len(requests), size):
        chunk = requests[first : first + size]
        try:
            answers += await policy.complete(chunk)
        except PromptTooLongError:
            for start in range(0, len(chunk), per_prompt):
                try:
                    answers += await policy.complete(chunk[start : start + per_prompt])
                except PromptTooLongError:
                    answers += [None] * per_prompt
    return answers
