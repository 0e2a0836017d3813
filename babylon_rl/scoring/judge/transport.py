"""One request to an OpenAI-compatible server, through the openai client, and what its failures mean.

The client's own retries are off: attempts, waiting and accounting are ours (`client.py`). A request has one
deadline for all of it, so a server that drips bytes hangs no longer than one that sends none. Redirects are
not followed: they would take the episodes to a host that nobody allowed.
"""

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from babylon_rl.scoring.judge.address import JudgeAddress, is_private
from babylon_rl.scoring.judge.errors import (
    ContextOverflowError,
    JudgeError,
    JudgeSetupError,
    RequestError,
)

if TYPE_CHECKING:
    from openai import APIStatusError, AsyncOpenAI

LARGEST_BODY = 8 * 2**20
"""Bytes of one answer."""

CONNECT_SECONDS = 10.0
_FORMAT_NAME = "episode_scores"


class Answer(msgspec.Struct, frozen=True):
    """What came back; tokens are None where the server did not count them."""

    text: str | None
    refusal: str | None = None
    finish_reason: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None


class Transport(Protocol):
    """Sends one request, once."""

    async def send(
        self, messages: Sequence[dict[str, str]], schema: dict[str, Any], max_tokens: int
    ) -> Answer:
        """Returns the answer.

        Raises:
            RequestError: It failed; says whether to try again.
            JudgeSetupError: Key or model is wrong.
            ContextOverflowError: The messages are too long.
        """
        ...

    async def close(self) -> None: ...


class OpenAiTransport:
    """The openai client on one address.

    Args:
        address: Where, as whom.
        temperature: Left out if the model refuses it, as reasoning models do.
        timeout: Seconds for a whole request.
        connections: Requests at the same time.
    """

    def __init__(
        self, address: JudgeAddress, *, temperature: float, timeout: float, connections: int
    ) -> None:
        self._address, self._timeout = address, timeout
        self._client = _client(address, timeout, connections)
        self._options: dict[str, Any] = {"temperature": temperature, "stream": False, "n": 1}
        self._length = "max_completion_tokens" if "openai.com" in address.host else "max_tokens"
        self._formats = ["json_schema", "json_object", "none"]

    async def send(
        self, messages: Sequence[dict[str, str]], schema: dict[str, Any], max_tokens: int
    ) -> Answer:
        import httpx
        from openai import APIConnectionError, APIStatusError, APITimeoutError

        while True:
            options = self._options | {self._length: max_tokens} | self._format(schema)
            before = (self._length, len(self._formats), len(self._options))
            try:
                async with asyncio.timeout(self._timeout):
                    return read_answer(await self._post(messages, options))
            except APIStatusError as problem:
                if problem.status_code == 400:
                    self._adapt(problem, options)
                    if before != (self._length, len(self._formats), len(self._options)):
                        continue
                raise failure(self._address, problem) from None
            except (TimeoutError, APITimeoutError, httpx.TimeoutException):
                raise self._late() from None
            except (APIConnectionError, httpx.HTTPError) as problem:
                raise self._unreachable(problem.__cause__ or problem) from None

    async def close(self) -> None:
        await self._client.close()

    async def _post(self, messages: Sequence[dict[str, str]], options: dict[str, Any]) -> bytes:
        create = self._client.chat.completions.with_streaming_response.create
        async with create(model=self._address.model, messages=list(messages), **options) as response:  # type: ignore[arg-type]
            if not 200 <= response.status_code < 300:
                raise RequestError(
                    f"the judge at {self._address.host} answered {response.status_code}, a redirect",
                    "Redirects are not followed; give the final address in JUDGE_BASE_URL.",
                    kind="rejected",
                )
            body = bytearray()
            async for part in response.iter_bytes():
                body += part
                if len(body) > LARGEST_BODY:
                    raise RequestError(
                        f"the judge at {self._address.host} sent more than {LARGEST_BODY >> 20} MiB",
                        "It is not a chat-completions server that can be used.",
                        kind="rejected",
                        charged=True,
                    )
            return bytes(body)

    def _format(self, schema: dict[str, Any]) -> dict[str, Any]:
        kind = self._formats[0]
        if kind == "json_schema":
            wanted = {"name": _FORMAT_NAME, "strict": True, "schema": schema}
            return {"response_format": {"type": kind, "json_schema": wanted}}
        return {} if kind == "none" else {"response_format": {"type": kind}}

    def _late(self) -> RequestError:
        return RequestError(
            f"the judge {self._address.name} at {self._address.host} gave no answer in {self._timeout:g} s",
            "Raise JUDGE_TIMEOUT_SECONDS, or look whether it is overloaded.",
            kind="timeout",
            retry=True,
            charged=True,
        )

    def _unreachable(self, cause: BaseException) -> RequestError:
        return RequestError(
            f"the judge {self._address.name} at {self._address.host} cannot be reached: "
            f"{str(cause)[:200] or type(cause).__name__}",
            "Check JUDGE_BASE_URL and the network.",
            kind="unreachable",
            retry=True,
            # Without a connection nothing was asked; after one was lost, it may have been.
            charged="connect" not in type(cause).__name__.lower(),
        )

    def _adapt(self, problem: "APIStatusError", options: dict[str, Any]) -> None:
        """Leaves out for good what this server does not understand; it says so in words of its own."""
        text = str(problem.message).lower()
        if "response_format" in text or "json_schema" in text or "structured output" in text:
            if len(self._formats) > 1:
                self._formats.pop(0)
        elif "max_completion_tokens" in text and self._length == "max_tokens":
            self._length = "max_completion_tokens"
        elif "max_tokens" in text and self._length == "max_completion_tokens" and "maximum" not in text:
            self._length = "max_tokens"
        elif "temperature" in text:
            self._options.pop("temperature", None)


def read_answer(body: bytes) -> Answer:
    """Reads a chat completion; what is none becomes an answer without text, which is then refused as such."""
    try:
        completion = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return Answer(None)
    choice = _first(completion)
    message = choice.get("message")
    message = message if isinstance(message, dict) else {}
    usage = completion.get("usage") if isinstance(completion, dict) else None
    usage = usage if isinstance(usage, dict) else {}
    return Answer(
        text=_text(message.get("content")),
        refusal=_text(message.get("refusal")),
        finish_reason=_text(choice.get("finish_reason")),
        input_tokens=_count(usage.get("prompt_tokens")),
        output_tokens=_count(usage.get("completion_tokens")),
    )


def failure(address: JudgeAddress, problem: "APIStatusError") -> JudgeError:
    """Returns what an error status means, in words of ours: a server's own may quote the key."""
    status, text = problem.status_code, str(problem.message).lower()
    code = str(getattr(problem, "code", "") or "").lower()
    who = f"the judge {address.name} at {address.host}"
    if status == 401 or status == 403:
        return JudgeSetupError(
            f"{who} refused the key ({status})", "Check JUDGE_API_KEY (OPENAI_API_KEY) and what it may use."
        )
    if status == 404 or code == "model_not_found":
        return JudgeSetupError(
            f"{address.host} knows no model {address.model!r} ({status})",
            "Check JUDGE_MODEL; with JUDGE_BASE_URL, also that the address ends in /v1.",
        )
    if code == "insufficient_quota" or status == 402:
        return JudgeSetupError(f"{who} has no credit left ({status})", "Top up the account of the key.")
    if code == "context_length_exceeded" or status == 413 or "context length" in text or "too long" in text:
        return ContextOverflowError(
            f"{who} cannot read a group of this size",
            "Lower JUDGE_EPISODE_TOKENS or JUDGE_CONTEXT_TOKENS, or use a judge with a larger context.",
        )
    if status == 429:
        return RequestError(
            f"{who} limits the rate",
            "Lower JUDGE_CONCURRENCY, or come back later.",
            kind="rate_limited",
            retry=True,
            after=_retry_after(problem),
        )
    if status in (408, 409, 425) or status >= 500:
        return RequestError(
            f"{who} failed ({status})",
            "Come back later.",
            kind="server_error",
            retry=True,
            after=_retry_after(problem),
        )
    return RequestError(
        f"{who} rejected the request ({status}{f', {code[:40]}' if code else ''})",
        "Check that it speaks chat completions.",
        kind="rejected",
    )


def _retry_after(problem: "APIStatusError") -> float | None:
    """Seconds of Retry-After (or its milliseconds variant); a date counts from now."""
    from email.utils import parsedate_to_datetime

    headers = problem.response.headers
    try:
        if "retry-after-ms" in headers:
            return max(0.0, float(headers["retry-after-ms"]) / 1000)
        return max(0.0, float(headers["retry-after"]))
    except KeyError:
        return None
    except ValueError:
        pass
    try:
        moment = parsedate_to_datetime(headers["retry-after"])
    except ValueError:
        return None
    return max(0.0, moment.timestamp() - _now())


def _now() -> float:
    import time

    return time.time()


def _client(address: JudgeAddress, timeout: float, connections: int) -> "AsyncOpenAI":
    import httpx
    from openai import AsyncOpenAI, DefaultAsyncHttpxClient

    limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
    patience = httpx.Timeout(timeout, connect=min(CONNECT_SECONDS, timeout))
    # A proxy of the environment is for the internet: what goes to this machine or network stays there.
    http = DefaultAsyncHttpxClient(
        follow_redirects=False, trust_env=not is_private(address.host), limits=limits, timeout=patience
    )
    return AsyncOpenAI(
        base_url=address.base_url,
        api_key=address.key.get_secret_value(),
        timeout=patience,
        max_retries=0,
        http_client=http,
    )


def _first(completion: Any) -> dict[str, Any]:
    choices = completion.get("choices") if isinstance(completion, dict) else None
    first = choices[0] if isinstance(choices, list) and choices else {}
    return first if isinstance(first, dict) else {}


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
