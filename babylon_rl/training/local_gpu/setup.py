"""The GPU backend's environment: made once from its lock file, checked by asking it for a GPU."""

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from babylon_rl.settings import Settings
from babylon_rl.training.backends import ENVIRONMENT, Gpu, find_gpu
from babylon_rl.training.local_gpu.errors import GpuEnvironmentError

LOCK = Path(__file__).with_name("requirements.lock")
PYTHON = "3.11"
"""The lock is made for this version."""


def locked() -> dict[str, str]:
    """The pinned version of each distribution."""
    pins = re.findall(r"^([A-Za-z0-9._-]+)==([^\s;]+)", LOCK.read_text(), re.MULTILINE)
    return {name.lower(): version for name, version in pins}


def install(settings: Settings, report: Callable[[str], None]) -> Gpu:
    """Make the environment, or bring it up to date; returns whether it finds a GPU.

    Raises:
        GpuEnvironmentError: Python 3.11 is missing, or the installation failed.
    """
    folder = settings.home / ENVIRONMENT
    python = folder / "bin" / "python"
    if not python.exists():
        found = sys.executable if sys.version_info[:2] == (3, 11) else shutil.which(f"python{PYTHON}")
        if found is None:
            raise GpuEnvironmentError(
                f"The GPU backend needs Python {PYTHON}, which is not installed", "Install it and try again."
            )
        report(f"making {folder}")
        _run([found, "-m", "venv", str(folder)])
    report(f"installing {len(locked())} distributions (several GB)")
    _run([str(python), "-m", "pip", "install", "--require-hashes", "--no-deps", "-r", str(LOCK)])
    return find_gpu(settings)


def _run(command: list[str]) -> None:
    try:
        subprocess.run(command, check=True)
    except (OSError, subprocess.CalledProcessError) as problem:
        raise GpuEnvironmentError(
            f"The GPU backend's environment could not be made ({problem})", "Read the output above."
        ) from problem
