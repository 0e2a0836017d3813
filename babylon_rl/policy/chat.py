"""The contract of a policy: chat messages in, an answer with its tokens and their log-probabilities out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

Message = dict[str, str]
"""One chat message: ``role`` and ``content``."""

TokenSink = Callable[[int, int, float], None]
"""Called with (index of the request, token id, log-probability) from the thread that samples."""


@dataclass(frozen=True)
class ChatRequest:
    """One chat completion to be sampled."""

    messages: Sequence[Message]
    temperature: float = 1.0
    """Zero means greedy; log-probabilities are always of the distribution that was sampled from."""
    max_tokens: int = 12
    seed: int | None = None
    """Fixes the sampled tokens whatever else is in the batch (up to floating-point ties)."""
    top_p: float = 1.0
    """Share of the probability, most likely tokens first, that is sampled from."""
    stop: tuple[str, ...] = ()
    """Texts that end the answer; they are not part of it."""


@dataclass(frozen=True)
class ChatAnswer:
    """A sampled completion with everything that training needs to know about it."""

    content: str
    finish_reason: str
    """``stop`` when the model ended its turn or wrote a stop text, ``length`` when it was cut."""
    prompt_token_ids: list[int] = field(repr=False)
    token_ids: list[int] = field(repr=False)
    """Sampled tokens, including the end-of-turn token (or those of the stop text)."""
    logprobs: list[float] = field(repr=False)
    """Natural logarithm of each sampled token's probability; same length as ``token_ids``."""
    policy_version: str
    model: str
    response_id: str
    chat_template_hash: str
    prompt_tokens: int | None = None
    """As a server counted them, for the bill."""
    answer_tokens: int | None = None


class Policy(Protocol):
    """Something that answers chat messages."""

    @property
    def version(self) -> str:
        """Version of the weights, for example ``v0.0.3``."""
        ...

    async def complete(self, requests: Sequence[ChatRequest]) -> list[ChatAnswer]:
        """Answer every request, in the given order."""
        ...
