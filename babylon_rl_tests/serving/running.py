"""A gateway in this process, on a real port: parts put together by hand, without a database."""

import asyncio
import socket
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import msgspec
import openai
import uvicorn

from babylon_rl.serving.app import gateway_app
from babylon_rl.serving.callers import Keyring, RateLimiter
from babylon_rl.serving.calls import CapturedCall
from babylon_rl.serving.capture import Capture, NoCapture, SpoolCapture
from babylon_rl.serving.chat import ChatEndpoint, Limits
from babylon_rl.serving.dispatch import Dispatcher
from babylon_rl.serving.http_upstream import HttpUpstream, HttpUpstreamConfig
from babylon_rl.serving.metrics import Metrics
from babylon_rl.serving.routing import Router, Serving, route
from babylon_rl.serving.spool import Level, Spool, read_frames, segments
from babylon_rl.serving.telemetry import NoTracing, Tracing
from babylon_rl.serving.tokens import TokenSigner
from babylon_rl.serving.upstream import Target, Timeouts

ACTIVE, BASE = "v0.0.1", "v0.0.0"
QUICK = Timeouts(connect=0.5, first_token=0.5, total=1.5)


@dataclass
class Gateway:
    """Serves `serving`; the attributes can be set before `with`."""

    serving: Serving | None
    spool: Path | None = None
    level: Level = "process"
    spool_bytes: int = 1 << 24
    keys: str | None = None
    token_secret: str | None = None
    per_minute: float = 0.0
    owner_per_minute: float = 0.0
    limits: Limits = field(default_factory=Limits)
    retries: int = 1
    tracing: Tracing = field(default_factory=NoTracing)
    router: Router = route

    def __enter__(self) -> "Gateway":
        self.metrics = Metrics()
        self.capture: Capture = NoCapture()
        if self.spool is not None:
            self.capture = SpoolCapture(Spool(self.spool, self.level, self.spool_bytes))
        keyring = Keyring(self.keys, TokenSigner(self.token_secret))
        chat = ChatEndpoint(
            serving=lambda: self.serving,
            router=self.router,
            dispatcher=Dispatcher(self.retries, self.metrics),
            capture=self.capture,
            keyring=keyring,
            limiter=RateLimiter(self.per_minute),
            quota=RateLimiter(self.owner_per_minute),
            metrics=self.metrics,
            tracing=self.tracing,
            limits=self.limits,
        )
        app = gateway_app(
            chat,
            keyring=keyring,
            serving=lambda: self.serving,
            capture=self.capture,
            metrics=self.metrics,
            lifespan=self._lifespan,
        )
        listener = socket.create_server(("127.0.0.1", 0))
        self.port = listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        config = uvicorn.Config(
            app, log_level="error", access_log=False, ws="none", http="httptools", timeout_graceful_shutdown=1
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._server.serve(sockets=[listener])), daemon=True
        )
        self._thread.start()
        while not self._server.started:
            assert self._thread.is_alive()
            time.sleep(0.01)
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(timeout=10)

    @asynccontextmanager
    async def _lifespan(self, _: object) -> AsyncIterator[None]:
        yield
        for target in self.serving.targets.values() if self.serving else ():
            if isinstance(target.upstream, HttpUpstream):
                await target.upstream.close()

    def client(self, **options: Any) -> openai.OpenAI:
        """The official client; it does not retry by itself."""
        return openai.OpenAI(
            base_url=f"{self.url}/v1", api_key=options.pop("key", "none"), max_retries=0, **options
        )

    def post(self, body: Any, **headers: str) -> httpx.Response:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        content = body if isinstance(body, bytes) else msgspec.json.encode(body)
        return httpx.post(f"{self.url}/v1/chat/completions", content=content, headers=sent, timeout=30)

    def ask(self, **fields: Any) -> httpx.Response:
        """One short question."""
        return self.post(
            {"model": "babylon-agent", "messages": [{"role": "user", "content": "BTC?"}], **fields}
        )

    def ask_as(self, key: str, **headers: str) -> httpx.Response:
        """The same question with a key or token."""
        body = {"model": "babylon-agent", "messages": [{"role": "user", "content": "BTC?"}]}
        return self.post(body, authorization=f"Bearer {key}", **headers)

    def get(self, path: str, **headers: str) -> httpx.Response:
        return httpx.get(f"{self.url}{path}", headers=headers)

    def kept(self) -> list[CapturedCall]:
        """The calls in the spool."""
        assert self.spool is not None
        decoder = msgspec.msgpack.Decoder(CapturedCall)
        return [
            decoder.decode(payload)
            for segment in segments(self.spool)
            for payload, _, whole in read_frames(segment.read_bytes())
            if whole
        ]


def upstream(
    url: str, kind: Any = "vllm", timeouts: Timeouts = QUICK, name: str = "upstream"
) -> HttpUpstream:
    return HttpUpstream(HttpUpstreamConfig(name=name, url=url, kind=kind, timeouts=timeouts))


def serving(active: HttpUpstream, base: HttpUpstream | None = None, *, fallback: bool = True) -> Serving:
    """A trained version at one upstream and the base model at another (or the same)."""
    targets = {
        ACTIVE: Target(ACTIVE, active, f"babylon-agent-{ACTIVE}"),
        BASE: Target(BASE, base or active, "tiny-base"),
    }
    return Serving(ACTIVE, targets, BASE, frozenset({"tiny-base"}), fallback)
