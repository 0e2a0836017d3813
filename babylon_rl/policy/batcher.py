"""Concurrent requests of one policy, sampled together: what arrives while a batch runs forms the next one."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from babylon_rl.policy.chat import ChatAnswer, ChatRequest, Policy
from babylon_rl.policy.errors import PolicyError

OnToken = Callable[[int, float], None]
"""Called with (token id, log-probability) as each token of an answer is sampled, from the sampling thread."""


@dataclass(eq=False)
class _Waiting:
    request: ChatRequest
    on_token: OnToken | None
    future: asyncio.Future[ChatAnswer]


class Batcher:
    """Collects concurrent requests and samples them together, one batch at a time.

    ``policy`` may be replaced at any time: the running batch ends on the old one, the next starts on the new.
    """

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self._waiting: list[_Waiting] = []
        self._worker: asyncio.Task[None] | None = None

    async def ask(self, request: ChatRequest, on_token: OnToken | None = None) -> ChatAnswer:
        """The answer to one request.

        Args:
            on_token: receives each token as it is sampled; needs a policy whose ``complete`` takes a
                ``TokenSink``.

        Raises:
            PolicyError: this request cannot be answered; its neighbours are.
        """
        future: asyncio.Future[ChatAnswer] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(request, on_token, future))
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._drain())
        return await future

    async def _drain(self) -> None:
        while self._waiting:
            batch = [waiting for waiting in self._waiting if not waiting.future.done()]
            self._waiting = []
            if batch:
                await self._answer(batch)

    async def _answer(self, batch: list[_Waiting]) -> None:
        try:
            answers = await self.policy.complete([waiting.request for waiting in batch], **_sink(batch))
        except Exception as error:
            if isinstance(error, PolicyError) and len(batch) > 1:
                for one in batch:  # the request at fault must not fail its neighbours
                    await self._answer([one])
                return
            for waiting in batch:
                if not waiting.future.done():
                    waiting.future.set_exception(error)
        else:
            for waiting, answer in zip(batch, answers, strict=True):
                if not waiting.future.done():
                    waiting.future.set_result(answer)


def _sink(batch: list[_Waiting]) -> dict[str, Any]:
    listeners = [waiting.on_token for waiting in batch]
    if not any(listeners):
        return {}

    def pass_on(row: int, token: int, logprob: float) -> None:
        listener = listeners[row]
        if listener is not None:
            listener(token, logprob)

    return {"on_token": pass_on}
