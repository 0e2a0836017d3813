"""Whether a service of this machine answers: the healthchecks of compose.yaml, and a question for people.

check("webserver", settings)     # a line, or UnhealthyError
"""

import json
import urllib.request
from typing import Any
from urllib.error import HTTPError

from babylon_rl.errors import BabylonError
from babylon_rl.settings import Settings

CODE_PORT = 4000
WEB_PORT = 3000
HOST = "127.0.0.1"
SECONDS = 10.0


class UnhealthyError(BabylonError):
    """A service does not answer as it should."""


def check(name: str, settings: Settings, *, port: int | None = None) -> str:
    """Asks one of the services and returns its answer in a line.

    Args:
        name: code, webserver, daemon, gateway or admin.
        settings: Name the ports of gateway and admin API, and the database of the daemon's heartbeats.
        port: Where it listens on this machine; None for its own port. The daemon listens nowhere.

    Raises:
        UnhealthyError: It does not answer, or there is no such service.
    """
    if name == "code":
        return _code_server(port or CODE_PORT)
    if name == "daemon":
        return _daemon(settings)
    pages = {
        "webserver": (port or WEB_PORT, "server_info"),
        "gateway": (port or settings.port, "healthz"),
        "admin": (port or settings.admin_port, "health"),
    }
    if name not in pages:
        raise UnhealthyError(f"{name} is no service", "There are code, webserver, daemon, gateway, admin.")
    return _page(name, "http://{}:{}/{}".format(HOST, *pages[name]))


def _page(name: str, url: str) -> str:
    try:
        with urllib.request.urlopen(url, timeout=SECONDS) as answer:
            return f"{name}: {json.dumps(json.load(answer))}"
    except HTTPError as problem:
        raise _unhealthy(name, f"{url} says {problem.code}") from problem
    except (OSError, ValueError) as problem:
        raise _unhealthy(name, f"{url}: {problem}") from problem


def _code_server(port: int) -> str:
    import grpc
    from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
    from grpc_health.v1.health_pb2_grpc import HealthStub

    try:
        with grpc.insecure_channel(f"{HOST}:{port}") as channel:
            health: Any = HealthStub(channel)
            answer = health.Check(HealthCheckRequest(service="DagsterApi"), timeout=SECONDS)
    except grpc.RpcError as problem:
        raise _unhealthy("code", f"nothing answers on {HOST}:{port}") from problem
    if answer.status != HealthCheckResponse.SERVING:
        raise _unhealthy("code", "it is not serving")
    return "code: serving"


def _daemon(settings: Settings) -> str:
    """Every daemon has written a heartbeat lately; it does so every 30 seconds."""
    from dagster._daemon.controller import all_daemons_live

    from babylon_rl.orchestration.instance import open_instance

    with open_instance(settings) as instance:
        if not all_daemons_live(instance, heartbeat_tolerance_seconds=300):
            raise _unhealthy("daemon", "its last heartbeat is older than five minutes")
    return "daemon: alive"


def _unhealthy(name: str, problem: str) -> UnhealthyError:
    return UnhealthyError(
        f"{name} does not answer: {problem}", f"Read the log of `babylon service run {name}`."
    )
