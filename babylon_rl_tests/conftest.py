"""Fixtures of all rooms: a real PostgreSQL for the session, a fresh migrated database for each test.

    @pytest.mark.anyio
    async def test_something(connection): ...      # an asyncpg connection to a database of this test's own

`dsn` is that database's address, `empty_dsn` one without any table, `settings` (and the environment) point at
`dsn` and at an empty BABYLON_HOME. The tiny base model is built once: `base_checkpoint` is its directory,
`base_engine` answers with it, and `home_with_base` is a BABYLON_HOME that has it already.
"""

import asyncio
import itertools
import os
import secrets
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import hypothesis
import psycopg2
import pytest

from babylon_rl.database.connection import connect
from babylon_rl.database.embedded import EmbeddedServer, destroy_server, ensure_server
from babylon_rl.database.migrations import migrate
from babylon_rl.settings import Settings, get_settings
from babylon_rl_tests.skipping import skips_fail

if TYPE_CHECKING:
    from babylon_rl.policy.engine import EmbeddedEngine

_numbers = itertools.count(1)
_prefix = f"babylon_test_{secrets.token_hex(3)}"


class Server:
    """Where tests make databases: TEST_DATABASE_URL, or an embedded server of the session's own."""

    def __init__(self, address: Callable[[str], str], admin_dsn: str) -> None:
        self.dsn = address
        self.admin_dsn = admin_dsn

    @classmethod
    def embedded(cls, server: EmbeddedServer) -> "Server":
        return cls(server.dsn, server.dsn("postgres"))

    @classmethod
    def external(cls, dsn: str) -> "Server":
        parts = urlsplit(dsn)
        return cls(lambda database: urlunsplit(parts._replace(path=f"/{database}")), dsn)

    def execute(self, *statements: str) -> None:
        with closing(psycopg2.connect(self.admin_dsn)) as admin:
            admin.autocommit = True
            with admin.cursor() as cursor:
                for statement in statements:
                    cursor.execute(statement)

    def create(self, template: str | None = None) -> str:
        """Makes a database and returns its name."""
        name = f"{_prefix}_{next(_numbers)}"
        self.execute(f'CREATE DATABASE "{name}"' + (f' TEMPLATE "{template}"' if template else ""))
        # What marks a server as ours also allows the game's tables in these databases; see migrations.py.
        self.execute(f"ALTER DATABASE \"{name}\" SET babylon.server = 'embedded'")
        return name

    def drop(self, name: str) -> None:
        self.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


# A script's shell starts what it puts in the background with SIGINT ignored. Dagster gives SIGTERM the same,
# every child inherits it, and each run in a test then waits a minute for children that it cannot end.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The same examples each time and no deadlines: a slow or unlucky moment must not fail a change.
hypothesis.settings.register_profile("untimed", deadline=None, derandomize=True)
hypothesis.settings.load_profile("untimed")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def server_home() -> Iterator[Path]:
    """The BABYLON_HOME of the session's embedded server; removed at the end."""
    with tempfile.TemporaryDirectory(prefix="babylon-tests-") as folder:
        Path(folder).chmod(0o711)  # as root the server runs under another account
        yield Path(folder) / "home"


@pytest.fixture(scope="session")
def server(server_home: Path) -> Iterator[Server]:
    external = os.environ.get("TEST_DATABASE_URL")
    if external:
        yield Server.external(external)
        return
    try:
        made = Server.embedded(ensure_server(server_home))
        # Databases come and go with every test; none has to survive a power cut.
        made.execute("ALTER SYSTEM SET fsync = off", "SELECT pg_reload_conf()")
        yield made
    finally:
        destroy_server(server_home)


@pytest.fixture(scope="session")
def template(server: Server) -> Iterator[str]:
    """The name of a migrated database that each test's own is copied from."""
    name = server.create()
    asyncio.run(migrate(server.dsn(name), embedded=True))
    yield name
    server.drop(name)


@pytest.fixture
def dsn(server: Server, template: str) -> Iterator[str]:
    """The address of a fresh, migrated database with game tables and our marker."""
    name = server.create(template)
    yield server.dsn(name)
    server.drop(name)


@pytest.fixture
def empty_dsn(server: Server) -> Iterator[str]:
    """The address of a fresh database without any table, on a server that counts as ours."""
    name = server.create()
    yield server.dsn(name)
    server.drop(name)


@pytest.fixture
async def connection(anyio_backend: str, dsn: str) -> AsyncIterator[asyncpg.Connection]:
    opened = await connect(dsn)
    yield opened
    await opened.close()


@pytest.fixture
def settings(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Settings]:
    """Default settings on the test's database and an empty home; `get_settings()` gives equal ones."""
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("BABYLON_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DATABASE_URL", request.getfixturevalue("dsn"))
    get_settings.cache_clear()
    yield Settings(_env_file=None)
    get_settings.cache_clear()


@pytest.fixture(scope="session")
def base_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of the tiny base model; nobody writes into it. Torch stays on one thread."""
    import torch

    from babylon_rl.training.tiny_base import ensure_base_model

    torch.set_num_threads(1)
    return ensure_base_model(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="session")
def base_engine(base_checkpoint: Path) -> "EmbeddedEngine":
    """The base model, answering as v0.0.0; nobody trains it."""
    from babylon_rl.policy.engine import EmbeddedEngine

    return EmbeddedEngine.load(base_checkpoint, "v0.0.0")


@pytest.fixture
def home_with_base(settings: Settings, base_checkpoint: Path) -> Path:
    """`settings.home` with a copy of the base model, so that no test builds it again."""
    shutil.copytree(base_checkpoint, settings.home / "models" / base_checkpoint.name)
    return settings.home


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo):
    """Under BABYLON_REQUIRE_ALL=1 a skip fails, however it came about."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and skips_fail():
        report.outcome = "failed"
        report.longrepr = f"skipped although BABYLON_REQUIRE_ALL is set: {report.longrepr}"
    return report
