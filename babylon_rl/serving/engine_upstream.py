"""The embedded engine as an upstream: batched sampling in this process, streamed token by token."""

import asyncio
from collections.abc import AsyncGenerator
from typing import NoReturn

import msgspec
from msgspec import Raw

from babylon_rl.errors import BabylonError
from babylon_rl.policy.batcher import Batcher
from babylon_rl.policy.chat import ChatAnswer, ChatRequest, Message
from babylon_rl.policy.engine import EmbeddedEngine, first_stop
from babylon_rl.policy.errors import PolicyError
from babylon_rl.serving.answers import NULL, Answer, Delta, LogprobsOf
from babylon_rl.serving.errors import GatewayError, UpstreamFailure
from babylon_rl.serving.protocol import ChatBody, ChatCall, ChatMessage
from babylon_rl.serving.upstream import Clock, Deltas, Timeouts

DEFAULT_TOKENS = 16
ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
NOT_THERE = ("tools", "tool_choice", "functions", "function_call", "response_format", "logit_bias", "audio")
"""Features whose silent absence would change what an answer means."""
PENALTIES = ("frequency_penalty", "presence_penalty")


class EngineUpstream:
    """Serves one checkpoint; another version is another upstream, so a swap leaves running calls alone."""

    name = "embedded"
    logprobs_of: LogprobsOf = "sampled"

    def __init__(self, engine: EmbeddedEngine, timeouts: Timeouts | None = None) -> None:
        self.engine = engine
        self._timeouts = timeouts or Timeouts()
        self._batcher = Batcher(engine)

    async def complete(self, call: ChatCall, model: str, trace: dict[str, str]) -> Answer:
        request = to_request(call)
        try:
            async with asyncio.timeout(self._timeouts.total):
                answer = await self._batcher.ask(request)
        except TimeoutError:
            raise UpstreamFailure("total_timeout", retry=False) from None
        except Exception as error:
            raise _failure(error) from error
        return self._answer(answer, call.body)

    async def open_stream(self, call: ChatCall, model: str, trace: dict[str, str]) -> Deltas:
        pieces = self._stream(to_request(call), call.body)
        first: list[Delta] = []
        async for arrived in pieces:
            first += arrived
            if any(piece.has_token for piece in arrived):
                break
        return Deltas(first, pieces)

    async def _stream(self, request: ChatRequest, body: ChatBody) -> AsyncGenerator[list[Delta]]:
        loop, queue = asyncio.get_running_loop(), asyncio.Queue[tuple[int, float] | None]()

        def sampled(token: int, logprob: float) -> None:  # runs in the sampling thread
            loop.call_soon_threadsafe(queue.put_nowait, (token, logprob))

        def ended(task: asyncio.Task[ChatAnswer]) -> None:
            queue.put_nowait(None)
            _ = task.cancelled() or task.exception()  # seen, also where nobody reads the stream to its end

        clock = Clock(self._timeouts)
        asked = asyncio.create_task(self._batcher.ask(request, sampled))
        asked.add_done_callback(ended)
        text, started = _TextStream(self.engine, request.stop), False
        yield [_first_delta()]
        try:
            while True:
                async with clock.limit(first_token=not started):
                    entry = await queue.get()
                if entry is None:
                    break
                started = True
                yield [self._piece(text, entry, body)]
            answer = await asked
        except TimeoutError:
            raise UpstreamFailure(
                "total_timeout" if started else "first_token_timeout", retry=False
            ) from None
        except Exception as error:
            raise _failure(error) from error
        finally:
            asked.cancel()
        yield [self._last_piece(text, answer), Delta(usage=_usage(answer))]

    def _piece(self, text: "_TextStream", entry: tuple[int, float], body: ChatBody) -> Delta:
        token, logprob = entry
        content = text.add(token)
        logprobs = _logprobs(self.engine, [token], [logprob]) if body.logprobs else NULL
        delta = Raw(msgspec.json.encode({"content": content}))
        return Delta(
            delta=delta,
            content=content,
            has_token=True,
            logprobs=logprobs,
            token_ids=[token],
            token_logprobs=[logprob],
        )

    def _last_piece(self, text: "_TextStream", answer: ChatAnswer) -> Delta:
        content = text.rest(answer.content)
        return Delta(
            delta=Raw(msgspec.json.encode({"content": content} if content else {})),
            content=content,
            has_token=True,
            finish_reason=answer.finish_reason,
            upstream_id=answer.response_id,
            model=answer.policy_version,
            prompt_token_ids=answer.prompt_token_ids,
            chat_template_hash=answer.chat_template_hash,
        )

    def _answer(self, answer: ChatAnswer, body: ChatBody) -> Answer:
        logprobs = _logprobs(self.engine, answer.token_ids, answer.logprobs) if body.logprobs else NULL
        return Answer(
            message=Raw(
                msgspec.json.encode({"role": "assistant", "content": answer.content, "refusal": None})
            ),
            finish_reason=answer.finish_reason,
            upstream_id=answer.response_id,
            model=answer.policy_version,
            usage=_usage(answer),
            logprobs=logprobs,
            prompt_token_ids=answer.prompt_token_ids,
            token_ids=answer.token_ids,
            token_logprobs=answer.logprobs,
            logprobs_of=self.logprobs_of,
            chat_template_hash=answer.chat_template_hash,
        )


class _TextStream:
    """Text of a growing answer, held back where it could still become a stop text or another character."""

    def __init__(self, engine: EmbeddedEngine, stop: tuple[str, ...]) -> None:
        self._engine, self._stop = engine, stop
        self._held = max(map(len, stop), default=1) - 1
        self._ids: list[int] = []
        self._sent = 0

    def add(self, token: int) -> str:
        if token == self._engine.tokenizer.eos_token_id:
            return ""
        self._ids.append(token)
        text = self._engine.text(self._ids)
        end = first_stop(text, self._stop)
        if end is None:
            end = len(text) if self._held == 0 else max(self._sent, len(text) - self._held)
            while end > self._sent and text[end - 1] == "\ufffd":
                end -= 1
        piece, self._sent = text[self._sent : end], max(self._sent, end)
        return piece

    def rest(self, whole: str) -> str:
        return whole[self._sent :]


def to_request(call: ChatCall) -> ChatRequest:
    """What the engine is to sample.

    Raises:
        GatewayError: the request asks for something that the engine does not do, so that an answer without it
            would be another answer.
    """
    body = call.body
    for name in NOT_THERE:
        if name in call.raw and bytes(call.raw[name]) not in (b"null", b"[]", b'{"type":"text"}'):
            _refuse(name, "the embedded engine does not support it")
    for name in PENALTIES:
        if name in call.raw and bytes(call.raw[name]) not in (b"null", b"0", b"0.0"):
            _refuse(name, "the embedded engine does not support it")
    if body.top_logprobs:
        _refuse("top_logprobs", "the embedded engine gives the log-probability of the sampled token only")
    stop = (body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ())
    return ChatRequest(
        messages=[_message(index, message) for index, message in enumerate(body.messages)],
        temperature=1.0 if body.temperature is None else body.temperature,
        max_tokens=body.limit or DEFAULT_TOKENS,
        seed=None if body.seed is None else body.seed % 2**64,
        top_p=body.top_p or 1.0,
        stop=tuple(text for text in stop if text),
    )


def _message(index: int, message: ChatMessage) -> Message:
    role = ROLES.get(message.role)
    if role is None:
        _refuse(f"messages[{index}].role", f"{message.role!r} is not one of {', '.join(ROLES)}")
    content = message.content
    if isinstance(content, list):
        parts = [part.get("text") if isinstance(part, dict) else None for part in content]
        texts = [part for part in parts if isinstance(part, str)]
        content = "".join(texts) if len(texts) == len(parts) else None
    if not isinstance(content, str):
        _refuse(f"messages[{index}].content", "it must be text")
    return {"role": role, "content": content}


def _refuse(field: str, problem: str) -> NoReturn:
    raise GatewayError(400, "invalid_request_error", f"{field}: {problem}", param=field.partition("[")[0])


def _failure(error: Exception) -> Exception:
    if isinstance(error, GatewayError | UpstreamFailure):
        return error
    if isinstance(error, PolicyError):
        return GatewayError(400, "invalid_request_error", error.problem, error.remedy, param="messages")
    return UpstreamFailure("engine", str(error), retry=isinstance(error, BabylonError))


def _first_delta() -> Delta:
    return Delta(delta=Raw(b'{"role":"assistant","content":""}'))


def _usage(answer: ChatAnswer) -> Raw:
    prompt, completion = len(answer.prompt_token_ids), len(answer.token_ids)
    usage = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
    return Raw(msgspec.json.encode(usage))


def _logprobs(engine: EmbeddedEngine, token_ids: list[int], logprobs: list[float]) -> Raw:
    entries = []
    for token, logprob in zip(token_ids, logprobs, strict=True):
        text = engine.text([token])
        whole = "\ufffd" not in text
        entries.append(
            {
                "token": text,
                "logprob": logprob,
                "bytes": list(text.encode()) if whole else None,
                "top_logprobs": [],
            }
        )
    return Raw(msgspec.json.encode({"content": entries, "refusal": None}))
