"""Where training runs: the choice among embedded, local and serverless, and why.

The choice is made once per training, from the settings and from what this machine has. It is never changed
after a failure: a backend that cannot run is an error, not a reason to take another one.
"""

import logging
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from babylon_rl.settings import Settings
from babylon_rl.training.errors import BackendNotAvailableError
from babylon_rl.training.options import BackendName

log = logging.getLogger(__name__)

ENVIRONMENT = "local-gpu"
"""Folder below BABYLON_HOME of the GPU backend's own Python environment."""

_PROBE = """
import torch
assert torch.cuda.is_available(), "torch sees no CUDA device"
import art.local, unsloth
print(torch.cuda.get_device_name())
"""
_PROBE_SECONDS = 180


@dataclass(frozen=True)
class BackendChoice:
    """Which backend trains.

    Attributes:
        reason: In words for a person: a setting, or what this machine has and lacks.
    """

    name: BackendName
    reason: str


@dataclass(frozen=True)
class Gpu:
    """What the GPU backend needs, as found on this machine.

    Attributes:
        usable: Whether a training could start.
        finding: The GPU's name, or what is missing.
    """

    usable: bool
    finding: str


def choose_backend(settings: Settings, probe: Callable[[Settings], Gpu] | None = None) -> BackendChoice:
    """Choose where to train; the choice is logged.

    Args:
        probe: Looks for a GPU and ART's backend extra; asked only where the answer matters.

    Raises:
        BackendNotAvailableError: The backend that the settings ask for cannot run here.
        SettingsError: Serverless was asked for without WANDB_API_KEY and WANDB_ENTITY.
    """
    choice = _choose(settings, probe or find_gpu)
    log.info("training backend: %s (%s)", choice.name, choice.reason)
    return choice


def _choose(settings: Settings, probe: Callable[[Settings], Gpu]) -> BackendChoice:
    asked = settings.training_backend
    if asked == "serverless" or (asked == "auto" and settings.wandb_api_key is not None):
        if settings.wandb_api_key is None:
            settings.require_wandb("serverless training")
        return BackendChoice("serverless", _because(asked, "WANDB_API_KEY is set"))
    if settings.train_rl_local is False:
        raise BackendNotAvailableError(
            asked,
            "TRAIN_RL_LOCAL=false forbids training on this machine, and there is no WANDB_API_KEY",
            "Unset TRAIN_RL_LOCAL, or set WANDB_API_KEY to train at W&B.",
        )
    if asked == "embedded":
        return BackendChoice("embedded", _because(asked, ""))
    gpu = probe(settings)
    if asked == "local" and not gpu.usable:
        raise BackendNotAvailableError(
            "local",
            gpu.finding,
            "Run `babylon train setup-gpu` on a machine with an NVIDIA GPU, or set TRAINING_BACKEND=auto.",
        )
    if gpu.usable:
        return BackendChoice("local", _because(asked, f"no WANDB_API_KEY, but {gpu.finding}"))
    return BackendChoice("embedded", _because(asked, f"no WANDB_API_KEY, and {gpu.finding}"))


def _because(asked: str, finding: str) -> str:
    return f"auto: {finding}" if asked == "auto" else f"TRAINING_BACKEND={asked}"


def environment_python(settings: Settings) -> Path:
    """The Python of the GPU backend's environment, whether it exists or not."""
    return settings.local_gpu_python or settings.home / ENVIRONMENT / "bin" / "python"


def find_gpu(settings: Settings) -> Gpu:
    """Ask the GPU backend's own environment whether it can train; half a second where it does not exist."""
    python = environment_python(settings)
    if not python.exists():
        return Gpu(False, f"the GPU backend is not installed ({python} is missing)")
    try:
        answer = subprocess.run(
            [python, "-c", _PROBE], capture_output=True, text=True, timeout=_PROBE_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as problem:
        return Gpu(False, f"the GPU backend's environment does not answer ({type(problem).__name__})")
    if answer.returncode != 0:
        last = (answer.stderr.strip().splitlines() or ["no reason given"])[-1]
        return Gpu(False, f"the GPU backend's environment finds no usable GPU ({last})")
    return Gpu(True, f"a GPU is usable: {answer.stdout.strip().splitlines()[-1]}")
