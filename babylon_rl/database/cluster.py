"""The files of an embedded server: where they lie, how they are made, and their settings."""

import json
import logging
import os
import secrets
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from babylon_rl.database import postmaster
from babylon_rl.database.binaries import MAJOR_VERSION, Account, bin_folder_for
from babylon_rl.database.errors import EmbeddedServerError, SocketPathTooLongError

logger = logging.getLogger(__name__)

OWNER = "babylon"
PORT = 5432  # only names the socket's file: the server listens on no network address

# Linux allows 107 bytes, macOS 103.
_SOCKET_PATH_LIMIT = 103
# Used by root alone, where the home cannot be entered by the account that runs the server.
_SHARED_FOLDERS = (Path("/var/lib/babylon_rl"), Path("/var/tmp/babylon_rl"))

_SETTINGS = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "port": str(PORT),
    "max_connections": "100",
    "shared_buffers": "128MB",
    "max_wal_size": "512MB",
    "fsync": "on",
    "synchronous_commit": "on",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "lc_messages": "C",
    "log_line_prefix": "%m [%p] %q%d ",
    # Few processes and no use of a container's small /dev/shm; our queries gain nothing from either.
    "io_method": "sync",
    "max_parallel_workers_per_gather": "0",
    "max_wal_senders": "0",
    "wal_level": "minimal",
    # The marker by which migrations recognise a server of ours; see migrations.py.
    "babylon.server": "embedded",
}
_CONF_HEADER = (
    "# Written at every start; change settings with ALTER SYSTEM, which postgresql.auto.conf keeps.\n"
)


@dataclass(frozen=True)
class Cluster:
    """One embedded server's places on disk, whether it runs or not."""

    home: Path
    data: Path
    socket_dir: Path

    @property
    def record(self) -> Path:
        return self.home / "postgres.json"

    @property
    def log(self) -> Path:
        return self.data.parent / "server.log"

    def account(self) -> Account:
        return Account.of_uid(self.data.stat().st_uid)

    def binaries(self) -> Path:
        return bin_folder_for(self.account(), _SHARED_FOLDERS[0])

    @classmethod
    def load(cls, home: Path) -> "Cluster | None":
        """The cluster that `home` names, or None before its first start."""
        try:
            text = (home / "postgres.json").read_text()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except PermissionError:
            raise EmbeddedServerError(
                f"{home / 'postgres.json'} may not be read by this user",
                "Run as the user that made it, or set BABYLON_HOME to a folder of your own.",
            ) from None
        try:
            recorded = json.loads(text)
            # A data folder inside the home is recorded relative to it, so that a home can be moved.
            return cls(home, home / recorded["data"], home / recorded["socket_dir"])
        except (ValueError, KeyError, TypeError):
            raise EmbeddedServerError(
                f"{home / 'postgres.json'} cannot be read",
                "Restore it from a backup; it names the data folder of the embedded PostgreSQL.",
            ) from None

    def save(self) -> None:
        """Writes the record; from then on the home has a server."""

        def portable(path: Path) -> str:
            return str(path.relative_to(self.home) if path.is_relative_to(self.home) else path)

        unfinished = self.record.with_suffix(f".{secrets.token_hex(4)}.tmp")
        unfinished.write_text(
            json.dumps({"data": portable(self.data), "socket_dir": portable(self.socket_dir)}) + "\n"
        )
        unfinished.replace(self.record)


def create(home: Path) -> Cluster:
    """Chooses the places for a new cluster and runs initdb; the result is recorded last.

    initdb works in a folder of another name that is then renamed, so a kill leaves no half-made cluster.

    Raises:
        EmbeddedServerError: No account to run under, no writable place, or initdb failed.
    """
    account = Account.for_new_server()
    parent = _data_parent(home, account)
    data = parent / "data"
    for pid in postmaster.all_serving(data):  # its folder was deleted under it; it would delete our socket
        postmaster.stop(pid, data, timeout=5)
    if data.exists():
        raise EmbeddedServerError(
            f"{data} exists but {home / 'postgres.json'}, which should name it, does not",
            "Restore the record, or move the folder away to start with an empty database.",
        )
    for leftover in parent.glob("data-*"):  # of an initdb that was killed
        shutil.rmtree(leftover, ignore_errors=True)
    unfinished = Path(tempfile.mkdtemp(prefix="data-", dir=parent))
    _give(unfinished, account)
    command = [bin_folder_for(account, _SHARED_FOLDERS[0]) / "initdb", "-D", unfinished, "-U", OWNER]
    command += ["--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
    command += ["--auth=peer", "--no-instructions"]
    done = account.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode != 0:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise EmbeddedServerError(f"initdb failed: {_last_line(done.stdout)}", f"Look at {parent}.")
    _write_access_rules(unfinished, account)
    unfinished.rename(data)
    cluster = Cluster(home, data, choose_socket_dir(parent / "run", account))
    cluster.save()
    return cluster


def configure(cluster: Cluster) -> None:
    """Writes the server's settings; called before each start, since the home may have moved."""
    version = cluster.data / "PG_VERSION"
    if not version.exists():
        raise EmbeddedServerError(
            f"{cluster.record} names {cluster.data}, which holds no database",
            f"Restore the folder, or delete {cluster.record} to start with an empty database.",
        )
    if version.read_text().strip() != str(MAJOR_VERSION):
        raise EmbeddedServerError(
            f"{cluster.data} was made by PostgreSQL {version.read_text().strip()}, this is {MAJOR_VERSION}",
            "Dump it with the version that made it, or move the folder and postgres.json away.",
        )
    account = cluster.account()
    if not cluster.socket_dir.exists():
        choose_socket_dir(cluster.socket_dir, account, exact=True)
    settings = _SETTINGS | {"unix_socket_directories": str(cluster.socket_dir)}
    lines = [f"{name} = '{value.replace(chr(39), chr(39) * 2)}'\n" for name, value in settings.items()]
    path = cluster.data / "postgresql.conf"
    path.write_text(_CONF_HEADER + "".join(lines))
    _give(path, account)


def destroy(cluster: Cluster) -> None:
    """Deletes the data of a stopped server, wherever it lies."""
    cluster.record.unlink(missing_ok=True)
    shutil.rmtree(cluster.socket_dir, ignore_errors=True)
    shutil.rmtree(cluster.data.parent, ignore_errors=True)


def choose_socket_dir(wanted: Path, account: Account, *, exact: bool = False) -> Path:
    """Makes a private folder for the socket: `wanted`, or a short one where its path would be too long.

    Args:
        exact: Take `wanted` or fail.

    Raises:
        SocketPathTooLongError: `exact` and too long, or even the temporary folder's path is too long.
    """
    if _socket_path_fits(wanted):
        wanted.mkdir(mode=0o700, parents=True, exist_ok=True)
        _give(wanted, account)
        return wanted
    if not exact:
        for base in (Path("/tmp"), Path(tempfile.gettempdir())):
            if base.is_dir() and os.access(base, os.W_OK):
                folder = Path(tempfile.mkdtemp(prefix="babylon-", dir=base))
                _give(folder, account)
                if _socket_path_fits(folder):
                    return folder
                folder.rmdir()
    raise SocketPathTooLongError(
        f"The unix socket's path {wanted}/.s.PGSQL.{PORT} is longer than {_SOCKET_PATH_LIMIT} bytes",
        "Choose a BABYLON_HOME with a shorter path.",
    )


def _socket_path_fits(folder: Path) -> bool:
    return len(os.fsencode(folder / f".s.PGSQL.{PORT}")) <= _SOCKET_PATH_LIMIT


def _data_parent(home: Path, account: Account) -> Path:
    """The folder that holds data, log and socket: in the home, or a shared place that `account` can enter."""
    inside = home / "postgres"
    if account.is_us or account.can_enter(home):
        inside.mkdir(mode=0o755, exist_ok=True)
        return inside
    for shared in _SHARED_FOLDERS:
        try:
            shared.mkdir(mode=0o755, parents=True, exist_ok=True)
            parent = Path(tempfile.mkdtemp(prefix="server-", dir=shared))
        except OSError:
            continue
        parent.chmod(0o711)
        if account.can_enter(parent):
            (parent / "HOME").write_text(f"{home}\n")
            _stop_abandoned(shared, home)
            return parent
        shutil.rmtree(parent)
    raise EmbeddedServerError(
        f"The account {account.name}, which runs PostgreSQL for root, cannot enter {home}",
        "Set BABYLON_HOME to a folder that others may enter, or run as a normal user.",
    )


def _stop_abandoned(shared: Path, home: Path) -> None:
    """Stops servers of an earlier home of the same path that was deleted; their data stays."""
    for note in shared.glob("server-*/HOME"):
        data = note.parent / "data"
        if note.read_text().strip() == str(home) and data.exists():
            pid = postmaster.running_pid(data)
            if pid is not None:
                postmaster.stop(pid, data, timeout=30)
            logger.warning("%s holds the database of an earlier %s; delete it if unwanted", note.parent, home)


def _write_access_rules(data: Path, account: Account) -> None:
    # Only the account that owns the files, and root, which could become it anyway, may connect.
    (data / "pg_hba.conf").write_text("local all all peer map=babylon\n")
    names = sorted({account.name, "root"})
    (data / "pg_ident.conf").write_text("".join(f'babylon "{name}" all\n' for name in names))


def _give(path: Path, account: Account) -> None:
    if not account.is_us:
        os.chown(path, account.uid, account.gid)


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no output"
