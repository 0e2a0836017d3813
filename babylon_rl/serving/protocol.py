"""The request of OpenAI's chat completions: what the gateway reads of it, and the rest passed on untouched.

The body is read twice: typed, for what the gateway acts on and checks, and as raw top-level values, so that
whatever an upstream understands beyond that (tools, response formats, penalties) reaches it byte for byte.
"""

import json
from typing import Annotated, Any, NoReturn

import msgspec
from msgspec import Meta

from babylon_rl.serving.errors import GatewayError

MAX_INT32 = 2**31 - 1

Positive = Annotated[int, Meta(ge=1, le=MAX_INT32)]


class ChatMessage(msgspec.Struct):
    """One message; keys beyond these are an upstream's business."""

    role: Annotated[str, Meta(min_length=1, max_length=32)]
    content: Any = None


class StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class ChatBody(msgspec.Struct):
    """What the gateway reads of a request; see OpenAI's API reference for the meaning."""

    messages: Annotated[list[ChatMessage], Meta(min_length=1)]
    model: str = ""
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    max_tokens: Positive | None = None
    max_completion_tokens: Positive | None = None
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    n: int | None = None
    stop: str | Annotated[list[str], Meta(max_length=8)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    return_token_ids: bool | None = None
    """vLLM's extension: the answer carries ``prompt_token_ids`` and ``token_ids``."""

    @property
    def limit(self) -> int | None:
        """Tokens that the answer may have."""
        return self.max_completion_tokens or self.max_tokens


class ChatCall(msgspec.Struct):
    """One parsed request."""

    body: ChatBody
    raw: dict[str, msgspec.Raw]
    """The same, top-level values as the client wrote them."""

    @property
    def wants_usage(self) -> bool:
        """Whether a stream is to end with its token counts."""
        options = self.body.stream_options
        return options is not None and bool(options.include_usage)


_body = msgspec.json.Decoder(ChatBody)
_raw = msgspec.json.Decoder(dict[str, msgspec.Raw])


def parse_chat(data: bytes) -> ChatCall:
    """Reads the body of a request.

    Lone surrogates (a cut emoji in a prompt put together by JavaScript) become U+FFFD.

    Raises:
        GatewayError: 400, naming the field.
    """
    try:
        data.decode()
        call = ChatCall(_body.decode(data), _raw.decode(data))
    except msgspec.ValidationError as error:
        _refuse(error)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        call = _parse_repaired(data, error)
    if call.body.n not in (None, 1):
        raise GatewayError(
            400, "invalid_request_error", "n: only one answer per request is given", "Ask n times.", param="n"
        )
    return call


def _parse_repaired(data: bytes, problem: Exception) -> ChatCall:
    reason = str(problem).removeprefix("JSON is malformed: ")
    malformed = GatewayError(400, "invalid_json", f"The body is not JSON: {reason}")
    try:
        text = json.dumps(json.loads(data, parse_constant=_no_constant), ensure_ascii=False)
        repaired = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode()
        return ChatCall(_body.decode(repaired), _raw.decode(repaired))
    except msgspec.ValidationError as error:
        _refuse(error)
    except (ValueError, RecursionError):
        raise malformed from None


def _refuse(error: msgspec.ValidationError) -> NoReturn:
    message, _, path = str(error).partition(" - at `$")
    field = path.strip("`.") or None
    missing = message.split("`")[-2] if "missing required field `" in message else None
    param = field.partition(".")[0].partition("[")[0] if field else missing
    where = f"{field}: " if field else ""
    raise GatewayError(400, "invalid_request_error", f"{where}{_lower(message)}", param=param) from None


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")
