"""The embedded server: started once, found by all, recovered after the worst."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg2
import pytest

from babylon_rl.database import binaries, cluster, postmaster
from babylon_rl.database.binaries import Account
from babylon_rl.database.cluster import Cluster, choose_socket_dir
from babylon_rl.database.connection import connect, dagster_dsn, resolve_dsn
from babylon_rl.database.embedded import destroy_server, ensure_server, stop_server
from babylon_rl.database.errors import EmbeddedServerError, SocketPathTooLongError
from babylon_rl.settings import Settings

ROOT = os.geteuid() == 0
START = "import sys; from pathlib import Path; from babylon_rl.database.embedded import ensure_server; "
START += "print(ensure_server(Path(sys.argv[1])).pid)"


@pytest.fixture
def home() -> Iterator[Path]:
    """A home that any account may enter, as `.babylon` in a shared folder is."""
    with tempfile.TemporaryDirectory(prefix="babylon-home-") as folder:
        Path(folder).chmod(0o711)
        yield Path(folder) / "home"
        destroy_server(Path(folder) / "home")


def query(dsn: str, statement: str) -> list[tuple]:
    with closing(psycopg2.connect(dsn)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetchall() if cursor.description else []


def wait_until_dead(pid: int) -> None:
    while postmaster.is_alive(pid):
        time.sleep(0.01)


def test_a_server_is_safe_small_and_in_utc(home: Path) -> None:
    server = ensure_server(home)
    again = ensure_server(home)
    assert server.started and not again.started
    assert again.pid == server.pid and postmaster.serves(server.pid, server.data)
    wanted = {
        "listen_addresses": "",
        "unix_socket_permissions": "0700",
        "TimeZone": "UTC",
        "fsync": "on",
        "synchronous_commit": "on",
        "max_connections": "100",
        "server_encoding": "UTF8",
        "data_checksums": "on",
    }
    for name, value in wanted.items():
        assert query(server.dsn(), f"SHOW {name}") == [(value,)], name
    assert query(server.dsn("dagster"), "SELECT current_database()") == [("dagster",)]
    methods = query(server.dsn(), "SELECT type, auth_method FROM pg_hba_file_rules")
    assert methods == [("local", "peer")]
    assert server.socket_dir.stat().st_mode & 0o077 == 0 and server.data.stat().st_mode & 0o077 == 0

    # Only used servers are spared, and a stopped one starts again with its data.
    with closing(psycopg2.connect(server.dsn())):
        assert stop_server(home, only_if_unused=True) is False
    assert stop_server(home) is True
    assert stop_server(home) is False
    assert not postmaster.serves(server.pid, server.data)


def test_a_home_that_makes_no_sense_is_explained(tmp_path: Path) -> None:
    assert stop_server(tmp_path) is False
    record = tmp_path / "postgres.json"
    record.write_text("{}")
    with pytest.raises(EmbeddedServerError, match="cannot be read"):
        ensure_server(tmp_path)
    record.write_text(json.dumps({"data": "postgres/data", "socket_dir": "postgres/run"}))
    with pytest.raises(EmbeddedServerError, match="holds no database"):
        ensure_server(tmp_path)
    data = tmp_path / "postgres" / "data"
    data.mkdir(parents=True)
    (data / "PG_VERSION").write_text("16\n")
    with pytest.raises(EmbeddedServerError, match="made by PostgreSQL 16"):
        ensure_server(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(EmbeddedServerError, match="cannot be made"):
        ensure_server(tmp_path / "file" / "home")


def test_a_socket_path_that_is_too_long_is_replaced_or_named(tmp_path: Path) -> None:
    account = Account.of_uid(os.geteuid())
    long = tmp_path / ("x" * 100)
    short = choose_socket_dir(long, account)
    assert len(str(short)) < 80 and short.stat().st_mode & 0o077 == 0
    short.rmdir()
    with pytest.raises(SocketPathTooLongError, match="longer than 103 bytes.*shorter path"):
        choose_socket_dir(long, account, exact=True)


def test_a_lock_that_is_held_too_long_is_named(tmp_path: Path) -> None:
    import filelock

    with filelock.FileLock(tmp_path / "postgres.lock", is_singleton=False):
        with pytest.raises(EmbeddedServerError, match="postgres.lock"):
            ensure_server(tmp_path, start_timeout=0.2)


def test_only_a_postmaster_of_the_same_folder_counts_as_running(tmp_path: Path) -> None:
    (tmp_path / "postmaster.pid").write_text(f"{os.getpid()}\n{tmp_path}\n")
    assert postmaster.recorded_pid(tmp_path) == os.getpid()
    assert postmaster.running_pid(tmp_path) is None
    (tmp_path / "postmaster.pid").write_text("")
    assert postmaster.recorded_pid(tmp_path) is None


@pytest.mark.long
def test_three_first_starts_at_once_make_one_server(home: Path) -> None:
    starts = [
        subprocess.Popen([sys.executable, "-c", START, home], stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    pids = {start.communicate()[0].strip() for start in starts}
    assert [start.returncode for start in starts] == [0, 0, 0]
    # It also outlives all of them.
    assert pids == {str(ensure_server(home).pid)}


@pytest.mark.long
def test_a_killed_postmaster_is_recovered_with_all_that_was_committed(home: Path) -> None:
    server = ensure_server(home)
    query(server.dsn(), "CREATE TABLE kept (n int)")
    for n in range(3):
        query(server.dsn(), f"INSERT INTO kept VALUES ({n})")
        with closing(psycopg2.connect(server.dsn())):  # its backend survives the postmaster for a moment
            os.kill(server.pid, signal.SIGKILL)
            restarted = ensure_server(home)
        assert restarted.started and restarted.pid != server.pid
        assert query(restarted.dsn(), "SELECT count(*) FROM kept") == [(n + 1,)]
        server = restarted


@pytest.mark.long
def test_a_stale_pid_file_does_not_block_a_start(home: Path) -> None:
    server = ensure_server(home)
    os.kill(server.pid, signal.SIGKILL)
    wait_until_dead(server.pid)
    time.sleep(0.5)  # the children
    pid_file = server.data / "postmaster.pid"
    pid_file.write_text(pid_file.read_text().replace(str(server.pid), str(os.getpid()), 1))
    lock_file = server.socket_dir / ".s.PGSQL.5432.lock"
    lock_file.write_text(lock_file.read_text().replace(str(server.pid), str(os.getpid()), 1))
    assert ensure_server(home).started


@pytest.mark.long
def test_a_server_that_cannot_start_says_why(home: Path) -> None:
    server = ensure_server(home)
    stop_server(home)
    (server.data / "postgresql.auto.conf").write_text("shared_buffers = 'much'\n")
    with pytest.raises(EmbeddedServerError, match="shared_buffers|contains errors"):
        ensure_server(home)
    (server.data / "postgresql.auto.conf").write_text("")
    assert ensure_server(home).started


@pytest.mark.long
def test_a_deleted_home_leaves_no_server_behind(home: Path) -> None:
    old = ensure_server(home)
    shutil.rmtree(home)
    new = ensure_server(home)
    assert not postmaster.serves(old.pid, old.data) or old.data != new.data
    assert query(new.dsn(), "SELECT count(*) FROM pg_stat_activity WHERE datname = 'babylon'") == [(1,)]


@pytest.mark.long
def test_a_home_can_be_moved(home: Path) -> None:
    query(ensure_server(home).dsn(), "CREATE TABLE kept (n int)")
    stop_server(home)
    moved = home.with_name("moved")
    home.rename(moved)
    try:
        assert query(ensure_server(moved).dsn(), "SELECT count(*) FROM kept") == [(0,)]
    finally:
        destroy_server(moved)


@pytest.mark.long
def test_without_an_address_the_embedded_server_is_used_and_migrated(home: Path) -> None:
    settings = Settings(_env_file=None, babylon_home=home, database_url=None, dagster_pg=None)

    async def inside_a_loop() -> tuple[str, object]:
        dsn = resolve_dsn(settings)
        connection = await connect(dsn, role="babylon_reader")
        count = await connection.fetchval("SELECT count(*) FROM rl.migrations WHERE sha256 IS NOT NULL")
        await connection.close()
        return dsn, count

    dsn, count = asyncio.run(inside_a_loop())
    assert resolve_dsn(settings) == dsn and isinstance(count, int) and count >= 6
    assert query(dagster_dsn(settings), "SELECT current_database()") == [("dagster",)]


if ROOT:  # what only root can try, and only root has to

    @pytest.mark.long
    def test_a_private_home_of_root_stays_private(monkeypatch: pytest.MonkeyPatch) -> None:
        with tempfile.TemporaryDirectory() as private, tempfile.TemporaryDirectory() as shared:
            Path(shared).chmod(0o755)
            monkeypatch.setattr(cluster, "_SHARED_FOLDERS", (Path(shared) / "babylon",))
            home = Path(private) / "home"
            server = ensure_server(home)
            try:
                assert Path(private).stat().st_mode & 0o777 == 0o700
                assert server.data.is_relative_to(shared) and server.data.stat().st_uid != 0
                assert (server.data.parent / "HOME").read_text().strip() == str(home.resolve())
                assert ensure_server(home).pid == server.pid
                # The same path again after a deletion: a new database, and the old server is gone.
                shutil.rmtree(home)
                new = ensure_server(home)
                assert new.data != server.data and not postmaster.serves(server.pid, server.data)
            finally:
                destroy_server(home)

    @pytest.mark.long
    def test_programs_in_a_private_environment_are_copied(
        home: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        wheel = binaries.wheel_folder()
        with tempfile.TemporaryDirectory() as private, tempfile.TemporaryDirectory() as shared:
            Path(shared).chmod(0o755)
            install = f"pginstall{binaries.MAJOR_VERSION}"
            shutil.copytree(wheel / install, Path(private) / wheel.name / install, symlinks=True)
            libraries = wheel.with_name(f"{wheel.name}.libs")
            shutil.copytree(libraries, Path(private) / libraries.name)
            monkeypatch.setattr(binaries, "wheel_folder", lambda: Path(private) / wheel.name)
            monkeypatch.setattr(cluster, "_SHARED_FOLDERS", (Path(shared) / "babylon",))
            server = ensure_server(home)
            assert query(server.dsn(), "SELECT 1") == [(1,)]
            assert len(list((Path(shared) / "babylon").glob("postgresql-18*"))) == 1
            destroy_server(home)

    @pytest.mark.long
    def test_a_normal_user_s_server_is_theirs(home: Path) -> None:
        nobody = Account.of_uid(65534)
        os.chown(home.parent, nobody.uid, nobody.gid)
        child = os.fork()
        if child == 0:
            code = 1
            try:
                os.setgroups([])
                os.setgid(nobody.gid)
                os.setuid(nobody.uid)
                server = ensure_server(home)
                code = 0 if query(server.dsn(), "SELECT current_user") == [("babylon",)] else 2
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        found = Cluster.load(home)
        assert found is not None and found.account() == nobody
        server = ensure_server(home)  # root may use it, and restarts it as its owner
        assert not server.started
        os.kill(server.pid, signal.SIGKILL)
        assert ensure_server(home).started
        assert found.account() == nobody
