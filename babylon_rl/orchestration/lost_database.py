"""Runs that failed because a database was lost are started again, and only those.

`retry_on_lost_database` (assets/common.py) repeats a step whose own queries lost their server. Dagster itself
also asks its storage, for example for the versions of a step's inputs before the step begins; what is lost
there fails the step like any error of ours, and `run_retries` does not repeat failed steps: for everything
else a second try would fail in the same way. So a failed step says on its run whether a second one can help.
"""

from collections.abc import Iterable, Iterator
from typing import TypeVar, cast

import asyncpg
import dagster as dg
import sqlalchemy.exc
from dagster_postgres.utils import DagsterPostgresException

from babylon_rl.database.errors import LostDatabaseError, UnreachableDatabaseError
from babylon_rl.database.loss import LOSSES

LOST = (
    LostDatabaseError,
    UnreachableDatabaseError,
    *LOSSES,
    ConnectionError,
    TimeoutError,
    # Dagster's own storage, in the middle of a statement and after its attempts to connect.
    sqlalchemy.exc.OperationalError,
    sqlalchemy.exc.InterfaceError,
    DagsterPostgresException,
)
RETRY_TAG = "dagster/retry_on_asset_or_op_failure"
NEVER = dg.AssetKey("trained_checkpoint")
"""Training is read before it is repeated."""

Watched = TypeVar("Watched", bound=dg.AssetsDefinition | dg.AssetSpec)


def is_lost(error: BaseException | None) -> bool:
    """Whether an error, or what caused it, is a lost database; what ends a run on purpose is not."""
    if isinstance(error, dg.Failure):
        return False
    return any(isinstance(one, LOST) or _is_closed(one) for one in _chain(error))


@dg.failure_hook(name="retry_run_after_lost_database")
def retry_run_after_lost_database(context: dg.HookContext) -> None:
    if is_lost(context.op_exception):
        context.log.warning("a database was lost; the run is started again")
        context.instance.add_run_tags(context.run_id, {RETRY_TAG: "true"})


def watched(assets: Iterable[Watched]) -> list[Watched]:
    """Returns the assets and their checks with the hook on all that may be repeated."""
    return [
        cast(Watched, asset.with_hooks({retry_run_after_lost_database}))
        if isinstance(asset, dg.AssetsDefinition) and NEVER not in asset.keys
        else asset
        for asset in assets
    ]


def _is_closed(error: BaseException) -> bool:
    """Whether a connection was used whose server has gone: between two statements nobody notices.

    asyncpg then says that it is closed, or trips over the state in which the server left it.
    """
    said = str(error)
    return (isinstance(error, asyncpg.InterfaceError) and "closed" in said) or (
        isinstance(error, asyncpg.InternalClientError) and "cannot switch to state" in said
    )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
