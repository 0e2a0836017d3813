"""`babylon dev`: Dagster's UI and daemon, the gateway and the dashboard, started and stopped together."""

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from babylon_rl.errors import BabylonError
from babylon_rl.orchestration.instance import prepare_instance, workspace_file
from babylon_rl.policy.server import listen
from babylon_rl.settings import Settings

HOST = "127.0.0.1"
"""The UI has no login: it is bound to this machine."""
DAGSTER_PORT = 3000
STOP_SECONDS = 30.0


class ServiceEndedError(BabylonError):
    """A service stopped by itself."""


@dataclass(frozen=True)
class Service:
    """One process of the development stack.

    Attributes:
        name: What the person in front of the terminal calls it.
        port: Port that it will listen on at 127.0.0.1.
        command: Its command line.
        environment: Variables that it gets beside ours.
        note: What stands behind its address where it is announced.
    """

    name: str
    port: int
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    note: str = ""

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"


def development_services(settings: Settings, dagster_port: int = DAGSTER_PORT) -> list[Service]:
    """Returns what `babylon dev` starts."""
    dagster = [sys.executable, "-m", "dagster", "dev", "-w", str(workspace_file())]
    babylon = [sys.executable, "-m", "babylon_rl.cli"]
    gateway = [*babylon, "serve", "--port", str(settings.port)]
    admin = [*babylon, "admin", "--port", str(settings.admin_port)]
    environment, note = {"DAGSTER_URL": f"http://{HOST}:{dagster_port}"}, "/admin/training"
    if settings.admin_token is None:  # for this session; shown once, stored nowhere
        token = environment["ADMIN_TOKEN"] = secrets.token_urlsafe(24)
        note += f" (token {token})"
    return [
        Service("Dagster", dagster_port, [*dagster, "-h", HOST, "-p", str(dagster_port)]),
        Service("gateway", settings.port, gateway),
        Service("dashboard", settings.admin_port, admin, environment, note),
    ]


def require_free_ports(services: Sequence[Service]) -> None:
    """Checks that every service will get its port.

    Raises:
        PortInUseError: Another process listens on one of them.
    """
    for service in services:
        listen(HOST, service.port).close()


def run_together(
    settings: Settings, services: Sequence[Service], started: Callable[[], None] = lambda: None
) -> None:
    """Runs the services until Ctrl-C (or SIGTERM), or until one of them ends by itself; then stops them all.

    Raises:
        PortInUseError: Before anything is started.
        ServiceEndedError: A service ended by itself.
    """
    require_free_ports(services)
    prepare_instance(settings)
    # Also SIGINT, which a script that starts us in the background lets us, and the services, ignore.
    previous = {number: signal.signal(number, _interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for service in services:
            # A group of its own: Ctrl-C reaches us alone, and we stop them in order.
            processes.append(
                subprocess.Popen(
                    service.command,
                    cwd=workspace_file().parent,
                    env={**os.environ, **service.environment},
                    start_new_session=True,
                )
            )
        started()
        while True:
            for service, process in zip(services, processes, strict=True):
                if process.poll() is not None:
                    raise ServiceEndedError(
                        f"{service.name} ended by itself with status {process.returncode}",
                        "Its last lines above say why.",
                    )
            time.sleep(0.5)
    except KeyboardInterrupt:
        pass
    finally:
        _stop(processes)
        for number, handler in previous.items():
            signal.signal(number, handler)


def _interrupt(signum: int, frame: object) -> None:
    raise KeyboardInterrupt


def _stop(processes: Sequence["subprocess.Popen[bytes]"]) -> None:
    for process in reversed(processes):
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
    deadline = time.monotonic() + STOP_SECONDS
    for process in processes:
        try:
            process.wait(timeout=max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
