"""The embedded PostgreSQL server: started by whoever needs it first, shared by every process of a home.

One folder (`BABYLON_HOME`) has at most one server. `ensure_server` may be called by any number of processes
at once; all starting and stopping happens under one file lock per home, and a server counts as running only
when it answers `SELECT 1`. The server survives the process that started it and recovers after a kill.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import filelock
import psycopg2

from babylon_rl.database import cluster as clusters
from babylon_rl.database import postmaster
from babylon_rl.database.cluster import OWNER, PORT, Cluster
from babylon_rl.database.errors import EmbeddedServerError

GAME_DATABASE = "babylon"
DAGSTER_DATABASE = "dagster"

# Recovery after a crash replays the write-ahead log, which may take minutes on a slow disk.
START_TIMEOUT = 300.0
STOP_TIMEOUT = 60.0
_PROBE_TIMEOUT = 5
_POLL_SECONDS = 0.05


@dataclass(frozen=True)
class EmbeddedServer:
    """A running embedded server.

    Attributes:
        home: The resolved `BABYLON_HOME`.
        data: The data folder; outside of the home where root's home may not be entered by others.
        socket_dir: The folder of its unix socket, the only way in.
        port: The number in the socket's file name.
        pid: The postmaster's process id.
        started: Whether this call started it; only then should its caller think of stopping it.
    """

    home: Path
    data: Path
    socket_dir: Path
    port: int
    pid: int
    started: bool

    def dsn(self, database: str = GAME_DATABASE) -> str:
        """A connection URL for asyncpg, psycopg and SQLAlchemy; it holds no secret (peer authentication)."""
        return _dsn(self.socket_dir, database)


def ensure_server(home: Path, *, start_timeout: float = START_TIMEOUT) -> EmbeddedServer:
    """Returns the home's server, started (and made) if it does not run. A few milliseconds when it does.

    Its databases `babylon` and `dagster` exist afterwards.

    Raises:
        EmbeddedServerError: It cannot be made or started, belongs to another user, or did not answer in time.
    """
    home = Path(home).expanduser().resolve()
    cluster = Cluster.load(home)
    if cluster is not None and _answers(cluster, GAME_DATABASE):
        return _handle(cluster, started=False)
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise EmbeddedServerError(
            f"{home} cannot be made: {problem.strerror}", "Set BABYLON_HOME to a folder that you may write."
        ) from None
    with _locked(home, start_timeout):
        cluster = Cluster.load(home)
        if cluster is not None and _answers(cluster, GAME_DATABASE):
            return _handle(cluster, started=False)
        cluster = cluster or clusters.create(home)
        started = _start(cluster, time.monotonic() + start_timeout)
        _create_databases(cluster)
        return _handle(cluster, started=started)


def stop_server(home: Path, *, only_if_unused: bool = False, timeout: float = STOP_TIMEOUT) -> bool:
    """Stops the home's server with a fast shutdown. Returns whether it was stopped by this call.

    Args:
        only_if_unused: Leave it alone while other sessions are connected.
        timeout: Seconds before the fast shutdown becomes an immediate one.

    Raises:
        EmbeddedServerError: It belongs to another user or does not stop.
    """
    home = Path(home).expanduser().resolve()
    if Cluster.load(home) is None:
        return False
    with _locked(home, timeout + 60):
        cluster = Cluster.load(home)
        pid = None if cluster is None else postmaster.running_pid(cluster.data)
        if cluster is None or pid is None or (only_if_unused and _other_sessions(cluster)):
            return False
        _check_owner(cluster)
        postmaster.stop(pid, cluster.data, timeout=timeout)
        return True


def destroy_server(home: Path) -> None:
    """Stops the home's server and deletes its databases for good."""
    stop_server(home)
    home = Path(home).expanduser().resolve()
    cluster = Cluster.load(home)
    if cluster is not None:
        with _locked(home, STOP_TIMEOUT):
            clusters.destroy(cluster)


def _dsn(socket_dir: Path, database: str) -> str:
    return f"postgresql://{OWNER}@/{database}?host={quote(str(socket_dir), safe='/')}&port={PORT}"


def _handle(cluster: Cluster, *, started: bool) -> EmbeddedServer:
    pid = postmaster.recorded_pid(cluster.data)
    if pid is None:
        raise EmbeddedServerError(
            f"{cluster.data}/postmaster.pid vanished while its server answers", "Try again."
        )
    return EmbeddedServer(cluster.home, cluster.data, cluster.socket_dir, PORT, pid, started)


@contextmanager
def _locked(home: Path, timeout: float) -> Iterator[None]:
    lock = filelock.FileLock(home / "postgres.lock", timeout=timeout, is_singleton=False)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise EmbeddedServerError(
            f"Another process has held {home / 'postgres.lock'} for {timeout:.0f} s",
            "It is starting or stopping the embedded PostgreSQL; try again, or end that process.",
        ) from None
    except PermissionError:
        raise EmbeddedServerError(
            f"{home / 'postgres.lock'} belongs to another user", "Run as that user or set BABYLON_HOME."
        ) from None
    try:
        yield
    finally:
        lock.release()


def _answers(cluster: Cluster, database: str) -> bool:
    """Whether `SELECT 1` works in `database`."""
    if not (cluster.socket_dir / f".s.PGSQL.{PORT}").exists():
        return False
    try:
        connection = psycopg2.connect(_dsn(cluster.socket_dir, database), connect_timeout=_PROBE_TIMEOUT)
    except psycopg2.OperationalError as problem:
        # A full server lives; whoever connects next is told so.
        return "too many clients" in str(problem)
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
            return cursor.fetchone() == (1,)
    except psycopg2.Error:
        return False
    finally:
        connection.close()


def _start(cluster: Cluster, deadline: float) -> bool:
    """Waits for a server that is starting, recovering or going down, and starts one when none runs.

    Returns whether one was started here.
    """
    if not cluster.data.exists():
        clusters.configure(cluster)  # says what is missing
    _check_owner(cluster)
    started = False
    while True:
        pid = postmaster.running_pid(cluster.data)
        log_start = cluster.log.stat().st_size if cluster.log.exists() else 0
        if pid is None:
            clusters.configure(cluster)
            postmaster.clear_stale_lock_files(cluster.data, cluster.socket_dir, PORT)
            pid = postmaster.launch(cluster.binaries(), cluster.data, cluster.log, cluster.account())
            started = True
        while postmaster.is_alive(pid):
            if _answers(cluster, "postgres"):
                return started
            if time.monotonic() > deadline:
                raise EmbeddedServerError(
                    f"The embedded PostgreSQL (process {pid}) runs but does not answer",
                    f"See {cluster.log}; a long recovery needs patience: try again.",
                )
            time.sleep(_POLL_SECONDS)
        said = _log_since(cluster.log, log_start)
        # After a kill of the postmaster its children need a moment to notice and leave.
        passing = "still in use" in said or "shutting down" in said or not started
        if not passing or time.monotonic() > deadline:
            raise EmbeddedServerError(f"The embedded PostgreSQL did not start: {said}", f"See {cluster.log}.")
        time.sleep(4 * _POLL_SECONDS)


def _log_since(log: Path, offset: int) -> str:
    """The first FATAL or PANIC line written after `offset`, without its prefix; else the last line."""
    if not log.exists():
        return "it left no log"
    with log.open("rb") as file:
        file.seek(offset if offset <= log.stat().st_size else 0)
        lines = [line for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    for line in lines:
        for severity in ("FATAL:", "PANIC:"):
            if severity in line:
                return line.split(severity, 1)[1].strip()
    return lines[-1].strip() if lines else "it left no log"


def _check_owner(cluster: Cluster) -> None:
    account = cluster.account()
    if os.geteuid() not in (0, account.uid):
        raise EmbeddedServerError(
            f"The embedded PostgreSQL in {cluster.data} belongs to the user {account.name}",
            f"Run as {account.name}, or set BABYLON_HOME to a folder of your own.",
        )


def _create_databases(cluster: Cluster) -> None:
    # The game's database comes last: `ensure_server` takes its existence as the sign that all is there.
    connection = psycopg2.connect(_dsn(cluster.socket_dir, "postgres"), connect_timeout=_PROBE_TIMEOUT)
    try:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute("SELECT datname FROM pg_database")
            present = {name for (name,) in cursor.fetchall()}
            for name in (DAGSTER_DATABASE, GAME_DATABASE):
                if name not in present:
                    cursor.execute(f'CREATE DATABASE "{name}"')
    finally:
        connection.close()


def _other_sessions(cluster: Cluster) -> int:
    if not _answers(cluster, "postgres"):
        return 0
    connection = psycopg2.connect(_dsn(cluster.socket_dir, "postgres"), connect_timeout=_PROBE_TIMEOUT)
    try:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT count(*) FROM pg_stat_activity"
                " WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
            )
            row = cursor.fetchone()
            return 0 if row is None else row[0]
    finally:
        connection.close()
