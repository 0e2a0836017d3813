"""The training ledger on a real database: one winner, fenced losers, and no unit trained twice."""

import asyncio
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, timedelta

import asyncpg
import pytest

from babylon_rl.database.connection import connect
from babylon_rl.training import units
from babylon_rl.training.lease import hold
from babylon_rl.training.unit_errors import LostLeaseError, UnitBusyError, UnitInDoubtError, UnknownUnitError
from babylon_rl.training.units import (
    TrainingUnit,
    claim,
    fail,
    find,
    find_trained,
    heartbeat,
    note_job,
    publish,
    unit_key,
)

pytestmark = pytest.mark.anyio

DAY = date(2026, 10, 1)
UNIT = TrainingUnit("b" * 64, "v0.0.0", {"learning_rate": 1e-3, "seed": 0}, "embedded", DAY)
BRIEF = timedelta(milliseconds=300)


@pytest.fixture
async def rl(anyio_backend: str, dsn: str) -> AsyncIterator[asyncpg.Connection]:
    opened = await connect(dsn, role="babylon_trainer")
    yield opened
    await opened.close()


async def register(connection: asyncpg.Connection) -> str:
    insert = "INSERT INTO rl.models (version, model_id, base_model) VALUES ($1, $2, 'tiny')"
    await connection.execute(insert, "v0.0.1", "babylon-agent-v0.0.1")
    return "v0.0.1"


async def must_not_register(_: asyncpg.Connection) -> str:
    raise AssertionError("a lost lease got as far as registering")


def test_a_units_key_is_its_content() -> None:
    assert unit_key("b", "v0.0.0", {"a": 1, "b": 2.0}) == unit_key("b", "v0.0.0", {"b": 2.0, "a": 1})
    keys = {
        unit_key("b", "v0.0.0", {"a": 1}),
        unit_key("b", "v0.0.1", {"a": 1}),
        unit_key("c", "v0.0.0", {"a": 1}),
    }
    assert len(keys | {unit_key("b", "v0.0.0", {"a": 2})}) == 4
    assert len(UNIT.key) == 64


async def test_a_unit_is_trained_once(rl: asyncpg.Connection) -> None:
    lease = await claim(rl, UNIT, owner="first")
    assert lease.version is None and lease.epoch == 1
    assert await publish(rl, lease, register, {"loss": float("nan"), "steps": 8}) == "v0.0.1"
    again = await claim(rl, UNIT, owner="second")
    assert again.version == "v0.0.1"
    record = await find(rl, UNIT.key)
    assert (record.status, record.version, record.lease_until) == ("done", "v0.0.1", None)
    assert record.metrics == {"loss": None, "steps": 8} and record.config == dict(UNIT.config)
    assert record.completed_at is not None and record.completed_at.tzinfo is not None
    day = await rl.fetchrow("SELECT batch_sha256, unit_key, version FROM rl.trained_days WHERE day = $1", DAY)
    assert day is not None and tuple(day) == (UNIT.batch_sha256, UNIT.key, "v0.0.1")


async def test_a_running_unit_is_busy(rl: asyncpg.Connection) -> None:
    await claim(rl, UNIT, owner="host:12")
    with pytest.raises(UnitBusyError, match=r"by host:12 until at least .* UTC") as busy:
        await claim(rl, UNIT, owner="host:13")
    assert busy.value.owner == "host:12"
    assert timedelta(seconds=50) < busy.value.until - datetime.now(UTC) <= units.TTL


async def test_of_many_simultaneous_claims_one_wins(dsn: str) -> None:
    connections = [await connect(dsn) for _ in range(6)]
    results = await asyncio.gather(
        *(claim(c, UNIT, owner=f"owner {i}") for i, c in enumerate(connections)), return_exceptions=True
    )
    for connection in connections:
        await connection.close()
    assert sum(isinstance(result, units.Lease) for result in results) == 1
    assert sum(isinstance(result, UnitBusyError) for result in results) == 5


async def test_a_stale_owner_cannot_publish_heartbeat_or_fail(rl: asyncpg.Connection) -> None:
    stale = await claim(rl, UNIT, owner="first", ttl=timedelta(0))
    fresh = await claim(rl, UNIT, owner="second")
    assert fresh.epoch == stale.epoch + 1
    with pytest.raises(LostLeaseError, match="second took it over"):
        await publish(rl, stale, must_not_register)
    with pytest.raises(LostLeaseError):
        await heartbeat(rl, stale)
    with pytest.raises(LostLeaseError):
        await note_job(rl, stale, "job")
    assert not await fail(rl, stale, "too late")
    assert await publish(rl, fresh, register) == "v0.0.1"
    with pytest.raises(LostLeaseError, match=r"v0.0.1 was published by second"):
        await publish(rl, stale, must_not_register)
    assert await rl.fetchval("SELECT count(*) FROM rl.models") == 1


async def test_an_expired_lease_that_nobody_took_still_publishes(rl: asyncpg.Connection) -> None:
    lease = await claim(rl, UNIT, owner="slow", ttl=timedelta(0))
    assert await publish(rl, lease, register) == "v0.0.1"


async def test_publishing_waits_for_nobody_else_to_claim(rl: asyncpg.Connection, dsn: str) -> None:
    lease = await claim(rl, UNIT, owner="first", ttl=timedelta(0))
    other = await connect(dsn)
    rival: asyncio.Task[units.Lease] | None = None

    async def register_slowly(connection: asyncpg.Connection) -> str:
        nonlocal rival
        rival = asyncio.create_task(claim(other, UNIT, owner="second"))
        await asyncio.sleep(0.2)
        assert not rival.done()
        return await register(connection)

    version = await publish(rl, lease, register_slowly)
    assert rival is not None and (await rival).version == version
    await other.close()


async def test_a_failing_registration_leaves_the_unit_to_its_owner(rl: asyncpg.Connection) -> None:
    lease = await claim(rl, UNIT, owner="first")

    async def break_down(_: asyncpg.Connection) -> str:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        await publish(rl, lease, break_down)
    assert (await find(rl, UNIT.key)).status == "running"
    assert await fail(rl, lease, "disk full")
    assert (await find(rl, UNIT.key)).error == "disk full"
    assert (await claim(rl, UNIT, owner="second")).epoch == 2


async def test_a_unit_in_doubt_waits_for_an_operator(rl: asyncpg.Connection) -> None:
    lease = await claim(rl, UNIT, owner="first")
    await note_job(rl, lease, "job-7")
    await fail(rl, lease, "no answer after submitting", status="in_doubt")
    with pytest.raises(UnitInDoubtError, match="babylon train resolve"):
        await claim(rl, UNIT, owner="second")


async def test_a_successor_learns_of_the_submitted_job(rl: asyncpg.Connection) -> None:
    lease = await claim(rl, UNIT, owner="first", ttl=timedelta(0))
    await note_job(rl, lease, "job-7")
    assert (await claim(rl, UNIT, owner="second")).external_job_id == "job-7"


async def test_unknown_unit(rl: asyncpg.Connection) -> None:
    with pytest.raises(UnknownUnitError, match="no training unit nothing"):
        await find(rl, "nothing")


async def test_the_first_unit_of_a_day_freezes_its_batch_and_a_later_one_is_a_branch(
    rl: asyncpg.Connection,
) -> None:
    await publish(rl, await claim(rl, UNIT, owner="first"), register)
    branch = TrainingUnit("c" * 64, "v0.0.0", UNIT.config, "embedded", DAY)
    await claim(rl, branch, owner="branch")
    assert (
        await rl.fetchval("SELECT batch_sha256 FROM rl.trained_days WHERE day = $1", DAY) == UNIT.batch_sha256
    )


async def test_the_days_unit_is_found_whatever_its_configuration_was(rl: asyncpg.Connection) -> None:
    assert await find_trained(rl, DAY) is None
    lease = await claim(rl, UNIT, owner="first")
    assert await find_trained(rl, DAY) is None
    await publish(rl, lease, register)
    found = await find_trained(rl, DAY)
    assert found is not None and (found.unit_key, found.version) == (UNIT.key, "v0.0.1")


async def test_a_failed_first_attempt_does_not_freeze_the_day_for_ever(rl: asyncpg.Connection) -> None:
    await fail(rl, await claim(rl, UNIT, owner="first"), "out of memory")
    smaller = TrainingUnit("c" * 64, "v0.0.0", UNIT.config, "embedded", DAY)
    await publish(rl, await claim(rl, smaller, owner="second"), register)
    day = await rl.fetchrow("SELECT batch_sha256, version FROM rl.trained_days WHERE day = $1", DAY)
    assert day is not None and tuple(day) == (smaller.batch_sha256, "v0.0.1")


async def test_a_heartbeat_outlives_a_blocked_event_loop(rl: asyncpg.Connection, dsn: str) -> None:
    async with hold(rl, UNIT, owner="first", ttl=BRIEF, connect=lambda: connect(dsn)) as held:
        time.sleep(4 * BRIEF.total_seconds())  # noqa: ASYNC251  (a training that never yields)
        with pytest.raises(UnitBusyError):
            await claim(rl, UNIT, owner="second")
        assert not held.lost
        await publish(rl, held.lease, register)
    assert (await find(rl, UNIT.key)).status == "done"


async def test_a_block_that_raises_frees_the_unit_at_once(rl: asyncpg.Connection, dsn: str) -> None:
    with pytest.raises(ValueError, match="no gradient"):
        async with hold(rl, UNIT, owner="first", connect=lambda: connect(dsn)):
            raise ValueError("no gradient")
    record = await find(rl, UNIT.key)
    assert (record.status, record.error) == ("failed", "ValueError: no gradient")


async def test_a_block_that_forgets_to_publish_frees_the_unit(rl: asyncpg.Connection, dsn: str) -> None:
    async with hold(rl, UNIT, owner="first", connect=lambda: connect(dsn)):
        pass
    assert (await find(rl, UNIT.key)).status == "failed"


async def test_holding_a_unit_that_is_done_says_its_version(rl: asyncpg.Connection, dsn: str) -> None:
    await publish(rl, await claim(rl, UNIT, owner="first"), register)
    async with hold(rl, UNIT, owner="second", connect=lambda: connect(dsn)) as held:
        assert held.lease.version == "v0.0.1"
    assert (await find(rl, UNIT.key)).status == "done"


async def test_patience_outlasts_a_killed_predecessor(rl: asyncpg.Connection, dsn: str) -> None:
    await claim(rl, UNIT, owner="killed", ttl=BRIEF)
    patience = timedelta(seconds=5)
    async with hold(rl, UNIT, owner="retry", connect=lambda: connect(dsn), patience=patience) as held:
        assert held.lease.epoch == 2


async def test_a_broken_heartbeat_connection_is_replaced(rl: asyncpg.Connection, dsn: str) -> None:
    made: list[asyncpg.Connection] = []
    twice = threading.Event()
    once = threading.Event()

    async def connect_noting() -> asyncpg.Connection:
        made.append(await connect(dsn))
        (twice if once.is_set() else once).set()
        return made[-1]

    async with hold(rl, UNIT, owner="first", ttl=BRIEF, connect=connect_noting) as held:
        assert await asyncio.to_thread(once.wait, 10)
        await rl.execute("RESET ROLE")
        await rl.execute("SELECT pg_terminate_backend($1)", made[0].get_server_pid())
        assert await asyncio.to_thread(twice.wait, 10)
        assert not held.lost
        await publish(rl, held.lease, register)


STOPPED_TRAINER = """
import asyncio, sys
from datetime import date, timedelta
from babylon_rl.database.connection import connect
from babylon_rl.training.lease import hold
from babylon_rl.training.units import TrainingUnit, publish

async def register(_):
    return "v9.9.9"

async def main(dsn):
    config = {"learning_rate": 1e-3, "seed": 0}
    unit = TrainingUnit("b" * 64, "v0.0.0", config, "embedded", date(2026, 10, 1))
    rl, brief = await connect(dsn), timedelta(seconds=0.5)
    async with hold(rl, unit, owner="stopped", ttl=brief, connect=lambda: connect(dsn)) as held:
        print("training", flush=True)
        sys.stdin.readline()
        await publish(rl, held.lease, register)

asyncio.run(main(sys.argv[1]))
"""


async def test_a_process_stopped_past_its_lease_does_not_publish_when_it_goes_on(
    rl: asyncpg.Connection, dsn: str
) -> None:
    command = [sys.executable, "-c", STOPPED_TRAINER, dsn]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as trainer:  # noqa: ASYNC220
        assert trainer.stdout is not None and trainer.stdout.readline() == "training\n"
        trainer.send_signal(signal.SIGSTOP)
        patience = timedelta(seconds=10)
        async with hold(rl, UNIT, owner="successor", connect=lambda: connect(dsn), patience=patience) as held:
            trainer.send_signal(signal.SIGCONT)
            _, complaint = await asyncio.to_thread(trainer.communicate, "go on\n", 20)
            assert trainer.returncode != 0
            assert "LostLeaseError" in complaint and "successor took it over" in complaint
            assert await publish(rl, held.lease, register) == "v0.0.1"
    assert (await find(rl, UNIT.key)).version == "v0.0.1"
