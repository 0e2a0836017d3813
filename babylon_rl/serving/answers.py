"""An upstream's answer, whole or in pieces, and how it is written for the client and for the record.

Pieces of JSON that the gateway does not act on stay raw: they reach the client byte for byte.
"""

from typing import Any, Literal

import msgspec
from msgspec import Raw

from babylon_rl.serving.protocol import ChatCall

DONE = b"data: [DONE]\n\n"
NULL = Raw(b"null")

LogprobsOf = Literal["sampled", "raw"]


class Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class Answer(msgspec.Struct, kw_only=True):
    """A whole answer."""

    message: Raw
    """The assistant's message, a JSON object."""
    finish_reason: str | None
    upstream_id: str | None = None
    model: str = ""
    """The model's name as the upstream gave it."""
    usage: Raw = NULL
    logprobs: Raw = NULL
    """OpenAI's ``choices[0].logprobs``."""
    prompt_token_ids: list[int] | None = None
    token_ids: list[int] | None = None
    token_logprobs: list[float] | None = None
    """Natural logarithms, one per entry of ``token_ids``."""
    logprobs_of: LogprobsOf | None = None
    chat_template_hash: str | None = None
    complete: bool = True
    """False for a stream that broke off."""

    def counts(self) -> Usage:
        """Token counts as reported, else counted."""
        usage = read_usage(self.usage)
        if usage.completion_tokens is None and self.token_ids is not None:
            usage.completion_tokens = len(self.token_ids)
        if usage.prompt_tokens is None and self.prompt_token_ids is not None:
            usage.prompt_tokens = len(self.prompt_token_ids)
        return usage


class Delta(msgspec.Struct, kw_only=True):
    """A piece of a streamed answer."""

    delta: Raw | None = None
    """OpenAI's ``choices[0].delta``; None for a piece without a choice (token counts)."""
    content: str = ""
    """The text, where the delta holds nothing else."""
    has_token: bool = False
    """Whether it carries something of the answer, and not only the role."""
    finish_reason: str | None = None
    usage: Raw = NULL
    logprobs: Raw = NULL
    upstream_id: str | None = None
    model: str = ""
    prompt_token_ids: list[int] | None = None
    token_ids: list[int] | None = None
    token_logprobs: list[float] | None = None
    chat_template_hash: str | None = None


def read_usage(usage: Raw) -> Usage:
    """Token counts of OpenAI's ``usage``; both None where it is missing or odd."""
    try:
        return msgspec.json.decode(usage, type=Usage | None) or Usage()
    except msgspec.MsgspecError:
        return Usage()


def render_completion(answer: Answer, call: ChatCall, response_id: str, model: str, created: int) -> bytes:
    """The body of a whole answer: the gateway's id and model name, only what the client asked for."""
    choice: dict[str, Any] = {
        "index": 0,
        "message": answer.message,
        "finish_reason": answer.finish_reason,
        "logprobs": answer.logprobs if call.body.logprobs else None,
    }
    body: dict[str, Any] = {
        "id": response_id,
        "object": "chat.completion",
        "created": created,
        "model": model,
        "choices": [choice],
        "usage": answer.usage,
    }
    if call.body.return_token_ids:
        choice["token_ids"] = answer.token_ids
        body["prompt_token_ids"] = answer.prompt_token_ids
    return msgspec.json.encode(body)


def render_delta(delta: Delta, call: ChatCall, response_id: str, model: str, created: int) -> bytes:
    """One server-sent event; empty for a piece that the client did not ask for."""
    choices: list[dict[str, Any]] = []
    if delta.delta is not None:
        choice: dict[str, Any] = {
            "index": 0,
            "delta": delta.delta,
            "finish_reason": delta.finish_reason,
            "logprobs": delta.logprobs if call.body.logprobs else None,
        }
        if call.body.return_token_ids:
            choice["token_ids"] = delta.token_ids
        choices.append(choice)
    elif not call.wants_usage:
        return b""
    body = {
        "id": response_id,
        "object": "chat.completion.chunk",
        "created": created,
        "model": model,
        "choices": choices,
    }
    if call.wants_usage:
        body["usage"] = delta.usage if delta.delta is None else None
    return b"data: %b\n\n" % msgspec.json.encode(body)


class StreamRecord:
    """Puts the pieces of a stream together again."""

    def __init__(self, logprobs_of: LogprobsOf | None) -> None:
        self._answer = Answer(message=NULL, finish_reason=None, logprobs_of=logprobs_of, complete=False)
        self._texts: dict[str, list[str]] = {}
        self._tools: dict[int, dict[str, Any]] = {}

    def add(self, piece: Delta) -> None:
        answer = self._answer
        answer.finish_reason = piece.finish_reason or answer.finish_reason
        answer.upstream_id = piece.upstream_id or answer.upstream_id
        answer.model = piece.model or answer.model
        answer.prompt_token_ids = piece.prompt_token_ids or answer.prompt_token_ids
        answer.chat_template_hash = piece.chat_template_hash or answer.chat_template_hash
        if piece.usage != NULL:
            answer.usage = piece.usage
        if piece.token_ids is not None:
            answer.token_ids = (answer.token_ids or []) + piece.token_ids
        if piece.token_logprobs is not None:
            answer.token_logprobs = (answer.token_logprobs or []) + piece.token_logprobs
        if piece.content:
            self._texts.setdefault("content", []).append(piece.content)
        elif piece.delta is not None:
            self._add_fields(msgspec.json.decode(piece.delta))

    def _add_fields(self, fields: dict[str, Any]) -> None:
        for name, value in fields.items():
            if name == "tool_calls" and isinstance(value, list):
                for part in value:
                    self._add_tool(part)
            elif name != "role" and isinstance(value, str):
                self._texts.setdefault(name, []).append(value)

    def _add_tool(self, part: Any) -> None:
        if not isinstance(part, dict):
            return
        known = self._tools.setdefault(int(part.get("index") or 0), {"type": "function", "function": {}})
        known |= {key: part[key] for key in ("id", "type") if part.get(key)}
        for key, value in (part.get("function") or {}).items():
            known["function"][key] = known["function"].get(key, "") + (value or "")

    def answer(self, complete: bool) -> Answer:
        """What arrived; ``complete`` says whether the stream came to its end."""
        message: dict[str, Any] = {"role": "assistant", "content": None}
        message |= {name: "".join(parts) for name, parts in self._texts.items()}
        if self._tools:
            message["tool_calls"] = [self._tools[index] for index in sorted(self._tools)]
        self._answer.message = Raw(msgspec.json.encode(message))
        self._answer.complete = complete
        return self._answer
