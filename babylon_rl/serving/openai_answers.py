"""Reads what OpenAI-compatible servers answer, and is strict about it: what cannot be understood is a failure
of the upstream, never half an answer.
"""

from typing import Any

import msgspec
from msgspec import Raw

from babylon_rl.serving.answers import NULL, Answer, Delta, LogprobsOf
from babylon_rl.serving.errors import UpstreamFailure


class _Choice(msgspec.Struct):
    message: Raw = NULL
    delta: Raw = NULL
    finish_reason: str | None = None
    logprobs: Raw = NULL
    token_ids: list[int] | None = None


class _Body(msgspec.Struct):
    id: str | None = None
    model: str | None = None
    choices: list[_Choice] = []
    usage: Raw = NULL
    prompt_token_ids: list[int] | None = None
    error: Raw = NULL


class _Fields(msgspec.Struct):
    """Of a message or a delta."""

    role: str | None = None
    content: Any = None


class _Logprob(msgspec.Struct):
    token: str
    logprob: float


class _Logprobs(msgspec.Struct):
    content: list[_Logprob] | None = None


_body = msgspec.json.Decoder(_Body)
_fields = msgspec.json.Decoder(dict[str, Raw])
_message = msgspec.json.Decoder(_Fields)
_logprobs = msgspec.json.Decoder(_Logprobs | None)
_text = msgspec.json.Decoder(str | None)


def read_completion(data: bytes, logprobs_of: LogprobsOf) -> Answer:
    """A whole answer.

    Raises:
        UpstreamFailure: it is not one.
    """
    body = _read(data)
    if not body.choices:
        raise UpstreamFailure("garbage", "no choices")
    choice = body.choices[0]
    try:
        _message.decode(choice.message)
    except msgspec.MsgspecError as error:
        raise UpstreamFailure("garbage", f"message: {error}") from None
    ids, logprobs = _tokens(choice)
    return Answer(
        message=choice.message,
        finish_reason=choice.finish_reason,
        upstream_id=body.id,
        model=body.model or "",
        usage=body.usage,
        logprobs=choice.logprobs,
        prompt_token_ids=body.prompt_token_ids,
        token_ids=ids,
        token_logprobs=logprobs,
        logprobs_of=logprobs_of if logprobs is not None else None,
    )


def read_delta(data: bytes) -> Delta:
    """One piece of a stream.

    Raises:
        UpstreamFailure: it is not one, or says that the upstream failed.
    """
    body = _read(data)
    piece = Delta(
        upstream_id=body.id,
        model=body.model or "",
        usage=body.usage,
        prompt_token_ids=body.prompt_token_ids,
    )
    if not body.choices:
        return piece
    choice = body.choices[0]
    try:
        fields = _fields.decode(choice.delta)
        content = _text.decode(fields.get("content", NULL)) or ""
    except msgspec.MsgspecError as error:
        raise UpstreamFailure("garbage", f"delta: {error}") from None
    piece.delta = choice.delta
    others = [value for name, value in fields.items() if name not in ("role", "content") and value != NULL]
    piece.content = "" if others else content
    piece.has_token = bool(content or others or choice.finish_reason)
    piece.finish_reason = choice.finish_reason
    piece.logprobs = choice.logprobs
    piece.token_ids, piece.token_logprobs = _tokens(choice)
    return piece


def read_refusal(data: bytes) -> str:
    """The message of an error body, cut to a readable length."""
    try:
        error = msgspec.json.decode(data)
        error = error.get("error", error) if isinstance(error, dict) else error
        message = error.get("message") if isinstance(error, dict) else error
    except (msgspec.MsgspecError, UnicodeError):
        message = None
    return str(message or "no reason given")[:500]


def _read(data: bytes) -> _Body:
    try:
        data.decode()  # what stays raw is not looked at by the parser
        body = _body.decode(data)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise UpstreamFailure("garbage", str(error)) from None
    if body.error != NULL:
        raise UpstreamFailure("error_body", read_refusal(data))
    return body


def _tokens(choice: _Choice) -> tuple[list[int] | None, list[float] | None]:
    """Token ids (vLLM's extension, or tokens reported as ``token_id:N``) and their log-probabilities; ids are
    None unless there is a log-probability for each.
    """
    if choice.logprobs == NULL:
        return None, None
    try:
        read = _logprobs.decode(choice.logprobs)
    except msgspec.MsgspecError as error:
        raise UpstreamFailure("garbage", f"logprobs: {error}") from None
    if read is None or read.content is None:
        return None, None
    values = [entry.logprob for entry in read.content]
    ids = choice.token_ids
    if ids is None:
        named = [entry.token.removeprefix("token_id:") for entry in read.content]
        numbered = all(entry.token.startswith("token_id:") for entry in read.content)
        ids = [int(name) for name in named if name.isdecimal()] if numbered else None
    if ids is not None and (len(ids) != len(values) or any(not 0 <= i < 2**31 for i in ids)):
        ids = None
    return ids, values
