"""The interface of workers, and where they come from."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Protocol, TypeVar

from babylon_rl.settings import Settings

Item = TypeVar("Item")
Result = TypeVar("Result")
Value_co = TypeVar("Value_co", covariant=True)

Handle = Callable[[Any], Awaitable[Any]]
"""Answers one question of a task, in the process that opened the workers."""


class Shared(Protocol[Value_co]):
    """A value that many tasks use and that travels to each machine once; itself it is small."""

    def get(self) -> Value_co:
        """Returns the value; to be called in a task."""
        ...


class Desk(Protocol):
    """Where tasks ask the process that started them; small, and part of their items."""

    async def ask(self, question: Any) -> Any:
        """Returns the answer, or raises what the other side raised.

        Raises:
            BabylonError: As the other side raised it.
        """
        ...


class Workers(Protocol):
    """Runs tasks elsewhere; safe to use from many asyncio tasks of one loop."""

    @property
    def width(self) -> int:
        """Tasks that run at the same time."""
        ...

    async def run(self, function: Callable[[Item], Result], item: Item) -> Result:
        """Runs one task; again elsewhere if its worker is lost.

        Raises:
            BabylonError: What the function raised.
            FanoutError: The cluster cannot run it.
        """
        ...

    async def share(self, value: Result) -> Shared[Result]:
        """Puts a value where every task can get it.

        Raises:
            FanoutError: There is no room for it.
        """
        ...

    def desk(self, handle: Handle) -> AbstractAsyncContextManager[Desk]:
        """Opens a desk, at which `handle` answers in this process for as long as it is open.

        Keys, database connections and limits stay here, and an answer outlives the task that asked.
        """
        ...


async def map_tasks(
    workers: Workers, function: Callable[[Item], Result], items: Iterable[Item]
) -> list[Result]:
    """Runs a task per item and returns the results in the order of the items.

    Raises:
        BabylonError: The first failure; the other tasks are given up.
    """
    tasks = [asyncio.ensure_future(workers.run(function, item)) for item in items]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def open_workers(settings: Settings) -> AsyncIterator[Workers | None]:
    """Joins the cluster that RAY_ADDRESS names; gives None where it names none.

    Raises:
        FanoutError: Ray is not installed, no cluster answers, or it cannot run this code.
    """
    if settings.ray_address is None:
        yield None
        return
    from babylon_rl.fanout.ray_workers import open_ray

    async with open_ray(settings.ray_address) as workers:
        yield workers
