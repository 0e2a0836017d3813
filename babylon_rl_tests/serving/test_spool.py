"""The spool and its drainer: what is there gets into PostgreSQL once, what is damaged is kept aside."""

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import asyncpg
import msgspec
import pytest

from babylon_rl.database.connection import connect
from babylon_rl.records.call_digest import content_sha256
from babylon_rl.serving import spool as spool_module
from babylon_rl.serving.calls import CapturedCall, why_untrainable
from babylon_rl.serving.capture import DrainerProcess, SpoolCapture
from babylon_rl.serving.drainer import Drainer, to_row
from babylon_rl.serving.spool import HEADER, Level, Spool, SpoolError, has_writer, segments
from babylon_rl_tests.shared_database import dsn, file_dsn

__all__ = ["dsn", "file_dsn"]

pytestmark = pytest.mark.anyio


def call(number: int, **fields: object) -> CapturedCall:
    values: dict[str, object] = {
        "started_at": 1_790_000_000.0 + number,
        "latency_ms": 1.5,
        "agent_id": "agent-7",
        "agent_verified": True,
        "version": "v0.0.1",
        "messages": b'[{"role":"user","content":"BTC?"}]',
        "answer": b'{"role":"assistant","content":"buy"}',
        "prompt_token_ids": [1, 2],
        "token_ids": [7, 0],
        "logprobs": [-0.5, -0.25],
        "logprobs_of": "sampled",
        "temperature": 1.0,
        "top_p": 1.0,
        "finish_reason": "stop",
        "completion_tokens": 2,
    }
    return CapturedCall(response_id=f"chatcmpl-{number}", **(values | fields))  # type: ignore[arg-type]


@pytest.fixture
async def rl(anyio_backend: str, dsn: str):
    opened = await connect(dsn, role="babylon_gateway")
    yield opened
    await opened.close()


async def keep(spool: Spool, *calls: CapturedCall) -> None:
    capture = SpoolCapture(spool)
    for one in calls:
        await capture.keep(one)


async def ids(rl: asyncpg.Connection) -> list[str]:
    return [
        row["response_id"]
        for row in await rl.fetch("SELECT response_id FROM rl.llm_calls ORDER BY started_at")
    ]


@pytest.mark.parametrize("level", ["process", "power"])
async def test_calls_arrive_once_and_their_room_is_given_back(
    tmp_path: Path, rl: asyncpg.Connection, level: Level
) -> None:
    spool = Spool(tmp_path, level, 1 << 20, segment_bytes=2000)
    await asyncio.gather(*(keep(spool, call(number)) for number in range(50)))
    assert len(segments(tmp_path)) > 3
    drainer = Drainer(tmp_path, rl)
    assert await drainer.drain() == 50
    assert await drainer.drain() == 0
    assert len(segments(tmp_path)) == 1, "the one that is written to stays"
    await keep(spool, call(50))
    assert await Drainer(tmp_path, rl).drain() == 1, "a new drainer goes on where the last one was"
    (tmp_path / "cursor.json").unlink()
    await Drainer(tmp_path, rl).drain()
    assert await ids(rl) == [f"chatcmpl-{number}" for number in range(51)], "repeated, but stored once"
    await spool.close()
    await drainer.drain()
    assert segments(tmp_path) == [] and spool.measure() == 0


async def test_a_row_holds_everything(tmp_path: Path, rl: asyncpg.Connection) -> None:
    spool = Spool(tmp_path, "process", 1 << 20)
    odd = "a\u0000b\U0001f680\u202e"
    await keep(
        spool,
        call(
            1,
            agent_id="agent-7",
            agent_verified=True,
            fallback=True,
            fallback_reason="http_503",
            messages=msgspec.json.encode([{"role": "user", "content": odd}]),
            answer=msgspec.json.encode({"role": "assistant", "content": odd}),
            tools=b'[{"type":"function"}]',
            requested_model="x\0y",
            seed=-(2**63),
            first_token_ms=0.5,
        ),
    )
    await Drainer(tmp_path, rl).drain()
    row = await rl.fetchrow("SELECT * FROM rl.llm_calls")
    assert row is not None
    assert row["started_at"].timestamp() == 1_790_000_001.0
    assert msgspec.json.decode(row["messages"])[0]["content"] == odd
    assert msgspec.json.decode(row["answer"])["content"] == odd
    assert row["requested_model"] == "x\ufffdy" and row["seed"] == -(2**63)
    assert row["token_ids"] == [7, 0] and row["logprobs"] == [-0.5, -0.25] and row["untrainable"] is None
    assert (row["agent_verified"], row["fallback"], row["fallback_reason"]) == (True, True, "http_503")
    assert row["capture_level"] == "process"
    assert row["content_sha256"] == content_sha256([{"role": "user", "content": odd}], odd)


async def test_a_cut_frame_at_the_end_was_never_acknowledged(tmp_path: Path, rl: asyncpg.Connection) -> None:
    spool = Spool(tmp_path, "process", 1 << 20)
    await keep(spool, call(1), call(2))
    await spool.close()
    [segment] = segments(tmp_path)
    segment.write_bytes(segment.read_bytes()[:-5])
    await Drainer(tmp_path, rl).drain()
    assert await ids(rl) == ["chatcmpl-1"] and segments(tmp_path) == []
    assert len(list((tmp_path / "rejected").iterdir())) == 1


@pytest.mark.parametrize(
    ("at", "left"), [("payload", ["chatcmpl-1", "chatcmpl-3"]), ("zeros", ["chatcmpl-1"])]
)
async def test_damage_costs_what_is_damaged(
    tmp_path: Path, rl: asyncpg.Connection, at: str, left: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    spool = Spool(tmp_path, "process", 1 << 20)
    await keep(spool, *map(call, (1, 2, 3)))
    [segment] = segments(tmp_path)
    data = bytearray(segment.read_bytes())
    second = HEADER.size + HEADER.unpack_from(data)[0]
    if at == "payload":
        data[second + HEADER.size + 20] ^= 0xFF
    else:
        data[second:] = bytes(len(data) - second)
    segment.write_bytes(data)
    drainer = Drainer(tmp_path, rl)
    await drainer.drain()
    assert segments(tmp_path) == [segment], "its writer lives"
    await spool.close()
    await drainer.drain()
    assert await ids(rl) == left and segments(tmp_path) == []
    kept = b"".join(path.read_bytes() for path in (tmp_path / "rejected").iterdir())
    assert kept and "went to" in caplog.text


async def test_what_postgresql_refuses_is_kept_and_does_not_hold_up_the_rest(
    tmp_path: Path, rl: asyncpg.Connection
) -> None:
    spool = Spool(tmp_path, "process", 1 << 20)
    wrong = call(2, token_ids=[2**40, 0])
    await keep(spool, call(1), wrong, call(3, answer=b"{not json"), call(4))
    await spool.append(b"no msgpack at all")
    await Drainer(tmp_path, rl).drain()
    assert await ids(rl) == ["chatcmpl-1", "chatcmpl-4"]
    assert len(list((tmp_path / "rejected").iterdir())) == 3


async def test_a_large_call_and_many_small_ones(tmp_path: Path, rl: asyncpg.Connection) -> None:
    spool = Spool(tmp_path, "process", 1 << 30)
    large = msgspec.json.encode([{"role": "user", "content": "x" * 5_000_000}])
    await keep(spool, call(1, messages=large), *map(call, range(2, 2000)))
    assert await Drainer(tmp_path, rl).drain() == 1999
    assert await rl.fetchval("SELECT count(*) FROM rl.llm_calls") == 1999


async def test_a_full_spool_admits_again_when_it_is_drained(tmp_path: Path, rl: asyncpg.Connection) -> None:
    spool = Spool(tmp_path, "process", 4096)
    with pytest.raises(SpoolError, match="full"):
        for number in range(1000):
            spool.admit()
            await keep(spool, call(number))
    await keep(spool, call(1000))  # a call that was admitted is kept, and a segment ends
    await Drainer(tmp_path, rl).drain()
    spool.measure()
    spool.admit()


async def test_power_means_synced_before_the_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    real = os.fdatasync

    def note(fd: int) -> None:
        time.sleep(0.01)
        real(fd)
        synced.append(os.fstat(fd).st_size)

    monkeypatch.setattr(spool_module.os, "fdatasync", note)
    spool = Spool(tmp_path, "power", 1 << 30, segment_bytes=4000)

    async def one(number: int) -> None:
        await keep(spool, call(number))
        assert sum(path.stat().st_size for path in segments(tmp_path)) > 0 and synced

    await asyncio.gather(*map(one, range(100)))
    assert len(synced) < 100, "those that wait share a sync"
    await spool.close()
    open_files = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if _is_open(fd)]
    assert not [name for name in open_files if name.startswith(str(tmp_path))], "ended segments are closed"


def _is_open(fd: str) -> bool:
    return os.path.exists(f"/proc/self/fd/{fd}")


async def test_a_failing_sync_is_no_acknowledgement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(fd: int) -> None:
        raise OSError(5, "Input/output error")

    spool = Spool(tmp_path, "power", 1 << 30)
    await keep(spool, call(1))
    monkeypatch.setattr(spool_module.os, "fdatasync", broken)
    with pytest.raises(SpoolError, match="Input/output error"):
        await keep(spool, call(2))
    monkeypatch.undo()
    await keep(spool, call(3))
    assert len(segments(tmp_path)) == 2, "nothing more goes into the file that failed"
    await spool.close()


WRITER = """
import asyncio, sys
from pathlib import Path
from babylon_rl.serving.capture import SpoolCapture
from babylon_rl.serving.spool import Spool
from babylon_rl_tests.serving.test_spool import call

async def main():
    capture = SpoolCapture(Spool(Path(sys.argv[1]), sys.argv[2], 1 << 30, segment_bytes=20000))
    for number in range(1000000):
        await capture.keep(call(number))
        print(number, flush=True)

asyncio.run(main())
"""


def write_until_killed(folder: Path, level: str) -> int:
    """The last call that a writer acknowledged before it was killed."""
    command = [sys.executable, "-c", textwrap.dedent(WRITER), str(folder), level]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    acknowledged = -1
    while acknowledged < 300:
        acknowledged = int(process.stdout.readline())
    process.send_signal(signal.SIGKILL)
    acknowledged = max([acknowledged, *map(int, process.stdout.read().split())])
    process.wait()
    return acknowledged


@pytest.mark.parametrize("level", ["process", "power"])
async def test_what_was_acknowledged_survives_kill_9(
    tmp_path: Path, rl: asyncpg.Connection, level: Level
) -> None:
    acknowledged = write_until_killed(tmp_path, level)
    assert not any(map(has_writer, segments(tmp_path)))
    await Drainer(tmp_path, rl).drain()
    stored = await ids(rl)
    assert stored[: acknowledged + 1] == [f"chatcmpl-{number}" for number in range(acknowledged + 1)]
    assert len(stored) <= acknowledged + 2 and segments(tmp_path) == []


async def test_the_drainer_outlives_a_database_that_goes_away_and_its_own_death(
    tmp_path: Path, dsn: str, rl: asyncpg.Connection
) -> None:
    spool = Spool(tmp_path, "process", 1 << 30)
    drainer = DrainerProcess(spool, dsn)
    await drainer.start()
    try:
        await keep(spool, call(1))
        await until(rl, 1)
        admin = await connect(dsn)
        await admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid NOT IN ($1, $2)".replace(
                "$1", str(admin.get_server_pid())
            ).replace("$2", str(rl.get_server_pid()))
        )
        await admin.close()
        await keep(spool, call(2))
        await until(rl, 2)
        assert drainer._process is not None
        drainer._process.kill()
        await keep(spool, call(3))
        await until(rl, 3)
        await keep(spool, *map(call, range(4, 500)))
    finally:
        await spool.close()
        await drainer.stop()
    assert len(await ids(rl)) == 499, "it ends when everything is stored"
    assert not drainer.running and segments(tmp_path) == []


async def until(rl: asyncpg.Connection, count: int) -> None:
    for _ in range(1000):
        if len(await ids(rl)) >= count:
            return
        await asyncio.sleep(0.02)
    raise AssertionError(f"{count} calls did not arrive")


def test_every_column_has_its_value() -> None:
    row = to_row(call(1))
    assert len(row) == len(CapturedCall.__struct_fields__) + 2


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({}, None),
        ({"finish_reason": "tool_calls"}, None),
        ({"error": "client_gone"}, "error"),
        ({"agent_verified": False}, "agent_not_verified"),
        ({"version": "external"}, "foreign_model"),
        ({"token_ids": None, "logprobs": None}, "no_tokens"),
        ({"prompt_token_ids": None}, "no_prompt_tokens"),
        ({"token_ids": [], "logprobs": [], "completion_tokens": 0}, "empty"),
        ({"completion_tokens": 3}, "tokens_missing"),
        ({"finish_reason": "length"}, "cut"),
        ({"finish_reason": None}, "cut"),
        ({"temperature": 0.0}, "greedy"),
        ({"logprobs_of": "raw"}, None),
        ({"logprobs_of": "raw", "temperature": 0.7}, "other_distribution"),
        ({"logprobs_of": "raw", "top_p": 0.9}, "other_distribution"),
        ({"logprobs_of": "raw", "parameters": b'{"top_k": 5}'}, "other_distribution"),
        ({"logprobs_of": "raw", "parameters": b'{"frequency_penalty": 0}'}, None),
        ({"logprobs_of": "sampled", "temperature": 0.7, "parameters": b'{"top_k": 5}'}, None),
    ],
)
def test_what_may_be_trained_on(fields: dict[str, object], reason: str | None) -> None:
    assert why_untrainable(call(1, **fields)) == reason
