"""An operator's word on a unit in doubt: only where somebody waits for it; then the next run goes on."""

from collections.abc import AsyncIterator
from datetime import date, timedelta

import asyncpg
import pytest

from babylon_rl.database.connection import connect
from babylon_rl.training import resolve, units
from babylon_rl.training.chunk_ledger import ChunkLedger, read_chunks
from babylon_rl.training.chunks import Chunk, cut
from babylon_rl.training.conversion import TrainableCall, TrainableEpisode
from babylon_rl.training.options import CutRules
from babylon_rl.training.resolve import NothingToResolveError
from babylon_rl.training.unit_errors import UnknownUnitError
from babylon_rl.training.units import TrainingUnit
from babylon_rl_tests.shared_database import dsn, file_dsn

pytestmark = pytest.mark.anyio

__all__ = ["dsn", "file_dsn"]

UNIT = TrainingUnit("b" * 64, "v0.0.0", {"backend": "serverless"}, "serverless", date(2026, 10, 1))
CALL = TrainableCall([{"role": "user", "content": "?"}], "HOLD", [1, 2], [-0.1, -0.2], "stop")


@pytest.fixture
def chunks() -> list[Chunk]:
    episodes = [TrainableEpisode(f"2026-10-01T0{n // 2}:00", f"a{n}", n - 1.5, [CALL]) for n in range(4)]
    return cut(episodes, CutRules(windows=1))


@pytest.fixture
async def rl(anyio_backend: str, dsn: str) -> AsyncIterator[asyncpg.Connection]:
    opened = await connect(dsn, role="babylon_trainer")
    yield opened
    await opened.close()


@pytest.fixture
async def in_doubt(rl: asyncpg.Connection, chunks: list[Chunk]) -> ChunkLedger:
    """The first chunk is trained, the second may have been submitted at step 1."""
    lease = await units.claim(rl, UNIT, owner="test", ttl=timedelta(0))
    ledger = await ChunkLedger.open(rl, lease, chunks)
    await ledger.write(0, "done", step_before=0, step_after=1)
    await ledger.write(1, "submitting", step_before=1)
    await ledger.doubt(1, "the answer was lost")
    return ledger


async def test_units_in_doubt_are_listed(rl: asyncpg.Connection, in_doubt: ChunkLedger) -> None:
    [doubt] = await resolve.doubts(rl)
    assert doubt.unit.unit_key == UNIT.key and doubt.unit.error == "chunk 1: the answer was lost"
    assert doubt.chunk is not None and (doubt.chunk.chunk, doubt.chunk.status) == (1, "submitting")
    assert (await resolve.look(rl, UNIT.key[:10])).unit.unit_key == UNIT.key


async def test_not_trained_means_submit_again(rl: asyncpg.Connection, in_doubt: ChunkLedger) -> None:
    await resolve.not_trained(rl, UNIT.key[:12])
    first, second = await read_chunks(rl, UNIT.key)
    assert (first.status, second.status, second.error) == ("done", "pending", None)
    lease = await units.claim(rl, UNIT, owner="next")
    assert lease.epoch == 2 and await resolve.doubts(rl) == []


async def test_trained_means_take_the_next_step(rl: asyncpg.Connection, in_doubt: ChunkLedger) -> None:
    doubt = await resolve.trained(rl, UNIT.key)
    assert doubt.chunk is None, "no chunk is open any more"
    [_, second] = await read_chunks(rl, UNIT.key)
    assert (second.status, second.step_after) == ("done", 2) and second.completed_at is not None


async def test_a_job_means_follow_it(rl: asyncpg.Connection, in_doubt: ChunkLedger) -> None:
    await resolve.follow(rl, UNIT.key, "job-7")
    [_, second] = await read_chunks(rl, UNIT.key)
    assert (second.status, second.external_job_id) == ("submitted", "job-7")


async def test_nobody_waits_for_a_word_on_others(rl: asyncpg.Connection, chunks: list[Chunk]) -> None:
    with pytest.raises(UnknownUnitError, match="no training unit begins with 'ff'"):
        await resolve.look(rl, "ff")
    lease = await units.claim(rl, UNIT, owner="test")
    with pytest.raises(NothingToResolveError, match="is running"):
        await resolve.not_trained(rl, UNIT.key)
    await units.fail(rl, lease, "because")
    with pytest.raises(NothingToResolveError, match="has no open chunk"):
        await resolve.trained(rl, UNIT.key)
    lease = await units.claim(rl, UNIT, owner="test")
    await ChunkLedger.open(rl, lease, chunks)
    await units.fail(rl, lease, "because")
    with pytest.raises(NothingToResolveError, match="never about to be submitted"):
        await resolve.trained(rl, UNIT.key)


async def test_two_units_that_begin_alike_need_more_of_the_key(rl: asyncpg.Connection) -> None:
    await units.claim(rl, UNIT, owner="test")
    for number in range(40):
        await units.claim(rl, TrainingUnit("c" * 64, "v0.0.0", {"n": number}, "embedded"), owner="test")
    with pytest.raises(UnknownUnitError, match="more than one"):
        await resolve.look(rl, "")
