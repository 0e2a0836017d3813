"""Which failures of a step are those of a database, and what happens to the run then."""

import asyncpg
import dagster as dg
import pytest
import sqlalchemy.exc
from dagster_postgres.utils import DagsterPostgresException

from babylon_rl.database.errors import UnreachableDatabaseError
from babylon_rl.definitions import defs
from babylon_rl.orchestration.assets.common import retry_on_lost_database
from babylon_rl.orchestration.lost_database import RETRY_TAG, is_lost, retry_run_after_lost_database, watched

CLOSED = asyncpg.InterfaceError("cannot call Transaction.__aexit__(): the underlying connection is closed")
STORAGE = sqlalchemy.exc.OperationalError("SELECT 1", {}, Exception("server closed the connection"))


def _caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (UnreachableDatabaseError("no server", "start it"), True),
        (asyncpg.ConnectionDoesNotExistError("connection was closed in the middle of operation"), True),
        (CLOSED, True),
        (
            asyncpg.InternalClientError("cannot switch to state 15; another operation (2) is in progress"),
            True,
        ),
        (STORAGE, True),
        (DagsterPostgresException("too many retries for DB connection"), True),
        (_caused(ValueError("in a step"), STORAGE), True),
        (dg.RetryRequested(max_retries=3), False),
        (_caused(dg.RetryRequested(max_retries=3), CLOSED), True),
        (_caused(dg.Failure("wrong setup", allow_retries=False), ConnectionError("judge")), False),
        (asyncpg.InterfaceError("the server expects 2 arguments for this query, 1 was passed"), False),
        (asyncpg.UniqueViolationError("duplicate key"), False),
        (ValueError("a bug"), False),
        (None, False),
    ],
)
def test_what_counts_as_a_lost_database(error: Exception | None, lost: bool):
    assert is_lost(error) is lost


def test_a_connection_that_was_closed_between_two_statements_is_asked_again():
    with pytest.raises(dg.RetryRequested), retry_on_lost_database():
        raise CLOSED
    with pytest.raises(dg.Failure), retry_on_lost_database():
        raise _caused(dg.Failure("wrong setup"), ConnectionError("judge"))


@pytest.mark.parametrize(("error", "tag"), [(STORAGE, "true"), (ValueError("a bug"), None)])
def test_only_a_run_that_lost_its_database_is_started_again(error: Exception, tag: str | None):
    @dg.asset
    def made() -> None:
        raise error

    with dg.instance_for_test() as instance:
        result = dg.materialize(watched([made]), instance=instance, raise_on_error=False)
        run = instance.get_run_by_id(result.run_id)
    assert run is not None and not result.success
    assert run.tags.get(RETRY_TAG) == tag


def test_everything_but_the_training_is_watched():
    unwatched = [
        one.keys
        for one in (*(defs.assets or ()), *(defs.asset_checks or ()))
        if isinstance(one, dg.AssetsDefinition) and retry_run_after_lost_database not in one.hook_defs
    ]
    assert unwatched == [{dg.AssetKey("trained_checkpoint")}]
