"""The gateway as an ASGI application: the chat endpoint, and beside it models, health, readiness, metrics.

app = gateway_app(chat, keyring=…, state=…, metrics=…, routes=[…more of Starlette's routes…])
"""

import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from babylon_rl.serving.callers import AGENT_HEADER, Keyring
from babylon_rl.serving.capture import Capture
from babylon_rl.serving.chat import ChatEndpoint
from babylon_rl.serving.errors import GatewayError
from babylon_rl.serving.metrics import CONTENT_TYPE, Metrics
from babylon_rl.serving.openapi import describe
from babylon_rl.serving.routing import Serving, fallback_of, model_names

CHAT_PATH = "/v1/chat/completions"

Lifespan = Callable[[Starlette], AbstractAsyncContextManager[None]]


class GatewayApp:
    """Passes chat requests straight on, and all else to Starlette, whose routing costs more than it."""

    def __init__(self, chat: ChatEndpoint, rest: Starlette) -> None:
        self.chat, self.rest = chat, rest

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        chat = scope["type"] == "http" and scope["path"] == CHAT_PATH and scope["method"] == "POST"
        await (self.chat if chat else self.rest)(scope, receive, send)


def gateway_app(
    chat: ChatEndpoint,
    *,
    keyring: Keyring,
    serving: Callable[[], Serving | None],
    capture: Capture,
    metrics: Metrics,
    routes: Sequence[BaseRoute] = (),
    lifespan: Lifespan | None = None,
) -> GatewayApp:
    """Puts the parts together.

    Args:
        serving: what can answer now.
        routes: more paths on the same port, such as an admin API; they authenticate by themselves.
        lifespan: runs beside the server.
    """
    started = int(time.time())

    def entry(name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": started, "owned_by": "babylon_rl"}

    def authorise(request: Request) -> None:
        authorization = request.headers.get("authorization", "").encode("latin-1", "replace")
        agent = request.headers.get(AGENT_HEADER, "").encode("latin-1", "replace")
        keyring.identify(authorization, agent)

    async def models(request: Request) -> Response:
        authorise(request)
        state = serving()
        names = model_names(state) if state else []
        return JSONResponse({"object": "list", "data": [entry(name) for name in names]})

    async def model(request: Request) -> Response:
        authorise(request)
        name, state = request.path_params["model"], serving()
        if state is None or name not in model_names(state):
            raise GatewayError(
                404, "model_not_found", f"There is no model {name[:100]!r} here", param="model"
            )
        return JSONResponse(entry(name))

    async def health(_: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def ready(_: Request) -> Response:
        state = serving()
        problems = why_not_ready(state, capture)
        body = {
            "status": "not ready" if problems else "ready",
            "problems": problems,
            "notes": list(state.notes) if state else [],
            "version": state.active if state else None,
            "versions": {
                version: {"upstream": target.upstream.name, "circuit": target.breaker.state}
                for version, target in (state.targets.items() if state else ())
            },
            "capture": capture.level,
        }
        return JSONResponse(body, 503 if problems else 200, {"retry-after": "2"} if problems else None)

    async def show_metrics(request: Request) -> Response:
        authorise(request)
        return Response(metrics.render(), media_type=CONTENT_TYPE)

    async def openapi(_: Request) -> Response:
        return JSONResponse(describe())

    rest = Starlette(
        routes=[
            Route(CHAT_PATH, _post_only, methods=["GET", "PUT", "PATCH", "DELETE", "OPTIONS"]),
            Route("/v1/models", models),
            Route("/v1/models/{model:path}", model),
            Route("/healthz", health),
            Route("/readyz", ready),
            Route("/metrics", show_metrics),
            Route("/openapi.json", openapi),
            *routes,
        ],
        exception_handlers={GatewayError: _gateway_error, HTTPException: _http_error, 500: _defect},
        lifespan=lifespan or _nothing,
    )
    return GatewayApp(chat, rest)


def why_not_ready(state: Serving | None, capture: Capture) -> list[str]:
    """What keeps the gateway from answering; empty when it can."""
    if state is None:
        return ["no model is loaded"]
    problems = []
    active = state.targets.get(state.active)
    routes = [target for target in (active, active and fallback_of(active, state)) if target is not None]
    if all(target.breaker.state == "open" for target in routes):
        problems.append("no upstream answers")
    try:
        capture.admit()
    except GatewayError as error:
        problems.append(error.problem)
    return problems


async def _post_only(request: Request) -> Response:
    raise HTTPException(405, headers={"allow": "POST"})


async def _gateway_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, GatewayError)
    headers = {"retry-after": str(error.retry_after)} if error.retry_after is not None else {}
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    return Response(error.envelope(), error.status, headers, "application/json")


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    codes = {404: "not_found", 405: "method_not_allowed"}
    message = f"{request.method} {request.url.path[:200]}: {error.detail}"
    envelope = GatewayError(error.status_code, codes.get(error.status_code, "error"), message).envelope()
    return Response(envelope, error.status_code, error.headers, "application/json")


async def _defect(_: Request, error: Exception) -> Response:
    return Response(
        GatewayError(500, "internal_error", "Something went wrong here").envelope(),
        500,
        None,
        "application/json",
    )


@asynccontextmanager
async def _nothing(_: Starlette) -> AsyncIterator[None]:
    yield
