"""Opening a run: which mode, under which id, with nothing written outside of BABYLON_HOME."""

import hashlib
import logging
import os
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from babylon_rl.settings import Settings
from babylon_rl.tracking.interface import NullRun, Run
from babylon_rl.tracking.wandb_run import WandbRun

if TYPE_CHECKING:
    import wandb

logger = logging.getLogger(__name__)

INIT_TIMEOUT = 30.0
FINISH_TIMEOUT = 120.0
"""Seconds until W&B counts as unreachable, and that the upload at the end of a run may take."""


def open_run(
    settings: Settings,
    name: str,
    job_type: str,
    group: str | None = None,
    *,
    config: Mapping[str, Any] | None = None,
    tags: Sequence[str] = (),
) -> Run:
    """Opens a run as WANDB_MODE says; never raises because of W&B.

    An online run whose server does not answer is opened offline instead (`wandb sync` brings it later) and is
    marked as degraded.

    Args:
        settings: WANDB_* and BABYLON_HOME.
        name: What a person looks for in the list of runs, such as the partition.
        job_type: What kind of work, such as the asset's name.
        group: What belongs together, such as the Dagster run's id; part of the run's identity.
        config: Settings of the work, JSON values.
        tags: Words to filter by.
    """
    identity = run_id(name, job_type, group)
    if settings.tracking_mode == "none":
        return NullRun(identity)
    journal = settings.home / "wandb" / "journal" / f"{identity}.jsonl"
    details = {
        "name": name,
        "job_type": job_type,
        "group": group,
        "config": dict(config or {}),
        "tags": list(tags),
    }
    degraded = None
    modes: list[Literal["online", "offline"]] = ["online", "offline"]
    for mode in modes[modes.index(settings.tracking_mode) :]:
        try:
            prepare_environment(settings)
            run = _init(settings, identity, mode, details)
            return WandbRun(identity, mode, run, journal, degraded)
        except Exception as error:
            degraded = f"{type(error).__name__}: {error}".splitlines()[0]
            logger.warning("W&B run %s cannot be opened %s: %s", identity, mode, degraded)
            identity += "-offline"  # the library's service keeps the id of a failed start for itself
    return WandbRun(identity, "offline", None, journal, degraded)


def run_id(name: str, job_type: str, group: str | None = None) -> str:
    """Returns a run's id: readable, short enough for W&B, the same for the same work."""
    parts = "\0".join((name, job_type, group or ""))
    readable = re.sub(r"[^A-Za-z0-9_.-]+", "-", f"{job_type}-{name}")[:43]
    return f"{readable}-{hashlib.sha256(parts.encode()).hexdigest()[:12]}"


def prepare_environment(settings: Settings) -> None:
    """Sets the variables that W&B's library reads by itself, before it is imported or used anywhere."""
    folder = settings.home / "wandb"
    folder.mkdir(parents=True, exist_ok=True)
    for variable in ("WANDB_DIR", "WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR"):
        os.environ[variable] = str(folder)
    # The library stops at our words `auto` and `none`, and its own `disabled` breaks ART's logging.
    os.environ["WANDB_MODE"] = "online" if settings.tracking_mode == "online" else "offline"
    os.environ["WANDB_BASE_URL"] = settings.wandb_base_url  # the library's own default is another host
    os.environ["WANDB_SILENT"] = "true"
    os.environ["WANDB_ERROR_REPORTING"] = "false"
    os.environ["WANDB_DISABLE_WEAVE"] = "true"  # else a loaded weave calls the network, also offline


def _init(
    settings: Settings, identity: str, mode: Literal["online", "offline"], details: dict[str, Any]
) -> "wandb.Run":
    import wandb

    key = settings.wandb_api_key if mode == "online" else None
    return wandb.init(
        project=settings.wandb_project,
        entity=settings.wandb_entity,
        id=identity,
        mode=mode,
        resume="allow",
        reinit="create_new",
        dir=str(settings.home / "wandb"),
        settings=wandb.Settings(
            api_key=key.get_secret_value() if key else None,
            base_url=settings.wandb_base_url,
            silent=True,
            console="off",
            save_code=False,
            disable_code=True,
            disable_git=True,
            init_timeout=INIT_TIMEOUT,
            finish_timeout=FINISH_TIMEOUT,
            x_disable_stats=True,
            x_disable_meta=True,
            x_disable_machine_info=True,
            x_save_requirements=False,
        ),
        **details,
    )
