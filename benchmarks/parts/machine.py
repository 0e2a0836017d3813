"""What a benchmark says about the machine that it ran on."""

import os
import platform
from importlib.metadata import version
from typing import Any

import psutil


def machine(*packages: str) -> dict[str, Any]:
    """Cores, memory in GiB, load average, and the versions of Python and of the named distributions."""
    return {
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "load_average": round(os.getloadavg()[0], 1),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in packages},
    }
