"""A registered model as a policy, wherever it is served: the embedded engine, or the server of the gateway.

async with open_policy(settings, model) as policy:
    answers = await policy.complete(requests)
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import msgspec

from babylon_rl.deployment.registry import ModelRecord
from babylon_rl.policy.chat import ChatAnswer, ChatRequest, Policy
from babylon_rl.policy.errors import PolicyError, PromptTooLongError
from babylon_rl.serving.answers import Answer
from babylon_rl.serving.engine_upstream import EngineUpstream
from babylon_rl.serving.errors import GatewayError, UpstreamFailure
from babylon_rl.serving.protocol import ChatCall, parse_chat
from babylon_rl.serving.targets import TargetOpener
from babylon_rl.serving.upstream import Target
from babylon_rl.settings import Settings

CONCURRENCY = 16
TRIES = 4
FIRST_WAIT = 0.5


class UnansweredError(PolicyError):
    """A server did not answer."""


class ServerContextError(PromptTooLongError):
    """A server says that a prompt exceeds its model's context."""

    def __init__(self, said: str) -> None:
        PolicyError.__init__(
            self, f"A prompt was refused: {said}", "Shorten the messages or lower max_tokens."
        )


@asynccontextmanager
async def open_policy(settings: Settings, model: ModelRecord) -> AsyncIterator[Policy]:
    """The model as the gateway would serve it; the engine itself where that is the embedded one.

    Raises:
        BabylonError: its checkpoint is unusable, or nothing that is configured serves it.
    """
    opener = TargetOpener(settings)
    try:
        target = await opener.open(model)
        if isinstance(target.upstream, EngineUpstream):
            yield target.upstream.engine
        else:
            yield TargetPolicy(target)
    finally:
        await opener.close()


class TargetPolicy:
    """Asks a server for a version, several requests at a time."""

    def __init__(self, target: Target) -> None:
        self._target = target

    @property
    def version(self) -> str:
        return self._target.version

    async def complete(self, requests: Sequence[ChatRequest]) -> list[ChatAnswer]:
        """Answers in order; passing failures are tried again.

        Raises:
            PromptTooLongError: a prompt exceeds the model's context.
            UnansweredError: a request was refused, or failed `TRIES` times.
        """
        free = asyncio.Semaphore(CONCURRENCY)

        async def one(request: ChatRequest) -> ChatAnswer:
            async with free:
                return await self._ask(_call(request))

        return await asyncio.gather(*map(one, requests))

    async def _ask(self, call: ChatCall) -> ChatAnswer:
        problem: Exception | None = None
        for attempt in range(TRIES):
            if attempt:
                await asyncio.sleep(FIRST_WAIT * 2 ** (attempt - 1))
            try:
                return self._read(await self._target.upstream.complete(call, self._target.model, {}))
            except UpstreamFailure as failure:
                problem = failure
            except GatewayError as refused:
                if "context" in str(refused).lower():
                    raise ServerContextError(str(refused)) from refused
                problem = refused
                break
        raise UnansweredError(
            f"{self._target.model} did not answer: {problem}",
            "Check the server (GATEWAY_UPSTREAM_URL or W&B), the model's name there and the key.",
        ) from problem

    def _read(self, answer: Answer) -> ChatAnswer:
        message, usage = msgspec.json.decode(answer.message), answer.counts()
        return ChatAnswer(
            content=str(message.get("content") or ""),
            finish_reason=answer.finish_reason or "stop",
            prompt_token_ids=answer.prompt_token_ids or [],
            token_ids=answer.token_ids or [],
            logprobs=answer.token_logprobs or [],
            policy_version=self.version,
            model=answer.model or self._target.model,
            response_id=answer.upstream_id or "",
            chat_template_hash=answer.chat_template_hash or "",
            prompt_tokens=usage.prompt_tokens,
            answer_tokens=usage.completion_tokens,
        )


def _call(request: ChatRequest) -> ChatCall:
    body = {
        "messages": list(request.messages),
        "temperature": request.temperature,
        "max_tokens": request.max_tokens,
        "top_p": request.top_p,
        "logprobs": True,
    }
    if request.seed is not None:
        body["seed"] = request.seed % 2**31
    if request.stop:
        body["stop"] = list(request.stop)
    return parse_chat(msgspec.json.encode(body))
