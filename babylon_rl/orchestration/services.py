"""The services of a production installation: what each one runs, and their systemd units.

    for unit in units(settings, system=False):
        unit.name, unit.text

A unit holds no address and no secret: it starts `babylon service run NAME`, which reads the settings (from an
environment file that only its owner may read), prepares DAGSTER_HOME and becomes the process. Compose files
and other supervisors start the same commands.
"""

import getpass
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from babylon_rl.errors import BabylonError
from babylon_rl.orchestration.instance import REPOSITORY, prepare_dagster_home, prepare_instance
from babylon_rl.orchestration.service_health import CODE_PORT, WEB_PORT
from babylon_rl.settings import Settings

LOCATION = "babylon_rl"
TARGET = "babylon.target"
ENVIRONMENT_FILE = """# Settings of the babylon_rl services, one NAME=value per line; see .env.example.
# Secrets belong here and nowhere else; keep the file readable by its owner alone.
#BABYLON_ENV=production
#DATABASE_URL=postgresql://user:password@host/babylon
#DAGSTER_PG=postgresql://user:password@host/dagster
#ADMIN_TOKEN=
#ALERT_WEBHOOK_URL=
"""

SERVICES = {
    "code": "the code server: loads the definitions and starts the runs",
    "webserver": "Dagster's UI; it has no login",
    "daemon": "Dagster's daemon: sensors, schedules, queue, backfills, monitoring",
    "gateway": "the OpenAI-compatible gateway",
    "admin": "the admin API and the training dashboard",
}
"""Every service and what it is."""


class UnknownServiceError(BabylonError):
    """A service that there is none of."""


class UnitFolderError(BabylonError):
    """Units cannot be written."""


@dataclass(frozen=True)
class Unit:
    """One file for systemd."""

    name: str
    text: str


@dataclass(frozen=True)
class Written:
    """What became of a file: `created`, `updated` or `unchanged`."""

    path: Path
    state: str


def command(
    name: str,
    settings: Settings,
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
    code_host: str = "127.0.0.1",
    code_port: int = CODE_PORT,
) -> list[str]:
    """Returns the command line of a service.

    Args:
        name: One of `SERVICES`.
        settings: Name the ports of gateway and admin API.
        host: Address to listen on; beyond this machine only behind something that asks for a login.
        port: Port to listen on; None for the service's own.
        code_host: Where webserver and daemon find the code server.
        code_port: Its port.

    Raises:
        UnknownServiceError: There is no such service.
    """
    python = [sys.executable, "-m"]
    workspace = ["-w", str(workspace_of(settings))]
    if name == "code":
        listen = ["--host", host, "--port", str(port or code_port)]
        module = ["-m", "babylon_rl.definitions", "--location-name", LOCATION]
        return [*python, "dagster", "code-server", "start", *module, *listen]
    if name == "webserver":
        return [*python, "dagster_webserver", *workspace, "-h", host, "-p", str(port or WEB_PORT)]
    if name == "daemon":
        return [*python, "dagster._daemon", "run", *workspace]
    if name == "gateway":
        return [*python, "babylon_rl.cli", "serve", "--host", host, "--port", str(port or settings.port)]
    if name == "admin":
        return [
            *python,
            "babylon_rl.cli",
            "admin",
            "--host",
            host,
            "--port",
            str(port or settings.admin_port),
        ]
    raise UnknownServiceError(f"{name} is no service", f"There are {', '.join(SERVICES)}.")


def become(
    name: str, settings: Settings, *, host: str, port: int | None, code_host: str, code_port: int
) -> None:
    """Prepares DAGSTER_HOME and replaces this process by the service's."""
    line = command(name, settings, host=host, port=port, code_host=code_host, code_port=code_port)
    prepare_dagster_home(settings)
    if name == "daemon":
        prepare_instance(settings)
    if name in ("webserver", "daemon"):
        write_workspace(settings, code_host, code_port)
    os.chdir(REPOSITORY)
    # Whoever was started in the background of a script ignores SIGINT, and Dagster then SIGTERM, too.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.execv(line[0], line)


def workspace_of(settings: Settings) -> Path:
    """The workspace file of the services: one code server for all, instead of one in each process."""
    return settings.home / "dagster" / "services.yaml"


def write_workspace(settings: Settings, host: str, port: int) -> Path:
    """Writes the workspace file; safe to repeat, and from several processes."""
    path = workspace_of(settings)
    path.parent.mkdir(parents=True, exist_ok=True)
    server = f"  - grpc_server:\n      host: {host}\n      port: {port}\n      location_name: {LOCATION}\n"
    fresh = path.with_suffix(f".{os.getpid()}")
    fresh.write_text(f"load_from:\n{server}", encoding="utf-8")
    fresh.replace(path)
    return path


def units(settings: Settings, *, system: bool, environment_file: Path) -> list[Unit]:
    """Returns the units of all services and the target that starts them together."""
    names = [f"babylon-{name}.service" for name in SERVICES]
    wanted_by = "multi-user.target" if system else "default.target"
    target = f"[Unit]\nDescription=babylon_rl\nWants={' '.join(names)}\n\n[Install]\nWantedBy={wanted_by}\n"
    account = f"User={getpass.getuser()}\n" if system else ""
    return [Unit(TARGET, target), *(_unit(name, settings, environment_file, account) for name in SERVICES)]


def _unit(name: str, settings: Settings, environment_file: Path, account: str) -> Unit:
    after = "network-online.target" + (" babylon-code.service" if name in ("webserver", "daemon") else "")
    # Runs are children of the code server: a restart of it must not end a training.
    mode = "process" if name == "code" else "mixed"
    start = " ".join(
        _quoted(part) for part in (sys.executable, "-m", "babylon_rl.cli", "service", "run", name)
    )
    text = (
        f"[Unit]\nDescription=babylon_rl: {SERVICES[name]}\n"
        f"After={after}\nWants=network-online.target\nPartOf={TARGET}\n"
        "StartLimitIntervalSec=0\n\n"
        f"[Service]\nType=exec\n{account}WorkingDirectory={_escaped(str(REPOSITORY))}\n"
        f"Environment={_quoted(f'BABYLON_HOME={settings.home}')}\n"
        f"EnvironmentFile=-{_escaped(str(environment_file))}\n"
        f"ExecStart={start}\n"
        "Restart=on-failure\nRestartSec=5\n"
        f"KillMode={mode}\nKillSignal=SIGINT\nTimeoutStopSec=60\n"
        "NoNewPrivileges=true\nUMask=0027\n\n"
        f"[Install]\nWantedBy={TARGET}\n"
    )
    return Unit(f"babylon-{name}.service", text)


def unit_folder(*, system: bool) -> Path:
    """Where systemd looks for units of the machine, or of this user."""
    if system:
        return Path("/etc/systemd/system")
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "systemd" / "user"


def install(folder: Path, files: Sequence[Unit], environment_file: Path) -> list[Written]:
    """Writes the units, and the environment file if there is none; what is as it should be stays untouched.

    Raises:
        UnitFolderError: The folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        written = [_write(folder / unit.name, unit.text) for unit in files]
        environment_file.parent.mkdir(parents=True, exist_ok=True)
        if environment_file.exists():
            return [*written, Written(environment_file, "unchanged")]
        descriptor = os.open(environment_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(ENVIRONMENT_FILE)
        return [*written, Written(environment_file, "created")]
    except OSError as problem:
        raise UnitFolderError(
            f"{problem.filename} cannot be written: {problem.strerror}",
            "Use --user, run it as a user who may, or --dry-run and copy what it prints.",
        ) from problem


def _write(path: Path, text: str) -> Written:
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return Written(path, "unchanged")
    state = "updated" if path.exists() else "created"
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.write_text(text, encoding="utf-8")
    fresh.replace(path)
    return Written(path, state)


def _escaped(text: str) -> str:
    return text.replace("%", "%%")


def _quoted(text: str) -> str:
    escaped = _escaped(text).replace("\\", "\\\\").replace('"', '\\"').replace("$", "$$")
    return f'"{escaped}"' if escaped != text or any(c.isspace() for c in text) else text
