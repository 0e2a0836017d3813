"""`babylon doctor --production`: the five items of seed 000's checklist, each looked at, not ticked.

1. RL disabled by default. 2. W&B credentials in secure environment variables. 3. Fallback to the base model.
4. Monitoring and alerting. 5. Model validation before deployment.
"""

import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg
from dotenv import dotenv_values

from babylon_rl.errors import BabylonError
from babylon_rl.orchestration.findings import Finding
from babylon_rl.settings import Settings, project_folder

if TYPE_CHECKING:
    import dagster as dg

OFF, KEYS, FALLBACK, WATCHED, GATED = (
    "1. RL off by default",
    "2. credentials",
    "3. fallback",
    "4. monitoring",
    "5. validation",
)
FRESH = 300.0
"""Seconds since its last sign of life within which a daemon counts as running."""
STRICTEST_ALPHA = 0.1
DAEMONS = ("SENSOR", "SCHEDULER", "QUEUED_RUN_COORDINATOR")
WATCHING = ("run_failures", "alerts", "window_readiness")
"""Sensors that must run: two call somebody, the other notices that windows wait."""

_SECRETS = ("WANDB_API_KEY", "DATABASE_URL", "RL_DATABASE_URL", "OPENAI_API_KEY", "JUDGE_API_KEY")
_ACTIVE = """
SELECT model.version, model.verdict, deployment.reason
  FROM rl.deployments AS deployment JOIN rl.models AS model USING (version)
 WHERE deployment.role = 'active' AND deployment.ended_at IS NULL
"""
_BASE = "SELECT storage_path FROM rl.models WHERE version = 'v0.0.0' AND status <> 'failed'"


async def checklist(settings: Settings) -> list[Finding]:
    """Returns the findings of all five items, in their order."""
    from babylon_rl.database.connection import open_databases

    findings = [*_off_by_default(settings), *_credentials(settings)]
    try:
        async with open_databases(settings) as db:
            findings += await _fallback(settings, db.rl)
            gated = await _gated(settings, db.rl)
    except BabylonError as problem:
        gated = [Finding("bad", item, str(problem)) for item in (FALLBACK, GATED)]
    return [*findings, *_watched(settings), *gated]


def _off_by_default(settings: Settings) -> Iterator[Finding]:
    if not settings.is_production:
        text = "this is no production installation, so RL is on by default; set BABYLON_ENV=production"
        yield Finding("bad", OFF, text)
    elif settings.use_rl_model:
        text = f"USE_RL_MODEL=true turns RL on, for {settings.rl_rollout_percentage:g} % of the agents"
        yield Finding("note", OFF, text)
    else:
        yield Finding("ok", OFF, "USE_RL_MODEL is not true")


def _credentials(settings: Settings) -> Iterator[Finding]:
    wanted = settings.rl_model_enabled or settings.training_backend == "serverless"
    has_key, has_entity = settings.wandb_api_key is not None, settings.wandb_entity is not None
    if has_key and has_entity:
        yield Finding("ok", KEYS, "WANDB_API_KEY and WANDB_ENTITY are set")
    elif has_key or has_entity or settings.training_backend == "serverless":
        yield Finding("bad", KEYS, "set both WANDB_API_KEY and WANDB_ENTITY")
    else:
        use = "RL is on without W&B: only checkpoints of this machine are served" if wanted else "none needed"
        yield Finding("note", KEYS, f"no W&B credentials; {use}")
    yield from _env_file(project_folder() / ".env")


def _env_file(path: Path) -> Iterator[Finding]:
    """Whether a `.env` with secrets can be read by others or has gone into the repository."""
    if not path.is_file():
        return
    held = [name for name in _SECRETS if dotenv_values(path).get(name)]
    if not held:
        return
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        text = f"{path} holds {', '.join(held)} and others may read it (mode {mode:o}); chmod 600 it"
        yield Finding("bad", KEYS, text)
    command = ["git", "ls-files", "--error-unmatch", path.name]
    try:
        tracked = subprocess.run(command, cwd=path.parent, capture_output=True, timeout=10).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        tracked = False
    if tracked:
        text = f"{path} holds {', '.join(held)} and is in git; remove it there and change the keys"
        yield Finding("bad", KEYS, text)


async def _fallback(settings: Settings, rl: asyncpg.Connection) -> list[Finding]:
    if not settings.rl_fallback_to_base:
        text = "RL_FALLBACK_TO_BASE=false: a broken model leaves the agents mute; remove it"
        return [Finding("bad", FALLBACK, text)]
    row = await rl.fetchrow(_BASE)
    if row is None:
        text = "no base model is registered; `babylon train` or `babylon serve` registers it"
        return [Finding("bad", FALLBACK, text)]
    stored = row["storage_path"] or ""
    if stored.startswith("file://"):
        from babylon_rl.policy.checkpoints import verify_checkpoint
        from babylon_rl.policy.errors import CheckpointError

        try:
            verify_checkpoint(Path(stored.removeprefix("file://")))
        except CheckpointError as problem:
            return [Finding("bad", FALLBACK, f"the base model cannot be loaded: {problem}")]
    return [
        Finding("ok", FALLBACK, f"the base model answers where a trained one fails ({stored or 'remote'})")
    ]


def _watched(settings: Settings) -> list[Finding]:
    from babylon_rl.orchestration.instance import open_instance

    try:
        with open_instance(settings) as instance:
            silent, stopped = _silent_daemons(instance), _stopped_sensors(instance)
    except BabylonError as problem:
        return [Finding("bad", WATCHED, str(problem))]
    if silent:
        text = (
            f"Dagster's daemon gives no sign of life ({', '.join(silent)}); start it (`dagster-daemon run`)"
        )
        return [Finding("bad", WATCHED, text)]
    if stopped:
        return [Finding("bad", WATCHED, f"turned off: {', '.join(stopped)}; turn it on in the Dagster UI")]
    findings = [Finding("ok", WATCHED, f"the daemon runs, with {', '.join(WATCHING)}")]
    if settings.alert_webhook_url is None and settings.discord_webhook_url is None:
        text = "ALERT_WEBHOOK_URL is not set: alerts are in the log file and the UI, nobody is called"
        findings.append(Finding("note", WATCHED, text))
    return findings


def _silent_daemons(instance: "dg.DagsterInstance") -> list[str]:
    beats = instance.get_daemon_heartbeats()
    now = time.time()
    alive = {name for name, beat in beats.items() if now - beat.timestamp < FRESH}
    return [name for name in DAEMONS if name not in alive]


def _stopped_sensors(instance: "dg.DagsterInstance") -> list[str]:
    """Sensors that a person turned off; untouched ones follow their default, which is on in production."""
    from dagster._core.scheduler.instigation import InstigatorStatus

    stopped = {
        state.instigator_name
        for state in instance.all_instigator_state()
        if state.status == InstigatorStatus.STOPPED
    }
    return [name for name in WATCHING if name in stopped]


async def _gated(settings: Settings, rl: asyncpg.Connection) -> list[Finding]:
    findings = []
    if settings.gate_alpha > STRICTEST_ALPHA:
        text = (
            f"GATE_ALPHA={settings.gate_alpha:g} lets chance promote models; set at most {STRICTEST_ALPHA:g}"
        )
        findings.append(Finding("bad", GATED, text))
    if settings.gate_threshold < 0:
        text = f"GATE_THRESHOLD={settings.gate_threshold:g} promotes models that are worse; set 0 or more"
        findings.append(Finding("bad", GATED, text))
    active = await rl.fetchrow(_ACTIVE)
    if active is None:
        findings.append(Finding("ok", GATED, "nothing is deployed; only what the gate promotes will be"))
    elif active["version"] == "v0.0.0" or active["verdict"] == "promoted":
        findings.append(Finding("ok", GATED, f"{active['version']} passed the gate, or is the base model"))
    else:
        verdict = active["verdict"] or "not judged"
        text = f"{active['version']} serves although it is {verdict} ({active['reason']}); "
        findings.append(Finding("bad", GATED, f"{text}benchmark it, or `babylon rollback`"))
    return findings
