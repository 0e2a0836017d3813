"""How the asset checks look into `rl`: under the reader's role, at the partitions of their run."""

import asyncio
import inspect
from collections.abc import Callable, Iterator, Sequence

import asyncpg
import dagster as dg

from babylon_rl.orchestration.resources import READER, PostgresResource

LAST_WINDOWS = 48
"""Windows looked at when a check is run by itself, without a partition."""


Check = Callable[[dg.AssetCheckExecutionContext, PostgresResource], dg.AssetCheckResult]


def checks_of(asset: str, *checks: Check) -> dg.AssetChecksDefinition:
    """Returns the checks of an asset, each with the name and the docstring of its function.

    They are one step of a run: a step for each would cost more than the checks themselves.
    """
    named = {check.__name__: check for check in checks}

    @dg.multi_asset_check(
        name=f"checks_of_{asset}",
        specs=[
            dg.AssetCheckSpec(name, asset=asset, description=inspect.getdoc(check))
            for name, check in named.items()
        ],
        can_subset=True,
    )
    def run(
        context: dg.AssetCheckExecutionContext, postgres: PostgresResource
    ) -> Iterator[dg.AssetCheckResult]:
        chosen = {key.name for key in context.selected_asset_check_keys}
        for name, check in named.items():
            if name in chosen:
                yield check(context, postgres)._replace(check_name=name)

    return run


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
