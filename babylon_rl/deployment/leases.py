"""Leases by name: one of several processes leads, by the database's clock, and what it does is fenced.

lease = await take(rl, "deployment_watch", owner, ttl)      # None: somebody else leads
async with rl.transaction():
    await require(rl, lease)                                 # still ours, and stays so until the end
    ...
"""

from datetime import timedelta

import asyncpg
import msgspec

from babylon_rl.deployment.errors import DeploymentError

_TAKE = """
INSERT INTO rl.leases AS held (name, owner, until) VALUES ($1, $2, clock_timestamp() + $3)
ON CONFLICT (name) DO UPDATE
   SET owner = excluded.owner, until = clock_timestamp() + $3,
       epoch = held.epoch + (held.owner <> excluded.owner)::int
 WHERE held.owner = excluded.owner OR held.until < clock_timestamp()
RETURNING epoch
"""
_STILL = """
SELECT true FROM rl.leases
 WHERE name = $1 AND owner = $2 AND epoch = $3 AND until > clock_timestamp() FOR UPDATE
"""
_RELEASE = """
UPDATE rl.leases SET until = clock_timestamp() - interval '1 second'
 WHERE name = $1 AND owner = $2 AND epoch = $3
"""


class LeaseLostError(DeploymentError):
    """Another process leads now; what this one was about to do is not its business any more."""


class Lease(msgspec.Struct, frozen=True):
    """The right to decide until it runs out; taking it again as its owner extends it."""

    name: str
    owner: str
    epoch: int


async def take(rl: asyncpg.Connection, name: str, owner: str, ttl: timedelta) -> Lease | None:
    """Takes or extends a lease; None while another owner holds it.

    Args:
        owner: Names one process; unique.
        ttl: After which silence ends it.
    """
    epoch = await rl.fetchval(_TAKE, name, owner, ttl)
    return None if epoch is None else Lease(name, owner, epoch)


async def require(rl: asyncpg.Connection, lease: Lease) -> None:
    """Holds the lease's row until the surrounding transaction ends: nobody takes it meanwhile.

    Raises:
        LeaseLostError: It ran out, or is in other hands.
    """
    if not await rl.fetchval(_STILL, lease.name, lease.owner, lease.epoch):
        raise LeaseLostError(f"the lease {lease.name} is in other hands", "Its new owner goes on.")


async def release(rl: asyncpg.Connection, lease: Lease) -> None:
    """Lets somebody else lead at once."""
    await rl.execute(_RELEASE, lease.name, lease.owner, lease.epoch)
