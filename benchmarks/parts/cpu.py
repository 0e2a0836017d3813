"""CPU seconds of this process and of a PostgreSQL backend, from Linux's scheduler (nanoseconds)."""

import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil


class CpuMeter:
    """CPU seconds that this process and one server process have used since `start`."""

    def __init__(self, backend: int) -> None:
        self._schedule = Path(f"/proc/{backend}/schedstat")
        if not self._schedule.exists():
            sys.exit("CPU of the server needs Linux (/proc) and a server on this machine.")

    def start(self) -> None:
        self._client, self._server = time.process_time(), self._running()

    def stop(self) -> tuple[float, float]:
        """Returns seconds of the client and of the server."""
        return time.process_time() - self._client, self._running() - self._server

    def _running(self) -> float:
        return int(self._schedule.read_text().split()[0]) / 1e9


def cpu_of(*roots: int) -> float:
    """CPU seconds of processes and their descendants, those included that have ended and were awaited."""
    seconds = 0.0
    for root in roots:
        with suppress(psutil.Error):
            parent = psutil.Process(root)
            for process in (parent, *parent.children(recursive=True)):
                with suppress(psutil.Error):
                    seconds += sum(process.cpu_times()[:4])  # own user and system, and the children's
    return seconds


def resident_mb() -> float:
    """MB of memory that this process holds now."""
    return _status("VmRSS")


def forget_peak() -> None:
    """Makes `peak_mb` begin anew."""
    Path("/proc/self/clear_refs").write_text("5")


def peak_mb() -> float:
    """Most MB that this process has held since `forget_peak`."""
    return _status("VmHWM")


def _status(name: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) / 1024
    raise KeyError(name)
