"""Holding a training unit while a long, CPU-bound training runs.

The heartbeat has a thread, an event loop and a connection of its own: a training that blocks the caller's
loop, or uses the caller's connection, does not let the lease run out.
"""

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta

import asyncpg

from babylon_rl.training import units
from babylon_rl.training.unit_errors import LostLeaseError, UnitBusyError
from babylon_rl.training.units import TTL, Lease, TrainingUnit

Connect = Callable[[], Awaitable[asyncpg.Connection]]

_BEATS_PER_TTL = 3
"""Two heartbeats may be missed before the lease runs out."""

log = logging.getLogger(__name__)


class Hold:
    """A lease that is kept alive; `lease.version` is set when there is nothing to train."""

    def __init__(self, lease: Lease) -> None:
        self.lease = lease
        self._loss: LostLeaseError | None = None
        self._stop = threading.Event()

    @property
    def lost(self) -> bool:
        """Whether a heartbeat found the unit in other hands. Safe to read from any thread."""
        return self._loss is not None

    def check(self) -> None:
        """For training loops: stop early when the work has become useless.

        Raises:
            LostLeaseError: The unit is in other hands.
        """
        if self._loss is not None:
            raise self._loss

    def _beat(self, connect: Connect) -> None:
        asyncio.run(self._keep_alive(connect))

    async def _keep_alive(self, connect: Connect) -> None:
        pause = self.lease.ttl.total_seconds() / _BEATS_PER_TTL
        connection: asyncpg.Connection | None = None
        while not await asyncio.to_thread(self._stop.wait, pause):
            try:
                async with asyncio.timeout(self.lease.ttl.total_seconds()):
                    if connection is None or connection.is_closed():
                        connection = await connect()
                    await units.heartbeat(connection, self.lease)
            except LostLeaseError as loss:
                self._loss = loss
                break
            except (
                Exception
            ) as problem:  # a broken connection: the next beat makes a new one, the fence decides
                log.warning("heartbeat of training unit %s failed: %s", self.lease.unit.key[:12], problem)
                if connection is not None:
                    connection.terminate()
                connection = None
        if connection is not None:
            with suppress(Exception):
                await connection.close(timeout=pause)


@asynccontextmanager
async def hold(
    rl: asyncpg.Connection,
    unit: TrainingUnit,
    *,
    owner: str,
    connect: Connect,
    ttl: timedelta = TTL,
    patience: timedelta = timedelta(0),
) -> AsyncIterator[Hold]:
    """Claim a unit, keep it alive, and mark it failed when the block raises. The block publishes last.

    Args:
        rl: For the claim and a failure's note; not used while the block runs.
        owner: Names this attempt for people.
        connect: Makes the heartbeat's connection; called on another thread's event loop.
        ttl: See `units.claim`.
        patience: How long to wait for another owner's lease, for example that of a killed predecessor.

    Raises:
        UnitBusyError: Another owner's lease outlasts the patience.
        UnitInDoubtError: The unit waits for an operator.
    """
    held = Hold(await _claim_patiently(rl, unit, owner, ttl, patience))
    if held.lease.version is not None:
        yield held
        return
    thread = threading.Thread(target=held._beat, args=(connect,), name="training-lease", daemon=True)
    thread.start()
    try:
        yield held
    except BaseException as problem:
        held._stop.set()
        if not isinstance(problem, LostLeaseError):
            with suppress(Exception):
                await units.fail(rl, held.lease, f"{type(problem).__name__}: {problem}")
        raise
    else:
        # Left without publishing: give the unit back at once. After `publish` this matches nothing.
        await units.fail(rl, held.lease, "the training ended without publishing")
    finally:
        held._stop.set()
        await asyncio.to_thread(thread.join)


async def _claim_patiently(
    rl: asyncpg.Connection, unit: TrainingUnit, owner: str, ttl: timedelta, patience: timedelta
) -> Lease:
    deadline = datetime.now(UTC) + patience
    while True:
        try:
            return await units.claim(rl, unit, owner=owner, ttl=ttl)
        except UnitBusyError:
            left = (deadline - datetime.now(UTC)).total_seconds()
            if left <= 0:
                raise
        await asyncio.sleep(min(1.0, left))
