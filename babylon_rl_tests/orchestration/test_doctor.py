"""`babylon doctor`: what is wrong and what to do about it, and the five items of the production checklist."""

import subprocess
from datetime import UTC, datetime
from pathlib import Path

import asyncpg
import dagster as dg
import pytest

from babylon_rl.orchestration import production
from babylon_rl.orchestration.doctor import examine
from babylon_rl.orchestration.findings import Finding
from babylon_rl.orchestration.production import checklist
from babylon_rl.records.reader import refresh_window_rows
from babylon_rl.settings import Settings, get_settings
from babylon_rl_tests.game_rows import add_trajectory

pytestmark = pytest.mark.anyio


def find(findings: list[Finding], subject: str) -> list[tuple[str, str]]:
    return [(finding.level, finding.text) for finding in findings if finding.subject == subject]


@pytest.fixture
def here(settings: Settings, monkeypatch: pytest.MonkeyPatch, empty_dsn: str, tmp_path: Path) -> Settings:
    """The test's database, a Dagster storage of its own, and a project folder without `.env`."""
    monkeypatch.setenv("DAGSTER_PG", empty_dsn)
    monkeypatch.chdir(tmp_path)
    get_settings.cache_clear()
    return get_settings()


async def doctor(monkeypatch: pytest.MonkeyPatch, **variables: str) -> list[Finding]:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    get_settings.cache_clear()
    return await examine()


async def test_a_healthy_installation(here: Settings) -> None:
    findings = await examine()
    assert [f for f in findings if f.level == "bad"] == []
    assert find(findings, "game tables") == [("ok", "as the Prisma schema makes them")]
    assert find(findings, "schema rl") == [("ok", "up to date, 0 recorded rows known")]
    assert find(findings, "log file") == [("ok", str(here.home / "logs" / "app.log"))]
    assert find(findings, "training")[0][1].startswith("embedded (auto: no WANDB_API_KEY")
    assert find(findings, "W&B") == [("note", "no WANDB_API_KEY: tracking is offline")]


async def test_each_fault_is_named_with_its_remedy(
    here: Settings, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    await connection.execute('ALTER TABLE "Market" DROP COLUMN "resolution"')
    await connection.execute(
        """CREATE TABLE "_prisma_migrations" (finished_at timestamptz, rolled_back_at timestamptz);
           INSERT INTO "_prisma_migrations" VALUES (NULL, NULL), (now(), NULL)"""
    )
    await connection.execute("DELETE FROM rl.migrations WHERE name = '011_add_seed_views'")
    findings = await doctor(monkeypatch, SCORER="ruler", WANDB_API_KEY="key-of-mine", LOGS_DIR=__file__)
    games = find(findings, "game tables")
    assert ("bad", '"Market"."resolution" is missing; run the game\'s Prisma migrations') in games
    assert any("1 of 2 Prisma migrations did not finish" in text for _, text in games)
    ((level, text),) = find(findings, "schema rl")
    assert level == "bad" and "011_add_seed_views" in text and "babylon migrate" in text
    assert find(findings, "W&B")[0][0] == "bad" and "WANDB_ENTITY" in find(findings, "W&B")[0][1]
    assert find(findings, "judge")[0][0] == "bad" and "JUDGE_API_KEY" in find(findings, "judge")[0][1]
    assert find(findings, "log file")[0][0] == "bad" and "LOGS_DIR" in find(findings, "log file")[0][1]
    assert "key-of-mine" not in str(findings)


async def test_a_setting_that_is_wrong_is_the_only_finding(
    here: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    (finding,) = await doctor(monkeypatch, GATE_ALPHA="2")
    assert finding.level == "bad" and "GATE_ALPHA" in finding.text


async def test_lost_game_rows_are_noticed(here: Settings, connection: asyncpg.Connection) -> None:
    for _ in range(3):
        await add_trajectory(connection)
    await refresh_window_rows(connection, connection)
    assert find(await examine(), "recorded rows") == []
    await connection.execute('DELETE FROM "trajectories"')
    ((level, text),) = find(await examine(), "recorded rows")
    assert level == "bad" and "3 of the 3 newest" in text and "babylon restore" in text


class Production:
    """A production installation that fulfils all five items, to be spoiled one by one."""

    def __init__(self, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch) -> None:
        self.connection, self.monkeypatch = connection, monkeypatch
        for name, value in {
            "NODE_ENV": "production",
            "WANDB_API_KEY": "key-of-mine",
            "WANDB_ENTITY": "team",
            "WANDB_MODE": "offline",
        }.items():
            monkeypatch.setenv(name, value)

    async def check(self, **variables: str) -> dict[str, list[tuple[str, str]]]:
        for name, value in variables.items():
            self.monkeypatch.setenv(name, value)
        get_settings.cache_clear()
        findings = await checklist(get_settings())
        items = (production.OFF, production.KEYS, production.FALLBACK, production.WATCHED, production.GATED)
        return {item: find(findings, item) for item in items}


@pytest.fixture
async def installed(
    here: Settings, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> Production:
    await connection.execute(
        "INSERT INTO rl.models (version, model_id, base_model, status, storage_path)"
        " VALUES ('v0.0.0', 'base', 'qwen', 'ready', 'wandb-artifact:///e/p/base:step0')"
    )
    return Production(connection, monkeypatch)


def beat(instance: dg.DagsterInstance, seconds_ago: float = 0.0) -> None:
    from dagster._daemon.types import DaemonHeartbeat

    for daemon in production.DAEMONS:
        instance.add_daemon_heartbeat(
            DaemonHeartbeat(datetime.now(UTC).timestamp() - seconds_ago, daemon, None, [])
        )


async def test_all_five_items_can_be_fulfilled(installed: Production) -> None:
    from babylon_rl.orchestration.instance import open_instance

    first = await installed.check()
    assert [found[0][0] for found in first.values()] == ["ok", "ok", "ok", "bad", "ok"]
    assert "dagster-daemon run" in first[production.WATCHED][0][1]
    with open_instance(get_settings()) as instance:
        beat(instance)
    later = await installed.check()
    assert [found[0][0] for found in later.values()] == ["ok"] * 5
    assert later[production.WATCHED][1][0] == "note"  # nobody is called
    with open_instance(get_settings()) as instance:
        beat(instance, seconds_ago=production.FRESH + 60)
    assert (await installed.check())[production.WATCHED][0][0] == "bad"


async def test_each_item_is_enforced(installed: Production, tmp_path: Path) -> None:
    assert (await installed.check(USE_RL_MODEL="true"))[production.OFF][0][0] == "note"
    assert (await installed.check(USE_RL_MODEL="false"))[production.OFF][0][0] == "ok"
    assert (await installed.check(NODE_ENV="development"))[production.OFF][0][0] == "bad"
    assert (await installed.check(RL_FALLBACK_TO_BASE="false"))[production.FALLBACK][0][0] == "bad"
    assert (await installed.check(GATE_ALPHA="0.5"))[production.GATED][0][0] == "bad"
    assert (await installed.check(GATE_THRESHOLD="-0.1"))[production.GATED][1][0] == "bad"
    found = (await installed.check(WANDB_ENTITY=""))[production.KEYS]
    assert found[0][0] == "bad" and "WANDB_ENTITY" in found[0][1]


async def test_a_model_that_serves_against_the_gate_is_found(installed: Production) -> None:
    await installed.connection.execute(
        """INSERT INTO rl.models (version, model_id, base_model, status, verdict)
           VALUES ('v0.0.1', 'one', 'qwen', 'deployed', 'rejected');
           INSERT INTO rl.deployments (version, role, percentage, reason)
           VALUES ('v0.0.1', 'active', 100, 'forced')"""
    )
    ((level, text),) = (await installed.check())[production.GATED]
    assert level == "bad" and "v0.0.1 serves although it is rejected (forced)" in text
    await installed.connection.execute("UPDATE rl.models SET verdict = 'promoted' WHERE version = 'v0.0.1'")
    assert (await installed.check())[production.GATED][0][0] == "ok"


async def test_a_base_model_that_cannot_be_loaded_is_no_fallback(
    installed: Production, tmp_path: Path
) -> None:
    await installed.connection.execute(
        "UPDATE rl.models SET storage_path = $1", (tmp_path / "nowhere").as_uri()
    )
    ((level, text),) = (await installed.check())[production.FALLBACK]
    assert level == "bad" and "cannot be loaded" in text
    await installed.connection.execute("DELETE FROM rl.models")
    assert "no base model" in (await installed.check())[production.FALLBACK][0][1]


def commit_env(folder: Path) -> None:
    for command in ("init -q .", "add .env"):
        subprocess.run(["git", *command.split()], cwd=folder, check=True)


async def test_secrets_that_others_can_read_are_found(installed: Production, tmp_path: Path) -> None:
    env = tmp_path / ".env"
    env.write_text("WANDB_API_KEY=from-the-file-123\n")
    env.chmod(0o600)
    assert [level for level, _ in (await installed.check())[production.KEYS]] == ["ok"]
    env.chmod(0o644)
    found = (await installed.check())[production.KEYS]
    assert found[1][0] == "bad" and "chmod 600" in found[1][1] and "from-the-file" not in str(found)
    env.chmod(0o600)
    commit_env(tmp_path)
    assert "is in git" in (await installed.check())[production.KEYS][1][1]
