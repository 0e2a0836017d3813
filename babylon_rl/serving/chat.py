"""`POST /v1/chat/completions`: authenticate, limit, read, route, ask, keep, answer. In that order.

An ASGI application by itself, without a framework in between: this is the path that every agent waits for.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from babylon_rl.serving.answers import DONE, Answer, StreamRecord, render_completion, render_delta
from babylon_rl.serving.callers import AGENT_HEADER, Keyring, RateLimiter
from babylon_rl.serving.capture import Capture
from babylon_rl.serving.dispatch import Dispatcher
from babylon_rl.serving.errors import GatewayError, UpstreamFailure
from babylon_rl.serving.exchange import Exchange, find_headers
from babylon_rl.serving.metrics import Metrics
from babylon_rl.serving.protocol import ChatCall, parse_chat
from babylon_rl.serving.routing import Route, Router, RouteRequest, Serving
from babylon_rl.serving.telemetry import Tracing
from babylon_rl.serving.transport import ClientGoneError, Receive, Send, Watch, read_body, respond, send_piece
from babylon_rl.serving.upstream import Deltas, Target

log = logging.getLogger(__name__)

JSON = b"application/json"
EVENTS = b"text/event-stream; charset=utf-8"
WATCH_AFTER = 1.0
CLIENT_CLOSED = 499
"""Status of a request whose client went away, in records and metrics (nginx's)."""

_AGENT = AGENT_HEADER.encode()


@dataclass(frozen=True)
class Limits:
    """What a client may ask of the gateway."""

    body_bytes: int = 2 << 20
    client_seconds: float = 15.0
    in_flight: int = 512


class ChatEndpoint:
    """Answers chat requests."""

    def __init__(
        self,
        *,
        serving: Callable[[], Serving | None],
        router: Router,
        dispatcher: Dispatcher,
        capture: Capture,
        keyring: Keyring,
        limiter: RateLimiter,
        quota: RateLimiter | None = None,
        metrics: Metrics,
        tracing: Tracing,
        limits: Limits,
    ) -> None:
        self._serving, self._router, self._dispatcher = serving, router, dispatcher
        self._capture, self._keyring, self._limiter = capture, keyring, limiter
        self._quota = quota or RateLimiter(0.0)
        self._metrics, self._tracing, self._limits = metrics, tracing, limits
        self._in_flight = 0

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        exchange = Exchange()
        self._in_flight += 1
        self._metrics.in_flight.inc()
        status, error = 500, None
        try:
            status, error = await self._answer(exchange, scope, receive, send)
        except GatewayError as refusal:
            status, error = refusal.status, refusal.code
            await self._refuse(exchange, refusal, send)
        except ClientGoneError:
            status, error = CLIENT_CLOSED, "client_gone"
            await self._keep_failure(exchange, status, error)
        except Exception:
            error = "internal_error"
            log.exception("request %s failed", exchange.response_id)
            await self._refuse(exchange, GatewayError(500, error, "Something went wrong here"), send)
        finally:
            self._in_flight -= 1
            self._metrics.in_flight.dec()
            self._metrics.finished(status, exchange.variant, exchange.version, exchange.seconds)
            if exchange.span is not None:
                exchange.span.end(status, exchange.variant, exchange.progress.fallback, error)

    async def _answer(
        self, exchange: Exchange, scope: Any, receive: Receive, send: Send
    ) -> tuple[int, str | None]:
        """Returns the status and, for a stream that broke, what broke it."""
        authorization, agent, length, trace = find_headers(
            scope, b"authorization", _AGENT, b"content-length", b"traceparent"
        )
        exchange.caller = self._keyring.identify(authorization, agent)
        self._limiter.take(exchange.caller.limited_as)
        if (owner := exchange.caller.quota_of) is not None:
            self._quota.take(owner)
        if self._in_flight > self._limits.in_flight:
            problem = "Too many requests are in flight"
            raise GatewayError(503, "overloaded", problem, "Try again soon.", retry_after=1.0, close=True)
        self._capture.admit()
        body = await read_body(receive, length, self._limits.body_bytes, self._limits.client_seconds)
        call = exchange.call = parse_chat(body)
        exchange.route = self._route(exchange, call)
        span = exchange.span = self._tracing.start(call, trace.decode("latin-1"))
        if call.body.stream:
            async with Watch(receive, 0.0):
                return await self._stream(exchange, call, exchange.route, span.headers, send)
        async with Watch(receive, WATCH_AFTER):
            answer, target = await self._dispatcher.complete(
                exchange.route, call, span.headers, exchange.progress
            )
        await self._keep(exchange, answer, target)
        rendered = render_completion(answer, call, exchange.response_id, target.model_id, exchange.created)
        await respond(send, 200, exchange.headers(target, self._capture.level, JSON), rendered)
        return 200, None

    def _route(self, exchange: Exchange, call: ChatCall) -> Route:
        serving, caller = self._serving(), exchange.caller
        assert caller is not None
        if serving is None:
            raise GatewayError(503, "not_ready", "No model is loaded yet", "Try again soon.", retry_after=2.0)
        request = RouteRequest(call.body.model, caller.agent_id, caller.verified, exchange.started_at)
        return self._router(request, serving)

    async def _keep(self, exchange: Exchange, answer: Answer, target: Target) -> None:
        """Before the last byte of the answer is sent."""
        self._metrics.counted(target.version, answer.counts())
        if exchange.span is not None:
            exchange.span.answered(answer, target, exchange.response_id)
        if self._capture.level != "off":
            exchange.kept = True
            await self._capture.keep(exchange.record(answer))
            self._metrics.captured(self._capture.level)

    async def _stream(
        self, exchange: Exchange, call: ChatCall, route: Route, trace: dict[str, str], send: Send
    ) -> tuple[int, str | None]:
        deltas, target = await self._dispatcher.stream(route, call, trace, exchange.progress)
        self._metrics.started_stream(route.variant, exchange.note_first_token())
        record = StreamRecord(target.upstream.logprobs_of)
        headers = exchange.headers(target, self._capture.level, EVENTS)
        headers.append((b"cache-control", b"no-cache"))
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        try:
            try:
                end = await self._pass_on(exchange, call, deltas, target, record, send)
                await self._keep(exchange, record.answer(complete=True), target)
            except UpstreamFailure as failure:
                self._dispatcher.broke(target, failure)
                problem = f"The model's server failed within its answer ({failure.reason})"
                raise GatewayError(502, "upstream_error", problem, "Try again.") from failure
            finally:
                await deltas.close()
        except GatewayError as error:
            await self._keep_failure(exchange, error.status, error.code, record.answer(complete=False))
            event = b"data: %b\n\n" % error.envelope()
            await send_piece(send, event, self._limits.client_seconds, last=True)
            return error.status, error.code
        except (ClientGoneError, asyncio.CancelledError):
            await self._keep_failure(exchange, CLIENT_CLOSED, "client_gone", record.answer(complete=False))
            raise
        await send_piece(send, end + DONE, self._limits.client_seconds, last=True)
        return 200, None

    async def _pass_on(
        self,
        exchange: Exchange,
        call: ChatCall,
        deltas: Deltas,
        target: Target,
        record: StreamRecord,
        send: Send,
    ) -> bytes:
        """Sends the pieces but for the one with the finish reason and what follows it, which it returns: the
        client must not take the answer for finished before it is kept.
        """
        end = b""
        async for pieces in deltas:
            now = b""
            for piece in pieces:
                record.add(piece)
                event = render_delta(piece, call, exchange.response_id, target.model_id, exchange.created)
                if end or piece.finish_reason:
                    end += event
                else:
                    now += event
            if now:
                await send_piece(send, now, self._limits.client_seconds)
        return end

    async def _refuse(self, exchange: Exchange, error: GatewayError, send: Send) -> None:
        if error.status >= 500:
            await self._keep_failure(exchange, error.status, error.code)
        await send_error(send, error, exchange.response_id)

    async def _keep_failure(
        self, exchange: Exchange, status: int, error: str, answer: Answer | None = None
    ) -> None:
        """Keeps a call that a model was asked for in vain; without a promise, because it has no answer."""
        if exchange.kept or exchange.progress.target is None or self._capture.level == "off":
            return
        exchange.kept = True
        try:
            await self._capture.keep(exchange.record(answer, status=status, error=error))
        except GatewayError as problem:
            log.warning("a failed call is not recorded: %s", problem)


async def send_error(send: Send, error: GatewayError, request_id: str) -> None:
    """OpenAI's error envelope."""
    headers = [(b"content-type", JSON), (b"x-request-id", request_id.encode())]
    if error.retry_after is not None:
        headers.append((b"retry-after", b"%d" % error.retry_after))
    if error.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if error.close:
        headers.append((b"connection", b"close"))
    await respond(send, error.status, headers, error.envelope())
