"""`babylon doctor`: is this installation able to run, and if not, what is missing?"""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import asyncpg

from babylon_rl.database.connection import Databases
from babylon_rl.database.drift import schema_drift
from babylon_rl.errors import BabylonError
from babylon_rl.logs import FILE, log_folder
from babylon_rl.orchestration.findings import Finding, Level
from babylon_rl.settings import Settings, get_settings

ENOUGH_DISK = 2 * 1024**3
"""Bytes: snapshots, checkpoints and the embedded server of a few simulated weeks."""
ROLES = ("babylon_reader", "babylon_judge", "babylon_trainer", "babylon_gateway")
SAMPLED = 1_000
"""Rows that are looked for in the game."""
SHOWN = 8
"""Differences of the schema that are shown one by one."""

_ROLES = "SELECT rolname FROM pg_roles WHERE rolname = ANY ($1::name[]) AND pg_has_role(oid, 'MEMBER')"
_KNOWN = """
SELECT trajectory_id FROM rl.window_rows WHERE excluded IS DISTINCT FROM 'deleted'
 ORDER BY created_at DESC LIMIT $1
"""
_PRESENT = 'SELECT count(*) FROM "trajectories" WHERE "trajectoryId" = ANY ($1::text[])'
_PRISMA = """
SELECT count(*) FILTER (WHERE finished_at IS NULL AND rolled_back_at IS NULL) AS unfinished, count(*) AS all
  FROM "_prisma_migrations"
"""


async def examine() -> list[Finding]:
    """Returns one finding per thing checked; changes nothing, except that it starts the embedded server."""
    try:
        settings = get_settings()
    except BabylonError as problem:
        return [Finding("bad", "settings", str(problem))]
    findings = [Finding("ok", "settings", "read")]
    findings += [Finding("note", "settings", warning) for warning in settings.warnings()]
    findings += _disk(settings.home)
    findings.append(_log_file(settings))
    findings += await _databases(settings)
    findings += _keys(settings)
    findings.append(_backend(settings))
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
    level: Level = "ok" if free >= ENOUGH_DISK else "bad"
    remedy = "" if level == "ok" else f"; free at least {ENOUGH_DISK / 1024**3:.0f} GiB or move BABYLON_HOME"
    yield Finding(level, "disk", f"{free / 1024**3:.1f} GiB free at {home}{remedy}")


def _log_file(settings: Settings) -> Finding:
    folder = log_folder(settings)
    existing = next(place for place in (folder, *folder.parents) if place.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        return Finding("bad", "log file", f"{existing} cannot be written; set LOGS_DIR to a folder of yours")
    return Finding("ok", "log file", str(folder / FILE))


async def _databases(settings: Settings) -> list[Finding]:
    from babylon_rl.database.connection import open_databases

    kind = "embedded server" if settings.database_url is None else "DATABASE_URL"
    findings: list[Finding] = []
    try:
        async with open_databases(settings, check=False) as db:
            version = await db.rl.fetchval("SHOW server_version")
            findings.append(Finding("ok", "database", f"{kind} answers (PostgreSQL {version})"))
            findings += await _game(db.game)
            findings += await _pipeline(db)
    except BabylonError as problem:
        findings.append(Finding("bad", "database", str(problem)))
    return findings


async def _game(game: asyncpg.Connection) -> list[Finding]:
    drifts = await schema_drift(game)
    findings = [
        Finding(drift.level, "game tables", f"{drift.where} {drift.text}") for drift in drifts[:SHOWN]
    ]
    if len(drifts) > SHOWN:
        worst = "bad" if any(drift.level == "bad" for drift in drifts[SHOWN:]) else "note"
        findings.append(Finding(worst, "game tables", f"{len(drifts) - SHOWN} more differences"))
    if not drifts:
        findings.append(Finding("ok", "game tables", "as the Prisma schema makes them"))
    if await game.fetchval("SELECT to_regclass('_prisma_migrations') IS NOT NULL"):
        row = await game.fetchrow(_PRISMA)
        if row is not None and row["unfinished"]:
            text = f"{row['unfinished']} of {row['all']} Prisma migrations did not finish"
            findings.append(Finding("bad", "game tables", f"{text}; see `prisma migrate status`"))
    return findings


async def _pipeline(db: Databases) -> list[Finding]:
    from babylon_rl.database.migrations import require_migrations

    try:
        await require_migrations(db.rl)
    except BabylonError as problem:
        return [Finding("bad", "schema rl", str(problem))]
    rows = await db.rl.fetchval("SELECT count(*) FROM rl.window_rows")
    findings = [Finding("ok", "schema rl", f"up to date, {rows} recorded rows known")]
    taken = {row["rolname"] for row in await db.rl.fetch(_ROLES, list(ROLES))}
    if missing := [role for role in ROLES if role not in taken]:
        remedy = "run `babylon migrate` as a user that may create roles"
        findings.append(Finding("bad", "roles", f"{', '.join(missing)} cannot be taken; {remedy}"))
    known = [row["trajectory_id"] for row in await db.rl.fetch(_KNOWN, SAMPLED)]
    present = await db.game.fetchval(_PRESENT, known) or 0
    if present < len(known) / 2:
        # `prisma migrate reset` empties the game's database; archives and RL_DATABASE_URL survive it.
        lost = f"{len(known) - present} of the {len(known)} newest known rows are gone from the game"
        remedy = "was it reset? `babylon restore --game-rows` brings archived ones back"
        findings.append(Finding("bad", "recorded rows", f"{lost}; {remedy}"))
    held = await db.rl.fetchval("SELECT count(*) FROM rl.quarantine WHERE released_at IS NULL")
    if held:
        findings.append(
            Finding("note", "recorded rows", f"{held} in quarantine; `babylon windows check` says why")
        )
    return findings


def _keys(settings: Settings) -> Iterator[Finding]:
    if settings.wandb_api_key is None:
        yield Finding("note", "W&B", f"no WANDB_API_KEY: tracking is {settings.tracking_mode}")
    elif settings.wandb_entity is None:
        yield Finding("bad", "W&B", "WANDB_API_KEY is set, WANDB_ENTITY is not; set it to your user or team")
    else:
        yield Finding("ok", "W&B", f"key and entity set, tracking is {settings.tracking_mode}")
    if settings.scorer.startswith("ruler"):
        if settings.judge_api_key is None and settings.openai_api_key is None:
            text = (
                f"SCORER={settings.scorer} needs JUDGE_API_KEY or OPENAI_API_KEY, unless the judge is local"
            )
            yield Finding("note" if settings.judge_base_url else "bad", "judge", text)
        else:
            yield Finding("ok", "judge", f"{settings.judge_model}, key set")


def _backend(settings: Settings) -> Finding:
    from babylon_rl.training.backends import choose_backend

    try:
        choice = choose_backend(settings)
    except BabylonError as problem:
        return Finding("bad", "training", str(problem))
    return Finding("ok", "training", f"{choice.name} ({choice.reason})")


def _dagster(settings: Settings) -> Finding:
    from babylon_rl.orchestration.instance import prepare_dagster_home

    try:
        home = prepare_dagster_home(settings)
    except BabylonError as problem:
        return Finding("bad", "DAGSTER_HOME", str(problem))
    return Finding("ok", "DAGSTER_HOME", f"{home}")
