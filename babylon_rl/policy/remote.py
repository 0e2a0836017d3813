"""A policy behind an address: any OpenAI-compatible server, asked for the model by exactly the name given."""

import asyncio
from collections.abc import Sequence

import httpx

from babylon_rl.policy.chat import ChatAnswer, ChatRequest
from babylon_rl.policy.errors import PolicyError

CONCURRENCY = 8
TRIES = 4
SECONDS = 60.0
_PASSING = (408, 409, 429, 500, 502, 503, 504)
FIRST_WAIT = 0.5


class RemotePolicyError(PolicyError):
    """The server did not answer as the protocol says."""


class RemotePolicy:
    """Answers with a model that another server holds.

    Args:
        version: What the answers are counted under.
        base_url: Address with `/v1`.
        model: Name of the model at that server; sent as it is, never guessed from.
        api_key: Bearer token, if the server wants one.
        concurrency: Requests in flight.
    """

    def __init__(
        self,
        version: str,
        base_url: str,
        model: str,
        api_key: str | None = None,
        concurrency: int = CONCURRENCY,
    ) -> None:
        self._version, self.model = version, model
        self._url = f"{base_url.rstrip('/')}/chat/completions"
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._concurrency = concurrency

    @property
    def version(self) -> str:
        return self._version

    async def complete(self, requests: Sequence[ChatRequest]) -> list[ChatAnswer]:
        """Answers every request in order; passing failures are tried again.

        Raises:
            RemotePolicyError: A request was refused, or failed `TRIES` times.
        """
        free = asyncio.Semaphore(self._concurrency)
        async with httpx.AsyncClient(headers=self._headers, timeout=SECONDS) as client:

            async def one(request: ChatRequest) -> ChatAnswer:
                async with free:
                    return await self._ask(client, request)

            return await asyncio.gather(*map(one, requests))

    async def _ask(self, client: httpx.AsyncClient, request: ChatRequest) -> ChatAnswer:
        body = {
            "model": self.model,
            "messages": list(request.messages),
            "temperature": request.temperature,
            "max_tokens": request.max_tokens,
            **({"seed": request.seed} if request.seed is not None else {}),
            **({"top_p": request.top_p} if request.top_p < 1 else {}),
            **({"stop": list(request.stop)} if request.stop else {}),
        }
        problem = ""
        for attempt in range(TRIES):
            if attempt:
                await asyncio.sleep(FIRST_WAIT * 2 ** (attempt - 1))
            try:
                reply = await client.post(self._url, json=body)
            except httpx.HTTPError as error:
                problem = f"{type(error).__name__} {error}".strip()
                continue
            if reply.status_code == 200:
                return self._answer(reply)
            problem = f"status {reply.status_code}: {reply.text[:200]}"
            if reply.status_code not in _PASSING:
                break
        raise RemotePolicyError(
            f"{self._url} did not answer for {self.model}: {problem}",
            "Check the address, the model's name and the key.",
        )

    def _answer(self, reply: httpx.Response) -> ChatAnswer:
        try:
            data = reply.json()
            choice = data["choices"][0]
            content, reason = choice["message"]["content"] or "", choice.get("finish_reason") or "stop"
        except (ValueError, KeyError, IndexError, TypeError):
            raise RemotePolicyError(
                f"{self._url} answered {reply.text[:200]!r}, which is no chat completion",
                "Give the address of an OpenAI-compatible server, with /v1.",
            ) from None
        return ChatAnswer(
            content=content,
            finish_reason=reason,
            prompt_token_ids=[],
            token_ids=[],
            logprobs=[],
            policy_version=self.version,
            model=str(data.get("model") or self.model),
            response_id=str(data.get("id") or ""),
            chat_template_hash="",
        )
