"""Working on several windows at once, with results in order and a bounded number in memory."""

import asyncio
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


async def in_order(
    items: AsyncIterable[Item], work: Callable[[Item], Awaitable[Result]], at_once: int
) -> AsyncIterator[tuple[Item, Result]]:
    """Yields every item with its result, in the order of the items.

    Items are asked for, and results given out, by the caller's own task, so both may use a connection that
    nobody else uses meanwhile. Only `work` runs at the same time.

    Args:
        items: What there is to do.
        work: What is done; an exception of it comes out here, and ends what is still running.
        at_once: Items that are begun and not yet given out, at most.
    """
    running: deque[tuple[Item, asyncio.Task[Result]]] = deque()
    try:
        async for item in items:
            running.append((item, asyncio.ensure_future(_await(work(item)))))
            # Whoever waits for an answer goes on before the next item is prepared.
            await asyncio.sleep(0)
            while len(running) >= at_once or (running and running[0][1].done()):
                first, task = running.popleft()
                yield first, await task
        while running:
            first, task = running.popleft()
            yield first, await task
    finally:
        for _, task in running:
            task.cancel()
        await asyncio.gather(*(task for _, task in running), return_exceptions=True)


async def _await(work: Awaitable[Result]) -> Result:
    return await work
