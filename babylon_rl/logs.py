"""The log file: `app.log` in LOGS_DIR, one JSON object per line, shared by all processes of an installation.

    start_logging(settings)                       # once per process: the loggers `babylon_rl.…` write there
    grep -i "RL model" .babylon/logs/app.log      # finds it, and each model that was deployed or rolled back

A line holds `time` (UTC), `level`, `logger`, `message`, `process`, Dagster's `run` and `step` where there is
one, the mapping given as `extra={"data": …}`, and an exception's text. Values of secret settings, passwords
in addresses and bearer tokens are replaced by ***.
"""

import logging
import os
import re
import traceback
from contextlib import suppress
from datetime import UTC, datetime
from logging.handlers import WatchedFileHandler
from pathlib import Path
from typing import Any

import filelock
import msgspec
from pydantic import SecretStr

from babylon_rl.errors import BabylonError
from babylon_rl.settings import Settings, get_settings, project_folder

FILE = "app.log"
LARGEST = 20 * 1024 * 1024
KEPT = 5
"""Bytes at which a starting process sets the file aside, and how many older ones are kept as app.log.1, …."""

# Bounded repetitions: a long line must not cost its length squared.
_ADDRESS = re.compile(r"\b([a-zA-Z][a-zA-Z0-9+.-]{1,20}://[^\s:/@]{0,100}):[^\s@]{1,200}@")
_BEARER = re.compile(r"(?i)\b(bearer )[A-Za-z0-9._~+/=-]{8,}")
_NAMED = re.compile(r"(?i)((?:token|key|password|secret)\\?[\"']?\s*[:=]\s*\\?[\"']?)[A-Za-z0-9._~+/-]{8,}")
_SHORTEST = 6
log = logging.getLogger(__name__)


def log_folder(settings: Settings) -> Path:
    """LOGS_DIR as an absolute path; relative ones start at the project's folder."""
    if settings.logs_dir is None:
        return settings.home / "logs"
    return (project_folder() / settings.logs_dir.expanduser()).resolve()


def start_logging(settings: Settings) -> None:
    """Makes this process's loggers of babylon_rl write to the log file; a second call changes nothing.

    Warnings go to standard error as well, as they do without a log file. A folder that cannot be written
    costs the file, not the process.
    """
    ours = logging.getLogger("babylon_rl")
    if any(isinstance(handler, AppLog) for handler in ours.handlers):
        return
    ours.addHandler(AppLog(settings))
    ours.setLevel(settings.log_level)
    if not logging.getLogger().handlers:
        console = logging.StreamHandler()
        console.setLevel(logging.WARNING)
        ours.addHandler(console)


class AppLog(WatchedFileHandler):
    """Appends records to the log file, each in one write, so that lines of several processes never mix.

    Dagster makes one without arguments (`dagster.yaml`), which then follows the environment.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        self._secrets: list[str] = []
        path = Path(os.devnull)
        try:
            settings = settings or get_settings()
            self._secrets = _secrets(settings)
            path = log_folder(settings) / FILE
        except BabylonError as problem:
            log.warning("there is no log file: %s", problem)
        super().__init__(path, encoding="utf-8", delay=True)
        self.setFormatter(JsonLines(self._secrets))
        if settings is not None:
            self.setLevel(settings.log_level)

    def _open(self) -> Any:
        # Appends of whole lines; nobody else may read what agents said.
        if self.baseFilename != os.devnull:
            _prepare(Path(self.baseFilename))
        descriptor = os.open(self.baseFilename, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        return os.fdopen(descriptor, "a", buffering=1 << 20, encoding=self.encoding, errors="replace")

    def emit(self, record: logging.LogRecord) -> None:
        """Appends a record, unless Dagster passes it on from a logger that writes here by itself."""
        if hasattr(record, "dagster_meta") and record.name.startswith("babylon_rl"):
            handlers = logging.getLogger("babylon_rl").handlers
            if any(isinstance(handler, AppLog) and handler is not self for handler in handlers):
                return
        with suppress(OSError):
            super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:
        """A log that cannot be written must not stop what is logged."""


class JsonLines(logging.Formatter):
    """A record as one line of JSON, without secrets."""

    def __init__(self, secrets: list[str] | None = None) -> None:
        super().__init__()
        self._secrets = secrets or []

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            "process": record.process,
        }
        dagster = getattr(record, "dagster_meta", None)
        if isinstance(dagster, dict):
            line |= {"run": dagster.get("run_id"), "step": dagster.get("step_key")}
        if isinstance(data := getattr(record, "data", None), dict):
            line["data"] = data
        if record.exc_info:
            line["exception"] = "".join(traceback.format_exception(*record.exc_info))
        return self._redacted(msgspec.json.encode(line, enc_hook=str).decode())

    def _redacted(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "***")
        for pattern, shown in ((_ADDRESS, r"\1:***@"), (_BEARER, r"\1***"), (_NAMED, r"\1***")):
            text = pattern.sub(shown, text)
        return text


def _secrets(settings: Settings) -> list[str]:
    values = [getattr(settings, name) for name in type(settings).model_fields]
    found = [value.get_secret_value() for value in values if isinstance(value, SecretStr)]
    parts = {part.strip() for value in found for part in (value, *re.split("[,=]", value))}
    written = parts | {msgspec.json.encode(part).decode()[1:-1] for part in parts}
    return sorted((part for part in written if len(part) >= _SHORTEST), key=len, reverse=True)


def _prepare(path: Path) -> None:
    """Makes the folder, and sets a large file aside; other processes notice and open the new one."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.exists() and path.stat().st_size > LARGEST:
        with filelock.FileLock(path.with_suffix(".lock"), timeout=10):
            if path.exists() and path.stat().st_size > LARGEST:
                for number in range(KEPT - 1, 0, -1):
                    older = path.with_name(f"{FILE}.{number}")
                    if older.exists():
                        older.replace(path.with_name(f"{FILE}.{number + 1}"))
                path.replace(path.with_name(f"{FILE}.1"))
