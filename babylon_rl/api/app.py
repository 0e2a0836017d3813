"""The admin API and the dashboard as an ASGI application.

Every path under `/api/` wants the admin token, the cron's its own secret; the page itself is static and holds
nothing. Answers are never cached and never carry a cookie.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import asyncpg
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from babylon_rl.api.access import Guard
from babylon_rl.api.dagster_client import DagsterClient
from babylon_rl.api.errors import AdminError, as_admin_error
from babylon_rl.api.follower import follow_jobs
from babylon_rl.api.handlers import Handlers
from babylon_rl.api.openapi import describe
from babylon_rl.api.page import page_routes
from babylon_rl.api.pools import Pools
from babylon_rl.errors import BabylonError
from babylon_rl.settings import Settings

log = logging.getLogger(__name__)

Handler = Callable[[Request], Awaitable[Response]]

HEADERS = {
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}
_AWAY = (asyncpg.PostgresConnectionError, asyncpg.InterfaceError, asyncpg.CannotConnectNowError, OSError)


def admin_app(settings: Settings) -> Starlette:
    """Puts the parts together; databases and Dagster are looked for when they are needed."""
    pools, dagster = Pools(settings), DagsterClient(settings.dagster_url)
    handlers = Handlers(settings, pools, dagster)
    admin = Guard({"ADMIN_TOKEN": settings.admin_token})
    cron = Guard({"CRON_SECRET": settings.cron_secret})
    worker = Guard({"ADMIN_TOKEN": settings.admin_token, "CRON_SECRET": settings.cron_secret})

    def guarded(guard: Guard, handler: Handler) -> Handler:
        async def checked(request: Request) -> Response:
            guard.check(request)
            return await handler(request)

        return checked

    def route(path: str, method: str, handler: Handler, guard: Guard = admin) -> Route:
        return Route(path, guarded(guard, handler), methods=[method])

    async def openapi(_: Request) -> Response:
        return JSONResponse(describe())

    training = "/api/admin/training"
    routes = [
        route(f"{training}/status", "GET", handlers.status),
        route(f"{training}/dashboard", "GET", handlers.dashboard),
        route(f"{training}/trigger", "GET", handlers.readiness),
        route(f"{training}/trigger", "POST", handlers.trigger),
        route(f"{training}/jobs/{{job}}", "GET", handlers.job),
        route(f"{training}/jobs/{{job}}/cancel", "POST", handlers.cancel),
        route(f"{training}/models", "GET", handlers.models),
        route(f"{training}/deploy", "POST", handlers.deploy),
        route(f"{training}/promote", "POST", handlers.promote),
        route(f"{training}/rollback", "POST", handlers.rollback),
        route(f"{training}/upload-model", "POST", handlers.upload_model),
        route("/api/admin/training-data", "GET", handlers.training_data),
        route("/api/admin/ai-models", "GET", handlers.ai_models),
        route("/api/admin/ai-models", "PUT", handlers.set_ai_models),
        route("/api/cron/training-check", "GET", handlers.training_check, cron),
        route("/train", "POST", handlers.train, worker),
        Route("/health", handlers.health, methods=["GET"]),
        Route("/openapi.json", openapi),
        *page_routes(),
    ]

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        following = asyncio.create_task(follow_jobs(settings, pools, dagster))
        try:
            yield
        finally:
            following.cancel()
            with suppress(asyncio.CancelledError):
                await following
            await dagster.close()
            await pools.close()

    errors: dict[Any, Any] = {
        BabylonError: _refused,
        HTTPException: _http_error,
        ClientDisconnect: _gone,
        **dict.fromkeys(_AWAY, _away),
        TimeoutError: _away,
        500: _defect,
    }
    return _WithHeaders(routes=routes, exception_handlers=errors, lifespan=lifespan)


class _WithHeaders(Starlette):
    """Adds our headers to every answer that does not set them itself."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def send_with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                present = {name for name, _ in message["headers"]}
                more = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message["headers"] = [
                    *message["headers"],
                    *(pair for pair in more if pair[0] not in present),
                ]
            await send(message)

        await super().__call__(scope, receive, send_with_headers)


async def _refused(_: Request, problem: Exception) -> Response:
    assert isinstance(problem, BabylonError)
    error = as_admin_error(problem)
    headers = {"retry-after": str(error.retry_after)} if error.retry_after is not None else {}
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    return JSONResponse(error.body(), error.status, headers)


async def _http_error(request: Request, problem: Exception) -> Response:
    assert isinstance(problem, HTTPException)
    told = f"{request.method} {request.url.path[:200]}: {problem.detail}"
    return JSONResponse({"success": False, "error": told}, problem.status_code, problem.headers)


async def _away(_: Request, problem: Exception) -> Response:
    log.warning("a database is away: %s", type(problem).__name__)
    error = AdminError(503, "The database does not answer", "Try again in a moment.", retry_after=5)
    return JSONResponse(error.body(), 503, {"retry-after": "5"})


async def _gone(_: Request, problem: Exception) -> Response:
    return Response(status_code=400)


async def _defect(_: Request, problem: Exception) -> Response:
    log.error("an unexpected error", exc_info=problem)
    return JSONResponse({"success": False, "error": "Something went wrong here."}, 500)
