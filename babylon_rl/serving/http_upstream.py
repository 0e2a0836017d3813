"""Any OpenAI-compatible server as an upstream: vLLM, W&B Inference, Groq, another gateway."""

import re
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import aiohttp
import msgspec

from babylon_rl.serving.answers import Answer, Delta, LogprobsOf
from babylon_rl.serving.errors import GatewayError, UpstreamFailure
from babylon_rl.serving.openai_answers import read_completion, read_delta, read_refusal
from babylon_rl.serving.protocol import ChatCall
from babylon_rl.serving.sse import EventReader, EventTooLargeError
from babylon_rl.serving.upstream import Clock, Deltas, Timeouts

MAX_ANSWER_BYTES = 32 << 20
MAX_REFUSAL_BYTES = 64 << 10
REFUSALS = (400, 413, 415, 422)
"""Statuses that blame the request: passed on to the client, and no other upstream is asked."""

Kind = Literal["openai", "vllm", "wandb"]


@dataclass(frozen=True)
class HttpUpstreamConfig:
    """How to reach a server and what it understands."""

    name: str
    url: str
    """Base address, with ``/v1``."""
    kind: Kind = "openai"
    """``vllm`` and ``wandb`` are asked for log-probabilities, and ``vllm`` for token ids, for the record."""
    api_key: str | None = field(default=None, repr=False)
    headers: dict[str, str] = field(default_factory=dict, repr=False)
    timeouts: Timeouts = Timeouts()
    logprobs_of: LogprobsOf = "raw"


class HttpUpstream:
    """Asks a server; one connection pool per upstream, opened on first use and closed by ``close``."""

    def __init__(self, config: HttpUpstreamConfig) -> None:
        self.config = config
        self.name = config.name
        self.logprobs_of: LogprobsOf = config.logprobs_of
        self._url = f"{config.url}/chat/completions"
        self._session: aiohttp.ClientSession | None = None

    async def complete(self, call: ChatCall, model: str, trace: dict[str, str]) -> Answer:
        clock = Clock(self.config.timeouts)
        async with self._post(self._body(call, model, stream=False), trace, clock, False) as response:
            data = await _within(clock, False, _read_all(response, MAX_ANSWER_BYTES))
        return read_completion(data, self.logprobs_of)

    async def open_stream(self, call: ChatCall, model: str, trace: dict[str, str]) -> Deltas:
        clock = Clock(self.config.timeouts)
        pieces = self._stream(self._body(call, model, stream=True), trace, clock)
        first: list[Delta] = []
        try:
            async for arrived in pieces:
                first += arrived
                if any(piece.has_token for piece in arrived):
                    return Deltas(first, pieces)
        except BaseException:
            await pieces.aclose()
            raise
        raise UpstreamFailure("empty_stream")

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def post_json(self, path: str, body: dict[str, Any]) -> tuple[int, str]:
        """Status and message of an administrative request beside the chat endpoint.

        Raises:
            UpstreamFailure: there is no answer.
        """
        clock = Clock(self.config.timeouts)
        url = f"{self.config.url}/{path}"
        async with self._request(url, msgspec.json.encode(body), {}, clock, False) as response:
            data = await _within(clock, False, _read_all(response, MAX_REFUSAL_BYTES))
            return response.status, read_refusal(data)

    def _body(self, call: ChatCall, model: str, *, stream: bool) -> bytes:
        """The client's body, with the upstream's model name and what the record needs."""
        body: dict[str, Any] = {**call.raw, "model": model}
        if stream:
            body["stream_options"] = {"include_usage": True}
        if self.config.kind != "openai":
            body["logprobs"] = True
            # OpenAI's defaults, said aloud: a server may have others, and the record must know them.
            if call.body.temperature is None:
                body["temperature"] = 1.0
            if call.body.top_p is None:
                body["top_p"] = 1.0
        if self.config.kind == "vllm":
            body["return_token_ids"] = True
        return msgspec.json.encode(body)

    async def _stream(self, body: bytes, trace: dict[str, str], clock: Clock) -> AsyncGenerator[list[Delta]]:
        reader, started, finished = EventReader(), False, False
        async with self._post(body, trace, clock, True) as response:
            if not response.content_type.startswith("text/event-stream"):
                raise UpstreamFailure("garbage", f"a stream of {response.content_type}")
            while True:
                chunk = await _within(clock, not started, response.content.readany())
                try:
                    events = reader.feed(chunk) if chunk else reader.end()
                except EventTooLargeError as error:
                    raise UpstreamFailure("too_large", str(error)) from None
                done = b"[DONE]" in events
                pieces = [read_delta(event) for event in events if event != b"[DONE]"]
                started = started or any(piece.has_token for piece in pieces)
                finished = finished or any(piece.finish_reason for piece in pieces)
                if pieces:
                    yield pieces
                if done and finished:
                    return
                if done or not chunk:
                    if finished:
                        return
                    raise UpstreamFailure("cut_stream", "it ended without a finish reason")

    @asynccontextmanager
    async def _post(
        self, body: bytes, trace: dict[str, str], clock: Clock, first_token: bool
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        async with self._request(self._url, body, trace, clock, first_token) as response:
            if response.status != 200:
                data = await _within(clock, first_token, _read_all(response, MAX_REFUSAL_BYTES))
                raise _failure(response, read_refusal(data))
            yield response

    @asynccontextmanager
    async def _request(
        self, url: str, body: bytes, trace: dict[str, str], clock: Clock, first_token: bool
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        session = self._session or self._open()
        request = session.post(url, data=body, headers=trace or None, allow_redirects=False)
        response = await _within(clock, first_token, request)
        try:
            yield response
        except BaseException:
            response.close()
            raise
        else:
            response.release()

    def _open(self) -> aiohttp.ClientSession:
        config = self.config
        headers = {"content-type": "application/json", "accept-encoding": "identity"} | config.headers
        if config.api_key is not None:
            headers["authorization"] = f"Bearer {config.api_key}"
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=30, ttl_dns_cache=60),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=config.timeouts.connect),
            headers=headers,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
        )
        return self._session


async def _within(clock: Clock, first_token: bool, work: Any) -> Any:
    """Awaits ``work`` within the attempt's time; a broken connection becomes the upstream's failure."""
    try:
        async with clock.limit(first_token):
            return await work
    except aiohttp.ConnectionTimeoutError:
        raise UpstreamFailure("connect_timeout") from None
    except TimeoutError:
        reason = "first_token_timeout" if first_token else "total_timeout"
        raise UpstreamFailure(reason, retry=False) from None
    except aiohttp.ClientConnectorError as error:
        raise UpstreamFailure("connect", str(error)) from None
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise UpstreamFailure("connection", f"{type(error).__name__}: {error}") from None


async def _read_all(response: aiohttp.ClientResponse, limit: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    while chunk := await response.content.readany():
        parts.append(chunk)
        size += len(chunk)
        if size > limit:
            raise UpstreamFailure("too_large", f"an answer of more than {limit} bytes")
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _failure(response: aiohttp.ClientResponse, message: str) -> Exception:
    status = response.status
    if status in REFUSALS:
        return GatewayError(400 if status != 413 else 413, "invalid_request_error", message)
    return UpstreamFailure(
        f"http_{status}",
        message,
        retry=status in (408, 425, 429) or status >= 500,
        retry_after=_seconds(response.headers.get("retry-after", "")),
    )


def _seconds(text: str) -> float | None:
    """``Retry-After`` in its form of seconds; a date counts as no wish."""
    return float(text) if re.fullmatch(r"\d{1,6}(\.\d+)?", text.strip()) else None
