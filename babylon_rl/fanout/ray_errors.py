"""What Ray's errors mean, in a line each."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from babylon_rl.fanout.errors import FanoutError

AGAIN = "Run it again: what was finished is kept."


@contextmanager
def explained(ray: Any) -> Iterator[None]:
    """Turns Ray's own errors into a `FanoutError`; what a task raised passes."""
    try:
        yield
    except ray.exceptions.RayError as error:
        known = explain(ray, error)
        if known is None:
            raise
        raise known from error


def explain(ray: Any, error: Any) -> FanoutError | None:
    """Returns what an error of Ray means for its user; None for a defect of a task, which keeps its trace."""
    e = ray.exceptions
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    if isinstance(error, e.RayTaskError):
        cause = getattr(error, "cause", None)
        own = isinstance(cause, e.RayError) and not isinstance(cause, e.RayTaskError)
        return explain(ray, cause) if own else None
    if isinstance(error, e.ObjectStoreFullError | e.OutOfDiskError):
        what = "disk" if isinstance(error, e.OutOfDiskError) else "object store"
        return FanoutError(
            f"the {what} of a Ray node is full",
            "Start the nodes with a larger --object-store-memory or more room to spill, then run it again.",
        )
    if isinstance(error, e.OutOfMemoryError):
        return FanoutError(
            f"a Ray node ran out of memory: {first[:200]}",
            f"Give its workers more memory or fewer CPUs. {AGAIN}",
        )
    if isinstance(error, e.WorkerCrashedError | e.NodeDiedError | e.ObjectLostError | e.RayActorError):
        return FanoutError(f"the Ray cluster lost workers faster than tasks finish: {first[:200]}", AGAIN)
    return FanoutError(f"the Ray cluster failed: {first[:200]}", f"Look at its logs. {AGAIN}")
