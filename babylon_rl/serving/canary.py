"""Asks a target the canary's prompts."""

import asyncio

import msgspec

from babylon_rl.deployment.canary import MAX_TOKENS, CanaryVerdict, Probe, judge, prompts
from babylon_rl.serving.answers import Answer
from babylon_rl.serving.engine_upstream import EngineUpstream
from babylon_rl.serving.errors import GatewayError, UpstreamFailure
from babylon_rl.serving.protocol import ChatCall, parse_chat
from babylon_rl.serving.upstream import Target

EXACT = 1e-5
"""Nats: the same weights in the same process."""
SERVED = 1e-3
"""Nats: the same weights behind a server that batches and rounds."""
ATTEMPTS = 3
PAUSE_SECONDS = 0.5


class CanaryUnknownError(Exception):
    """The target did not answer, which says nothing about its weights."""


async def check(target: Target, base: Target) -> CanaryVerdict:
    """Compares a target with the base model's.

    Raises:
        CanaryUnknownError: one of them does not answer.
    """
    embedded = isinstance(target.upstream, EngineUpstream)
    expected = target.version if embedded else target.model
    served, reference = await _probe(target), await _probe(base)
    both_embedded = embedded and isinstance(base.upstream, EngineUpstream)
    return judge(expected, served, reference, EXACT if both_embedded else SERVED)


async def _probe(target: Target) -> list[Probe]:
    calls = [_call(messages) for messages in prompts()]
    for attempt in range(ATTEMPTS):
        try:
            answers = await asyncio.gather(
                *(target.upstream.complete(call, target.model, {}) for call in calls)
            )
            return [_read(answer) for answer in answers]
        except (UpstreamFailure, GatewayError) as failure:
            if attempt == ATTEMPTS - 1:
                raise CanaryUnknownError(f"{target.version}: {failure}") from None
            await asyncio.sleep(PAUSE_SECONDS)
    raise AssertionError("unreachable")


def _call(messages: list[dict[str, str]]) -> ChatCall:
    body = {
        "messages": messages,
        "temperature": 0.0,
        "top_p": 1.0,
        "max_tokens": MAX_TOKENS,
        "seed": 0,
        "logprobs": True,
    }
    return parse_chat(msgspec.json.encode(body))


def _read(answer: Answer) -> Probe:
    message = msgspec.json.decode(answer.message)
    logprobs = None if answer.token_logprobs is None else tuple(answer.token_logprobs)
    return Probe(answer.model, str(message.get("content") or ""), logprobs)
