"""`babylon doctor`: is this installation able to run, and if not, what is missing?"""

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from babylon_rl.errors import BabylonError
from babylon_rl.settings import Settings, get_settings

ENOUGH_DISK = 2 * 1024**3
"""Bytes: snapshots, checkpoints and the embedded server of a few simulated weeks."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        level: `ok`, `note` (works, but know this) or `bad` (something will fail).
        subject: What was looked at.
        text: What was found, and the remedy where one is needed.
    """

    level: Literal["ok", "note", "bad"]
    subject: str
    text: str


async def examine() -> list[Finding]:
    """Returns one finding per thing checked; changes nothing, except that it starts the embedded server."""
    try:
        settings = get_settings()
    except BabylonError as problem:
        return [Finding("bad", "settings", str(problem))]
    findings = [Finding("ok", "settings", "read")]
    findings += [Finding("note", "settings", warning) for warning in settings.warnings()]
    findings += _disk(settings.home)
    findings += await _databases(settings)
    findings += _keys(settings)
    findings.append(_dagster(settings))
    return findings


def _disk(home: Path) -> Iterator[Finding]:
    existing = next(folder for folder in (home, *home.parents) if folder.exists())
    if not os.access(existing, os.W_OK):
        yield Finding(
            "bad", "BABYLON_HOME", f"{existing} cannot be written; set BABYLON_HOME to a folder of yours"
        )
        return
    free = shutil.disk_usage(existing).free
    level = "ok" if free >= ENOUGH_DISK else "bad"
    remedy = "" if level == "ok" else f"; free at least {ENOUGH_DISK / 1024**3:.0f} GiB or move BABYLON_HOME"
    yield Finding(level, "disk", f"{free / 1024**3:.1f} GiB free at {home}{remedy}")


async def _databases(settings: Settings) -> list[Finding]:
    from babylon_rl.database.connection import open_databases

    kind = "embedded server" if settings.database_url is None else "DATABASE_URL"
    try:
        async with open_databases(settings) as db:
            version = await db.rl.fetchval("SHOW server_version")
            rows = await db.rl.fetchval("SELECT count(*) FROM rl.window_rows")
            return [
                Finding("ok", "database", f"{kind} answers (PostgreSQL {version})"),
                Finding("ok", "schema", f"rl is up to date, {rows} recorded rows known"),
            ]
    except BabylonError as problem:
        return [Finding("bad", "database", str(problem))]


def _keys(settings: Settings) -> Iterator[Finding]:
    if settings.wandb_api_key is None:
        yield Finding("note", "W&B", f"no WANDB_API_KEY: tracking is {settings.tracking_mode}")
    elif settings.wandb_entity is None:
        yield Finding("bad", "W&B", "WANDB_API_KEY is set, WANDB_ENTITY is not; set it to your user or team")
    else:
        yield Finding("ok", "W&B", f"key and entity set, tracking is {settings.tracking_mode}")


def _dagster(settings: Settings) -> Finding:
    from babylon_rl.orchestration.instance import prepare_dagster_home

    try:
        home = prepare_dagster_home(settings)
    except BabylonError as problem:
        return Finding("bad", "DAGSTER_HOME", str(problem))
    return Finding("ok", "DAGSTER_HOME", f"{home}")
