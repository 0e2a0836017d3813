"""A policy behind HTTP: the OpenAI chat-completions protocol over a batched engine.

    with PolicyServer(policy) as server:
        OpenAI(base_url=server.base_url, api_key=server.api_key)

Requests that arrive while a batch is being sampled form the next batch. Tokens are reported as ``token_id:N``
with their log-probabilities, which is what training needs. The policy can be swapped without losing a
request.
"""

import errno
import hmac
import secrets
import socket
import threading
import time
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from babylon_rl.errors import BabylonError
from babylon_rl.policy.batcher import Batcher
from babylon_rl.policy.chat import ChatAnswer, ChatRequest, Policy
from babylon_rl.policy.errors import PolicyError, PortInUseError

MAX_BODY_BYTES = 1 << 20


class _ChatMessage(BaseModel):
    model_config = ConfigDict(extra="ignore")
    role: Literal["system", "user", "assistant"]
    content: str


class ChatCompletionBody(BaseModel):
    """The part of OpenAI's request that a policy understands; other keys are ignored."""

    model_config = ConfigDict(extra="ignore")
    model: str = ""
    messages: list[_ChatMessage] = Field(min_length=1)
    temperature: float = Field(1.0, ge=0, le=2)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    seed: int | None = Field(None, ge=0)
    n: Literal[1] = 1
    stream: Literal[False] = False
    logprobs: bool | None = None

    def to_request(self) -> ChatRequest:
        """The sampling request that this body asks for."""
        limit = self.max_completion_tokens or self.max_tokens or 16
        messages = [{"role": message.role, "content": message.content} for message in self.messages]
        return ChatRequest(messages, self.temperature, limit, self.seed)


def chat_app(policy: Policy, api_key: str | None = None) -> Starlette:
    """An ASGI application that serves ``policy``; ``app.state.batcher.policy`` may be replaced."""
    batcher = Batcher(policy)

    async def complete(request: Request) -> JSONResponse:
        if not _authorised(request, api_key):
            return _error(401, "invalid_api_key", "The API key is missing or wrong.")
        body = await _read(request)
        if body is None:
            return _error(413, "request_too_large", f"The body may have {MAX_BODY_BYTES} bytes.")
        try:
            parsed = ChatCompletionBody.model_validate_json(body)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            field = ".".join(map(str, first["loc"])) or "body"
            return _error(400, "invalid_request_error", f"{field}: {first['msg']}")
        try:
            answer = await batcher.ask(parsed.to_request())
        except PolicyError as error:
            return _error(400, "invalid_request_error", str(error))
        except BabylonError as error:
            return _error(503, "server_error", str(error))
        return JSONResponse(_completion(answer))

    async def models(request: Request) -> JSONResponse:
        if not _authorised(request, api_key):
            return _error(401, "invalid_api_key", "The API key is missing or wrong.")
        entry = {"id": batcher.policy.version, "object": "model", "created": 0, "owned_by": "babylon_rl"}
        return JSONResponse({"object": "list", "data": [entry]})

    async def health(_: Request) -> JSONResponse:
        return JSONResponse({"status": "ok", "version": batcher.policy.version})

    app = Starlette(
        routes=[
            Route("/v1/chat/completions", complete, methods=["POST"]),
            Route("/v1/models", models),
            Route("/healthz", health),
        ]
    )
    app.state.batcher = batcher
    return app


class PolicyServer:
    """Serves a policy from a thread of this process; a context manager.

    Args:
        policy: what answers.
        port: 0 takes a free one.
        api_key: bearer token that clients must send; a random one by default.

    Raises:
        PortInUseError: another program listens there.
    """

    def __init__(
        self, policy: Policy, *, host: str = "127.0.0.1", port: int = 0, api_key: str | None = None
    ) -> None:
        import uvicorn

        self.api_key = api_key or secrets.token_urlsafe(24)
        self._app = chat_app(policy, self.api_key)
        self._socket = listen(host, port)
        self.base_url = f"http://{host}:{self._socket.getsockname()[1]}/v1"
        self._server = uvicorn.Server(uvicorn.Config(self._app, log_level="warning", lifespan="off"))
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [self._socket]}, name="policy-server", daemon=True
        )
        self._thread.start()

    def swap(self, policy: Policy) -> None:
        """Serve another policy from the next batch on."""
        self._app.state.batcher.policy = policy

    def close(self) -> None:
        """Answer what is in flight and stop."""
        self._server.should_exit = True
        self._thread.join(timeout=10)
        self._socket.close()

    def __enter__(self) -> "PolicyServer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def listen(host: str, port: int) -> socket.socket:
    """A listening socket, so that an occupied port is known before anything starts.

    Raises:
        PortInUseError: another program listens there.
        PolicyError: this machine cannot listen there.
    """
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise PortInUseError(host, port) from error
        raise PolicyError(f"Cannot listen on {host}:{port}: {error}", "Choose another address.") from error
    listener.listen(128)
    return listener


def _authorised(request: Request, api_key: str | None) -> bool:
    given = request.headers.get("authorization", "").removeprefix("Bearer ")
    return api_key is None or hmac.compare_digest(given.encode(), api_key.encode())


async def _read(request: Request) -> bytes | None:
    """The request's body; None if it is too large, and the excess is not kept."""
    body = bytearray()
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size <= MAX_BODY_BYTES:
            body += chunk
    return bytes(body) if size <= MAX_BODY_BYTES else None


def _error(status: int, code: str, message: str) -> JSONResponse:
    kind = "invalid_request_error" if status < 500 else "server_error"
    return JSONResponse({"error": {"message": message, "type": kind, "param": None, "code": code}}, status)


def _completion(answer: ChatAnswer) -> dict[str, Any]:
    tokens = [
        {"token": f"token_id:{token}", "logprob": logprob, "bytes": None, "top_logprobs": []}
        for token, logprob in zip(answer.token_ids, answer.logprobs, strict=True)
    ]
    prompt, completion = len(answer.prompt_token_ids), len(answer.token_ids)
    return {
        "id": answer.response_id,
        "object": "chat.completion",
        "created": int(time.time()),
        "model": answer.policy_version,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": answer.content, "refusal": None},
                "finish_reason": answer.finish_reason,
                "logprobs": {"content": tokens, "refusal": None},
            }
        ],
        "usage": {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
        },
    }
