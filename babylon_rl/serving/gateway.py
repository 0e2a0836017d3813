"""The gateway as a program: chat completions from the deployed model until it is told to stop."""

import asyncio
import gc
import ipaddress
import logging
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

import uvicorn
from starlette.applications import Starlette
from starlette.routing import BaseRoute

from babylon_rl.database.connection import open_databases, resolve_rl_dsn
from babylon_rl.policy.server import listen
from babylon_rl.serving.app import GatewayApp, gateway_app
from babylon_rl.serving.callers import Keyring, RateLimiter
from babylon_rl.serving.capture import Capture, DrainerProcess, NoCapture, SpoolCapture
from babylon_rl.serving.chat import ChatEndpoint, Limits
from babylon_rl.serving.dispatch import Dispatcher
from babylon_rl.serving.errors import GatewaySetupError
from babylon_rl.serving.metrics import Metrics, ServingCollector, SpoolCollector
from babylon_rl.serving.models import ServedModels
from babylon_rl.serving.routing import Router, Serving, release_route
from babylon_rl.serving.spool import Spool
from babylon_rl.serving.telemetry import NoTracing, OtlpTracing
from babylon_rl.serving.tokens import TokenSigner
from babylon_rl.serving.watcher import WatcherProcess
from babylon_rl.settings import Settings

REFRESH_SECONDS = 2.0
"""How soon a new deployment answers."""
KEEP_ALIVE_SECONDS = 75
"""Longer than the idle time of the official clients' connections, so that they, not we, end them."""
STOP_SECONDS = 30
ROLE = "babylon_gateway"

log = logging.getLogger(__name__)


class Gateway:
    """All parts of a gateway, made from the settings.

    Args:
        router: chooses the version of each request.
        routes: more paths on the same port, such as an admin API; they authenticate by themselves.

    Raises:
        GatewaySetupError: the settings do not fit together.
    """

    def __init__(
        self, settings: Settings, *, router: Router = release_route, routes: Sequence[BaseRoute] = ()
    ) -> None:
        keys, secret = settings.gateway_api_keys, settings.gateway_token_secret
        self.settings = settings
        self.keyring = Keyring(
            None if keys is None else keys.get_secret_value(),
            TokenSigner(None if secret is None else secret.get_secret_value()),
        )
        self.metrics = Metrics()
        self.models = ServedModels(settings, self._show)
        self._shown = ServingCollector()
        self.metrics.watch(self._shown)
        endpoint = settings.otel_exporter_otlp_endpoint
        self.tracing = NoTracing() if endpoint is None else OtlpTracing(endpoint)
        self.spool: Spool | None = None
        self.capture: Capture = NoCapture()
        if settings.gateway_capture != "off":
            folder = settings.home / "gateway" / "spool"
            self.spool = Spool(folder, settings.gateway_capture, settings.gateway_spool_bytes)
            self.capture = SpoolCapture(self.spool)
            self.metrics.watch(SpoolCollector(self.spool))
        chat = ChatEndpoint(
            serving=self.serving,
            router=router,
            dispatcher=Dispatcher(settings.gateway_retries, self.metrics),
            capture=self.capture,
            keyring=self.keyring,
            limiter=RateLimiter(settings.gateway_rate_per_minute),
            quota=RateLimiter(settings.gateway_owner_rate_per_minute),
            metrics=self.metrics,
            tracing=self.tracing,
            limits=Limits(
                settings.gateway_max_body_bytes,
                settings.gateway_client_seconds,
                settings.gateway_max_requests,
            ),
        )
        self.app: GatewayApp = gateway_app(
            chat,
            keyring=self.keyring,
            serving=self.serving,
            capture=self.capture,
            metrics=self.metrics,
            routes=routes,
            lifespan=self._lifespan,
        )

    def serving(self) -> Serving | None:
        """What can answer now."""
        return self.models.serving

    async def load(self) -> None:
        """Opens what should answer, so that the first request finds it.

        Raises:
            BabylonError: no model can be served.
        """
        async with open_databases(self.settings, role=ROLE) as databases:
            await self.models.refresh(databases.rl, databases.game)

    def _show(self, serving: Serving) -> None:
        self._shown.serving = serving

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        drainer = DrainerProcess(self.spool, resolve_rl_dsn(self.settings)) if self.spool else None
        if drainer is not None:
            await drainer.start()
        watcher = WatcherProcess() if self.settings.rollout_watch_seconds else None
        if watcher is not None:
            await watcher.start()
        following = asyncio.create_task(self._follow())
        try:
            yield
        finally:
            following.cancel()
            with suppress(asyncio.CancelledError):
                await following
            if watcher is not None:
                await watcher.stop()
            await self.models.close()
            if self.spool is not None and drainer is not None:
                await self.spool.close()
                await drainer.stop()
            await asyncio.to_thread(self.tracing.shutdown)

    async def _follow(self) -> None:
        """Looks for a new deployment every few seconds; a database that is away only delays it."""
        while True:
            try:
                async with open_databases(self.settings, role=ROLE) as databases:
                    while True:
                        await asyncio.sleep(REFRESH_SECONDS)
                        await self.models.refresh(databases.rl, databases.game)
            except Exception as error:  # the gateway keeps answering whatever happens to the database
                log.warning("cannot look for deployments: %s", error)
                await asyncio.sleep(REFRESH_SECONDS)


def serve(settings: Settings, *, host: str = "127.0.0.1", port: int | None = None) -> None:
    """`run_gateway` on uvloop, until interrupted."""
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run_gateway(settings, host=host, port=port))


async def run_gateway(
    settings: Settings,
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
    router: Router = release_route,
    routes: Sequence[BaseRoute] = (),
) -> None:
    """Serve until interrupted. The port is taken, and the model loaded, before anything is announced.

    Args:
        host: address to listen on; another one than this machine's own needs GATEWAY_API_KEYS.
        port: 0 takes a free one; ``PORT`` by default.
        router: chooses the version of each request.
        routes: more paths on the same port.

    Raises:
        PortInUseError: another program listens there.
        GatewaySetupError: the settings do not fit together.
        BabylonError: no model can be served.
    """
    gateway = Gateway(settings, router=router, routes=routes)
    if not gateway.keyring.required and not _is_loopback(host):
        raise GatewaySetupError(
            f"The gateway would answer anybody who reaches {host}",
            "Set GATEWAY_API_KEYS, or listen on 127.0.0.1.",
        )
    listener = listen(host, settings.port if port is None else port)
    await gateway.load()
    address = f"http://{host}:{listener.getsockname()[1]}/v1"
    print(f"babylon gateway: {gateway.models.version} at {address} (process {os.getpid()})", flush=True)
    gc.collect()
    gc.freeze()  # what is loaded now stays: looking through it again would hold up answers
    config = uvicorn.Config(
        gateway.app,
        http="httptools",
        ws="none",
        lifespan="on",
        log_level="warning",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=STOP_SECONDS,
    )
    await uvicorn.Server(config).serve(sockets=[listener])


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
