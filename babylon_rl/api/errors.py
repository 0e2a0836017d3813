"""Refusals of the admin API: the seeds' `{"success": false, "error": …}`, with the right status."""

from typing import Any

from babylon_rl.database.errors import MissingMigrationError, MissingRoleError, UnreachableDatabaseError
from babylon_rl.deployment.errors import (
    DeploymentError,
    InvalidVersionError,
    NothingToRollBackError,
    StrategyError,
    UnknownVersionError,
)
from babylon_rl.errors import BabylonError


class AdminError(BabylonError):
    """A request that is refused.

    Args:
        status: HTTP status of the answer.
        retry_after: seconds after which asking again makes sense; sent as ``Retry-After``.
        more: further keys of the answer.
    """

    def __init__(
        self,
        status: int,
        problem: str,
        remedy: str = "",
        *,
        retry_after: int | None = None,
        **more: Any,
    ) -> None:
        super().__init__(problem, remedy)
        self.status, self.retry_after, self.more = status, retry_after, more

    def body(self) -> dict[str, Any]:
        return {"success": False, "error": str(self), **self.more}


_STATUSES: tuple[tuple[type[BabylonError], int], ...] = (
    (UnknownVersionError, 404),
    (InvalidVersionError, 400),
    (StrategyError, 400),
    (NothingToRollBackError, 400),  # as the game's own route answers
    (DeploymentError, 409),
    (UnreachableDatabaseError, 503),
    (MissingMigrationError, 503),
    (MissingRoleError, 503),
)


def as_admin_error(problem: BabylonError) -> AdminError:
    """Any of our errors as an answer; those that nobody expected here are the request's fault (400)."""
    if isinstance(problem, AdminError):
        return problem
    status = next((status for kind, status in _STATUSES if isinstance(problem, kind)), 400)
    return AdminError(status, problem.problem, problem.remedy, retry_after=5 if status == 503 else None)
