"""How the asset checks look into `rl`: under the reader's role, at the partitions of their run."""

import asyncio
from collections.abc import Sequence

import asyncpg
import dagster as dg

from babylon_rl.orchestration.resources import READER, PostgresResource

LAST_WINDOWS = 48
"""Windows looked at when a check is run by itself, without a partition."""


def fetch(postgres: PostgresResource, query: str, *arguments: object) -> list[asyncpg.Record]:
    """Returns the rows of a query on schema rl."""

    async def read() -> list[asyncpg.Record]:
        async with postgres.connect(role=READER) as db:
            return await db.rl.fetch(query, *arguments)

    return asyncio.run(read())


def partition_keys(
    context: dg.AssetCheckExecutionContext, partitions: dg.PartitionsDefinition
) -> list[str] | None:
    """Returns the partitions of the run; None for a check that was started by itself."""
    run = context.op_execution_context
    if not (run.has_partition_key or run.has_partition_key_range):
        return None
    return [key for key in run.partition_keys if partitions.has_partition_key(key)] or None


def median(values: Sequence[float]) -> float | None:
    """Returns the middle value, None for none."""
    if not values:
        return None
    ordered, middle = sorted(values), len(values) // 2
    return ordered[middle] if len(values) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
