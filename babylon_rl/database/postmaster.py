"""One PostgreSQL server process: is it alive, is it ours, start it, stop it."""

import os
import signal
import subprocess
import time
from pathlib import Path

import psutil

from babylon_rl.database.binaries import Account
from babylon_rl.database.errors import EmbeddedServerError

_LOG_LIMIT = 8 * 1024 * 1024
_POLL_SECONDS = 0.05


def serves(pid: int, data: Path) -> bool:
    """Whether `pid` is a living postmaster of the data folder `data`, judged by its command line.

    A process id alone proves nothing: after a restart of a machine or container any program may have it. A
    zombie has no command line and does not count.
    """
    try:
        command = psutil.Process(pid).cmdline()
    except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
        return False
    return len(command) >= 3 and Path(command[0]).name == "postgres" and command[1:3] == ["-D", str(data)]


def recorded_pid(data: Path) -> int | None:
    """The process id in `postmaster.pid`, dead or alive."""
    try:
        return int((data / "postmaster.pid").read_text().split("\n", 1)[0])
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None


def running_pid(data: Path) -> int | None:
    """The process id of the living postmaster of `data`, or None."""
    pid = recorded_pid(data)
    return pid if pid is not None and serves(pid, data) else None


def all_serving(data: Path) -> list[int]:
    """Every postmaster that was started for `data`, also one whose folder was deleted under it."""
    return [process.pid for process in psutil.process_iter() if serves(process.pid, data)]


def clear_stale_lock_files(data: Path, socket_dir: Path, port: int) -> None:
    """Clears what a killed postmaster left, so that a new one starts. To be called when none runs.

    PostgreSQL only asks whether *some* process has the recorded id; a zombie or another program that got the
    id would block it for ever. Where the id is free `postmaster.pid` stays: PostgreSQL then also checks for
    surviving children before it takes over.
    """
    pid = recorded_pid(data)
    if pid is not None and psutil.pid_exists(pid):
        (data / "postmaster.pid").unlink(missing_ok=True)
    (socket_dir / f".s.PGSQL.{port}.lock").unlink(missing_ok=True)


def launch(binaries: Path, data: Path, log: Path, account: Account) -> int:
    """Starts a postmaster in a session of its own and returns its process id without waiting for it.

    The shell in between exits at once, so that the server outlives us and never becomes our zombie.
    """
    if log.exists() and log.stat().st_size > _LOG_LIMIT:
        log.replace(log.with_suffix(".log.1"))
    script = '"$0" -D "$1" </dev/null >&2 & echo $!'
    with log.open("ab") as output:
        done = account.run(
            ["/bin/sh", "-c", script, str(binaries / "postgres"), str(data)],
            cwd=data,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=output,
            start_new_session=True,
        )
    if not done.stdout.strip():
        raise EmbeddedServerError(f"{binaries / 'postgres'} could not be launched", f"See {log}.")
    return int(done.stdout)


def is_alive(pid: int) -> bool:
    """Whether `pid` runs; a zombie does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def stop(pid: int, data: Path, *, timeout: float) -> None:
    """Stops a postmaster: fast shutdown, after `timeout` seconds an immediate one (recovered at next start).

    Raises:
        EmbeddedServerError: It survived both, for example because it is stopped by a debugger.
    """
    for number, seconds in ((signal.SIGINT, timeout), (signal.SIGQUIT, 10.0)):
        if _signal_and_wait(pid, data, number, seconds):
            return
    raise EmbeddedServerError(
        f"The embedded PostgreSQL (process {pid}) does not stop",
        f"Look at it, then `kill -9 {pid}` if need be.",
    )


def _signal_and_wait(pid: int, data: Path, number: signal.Signals, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    if serves(pid, data):
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return True
    while serves(pid, data):
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_SECONDS)
    return True
