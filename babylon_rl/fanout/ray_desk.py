"""A desk on a Ray cluster: a mailbox that tasks write to and the process that started them empties.

The mailbox is an actor on the node of that process and does nothing but pass on. A question that was taken is
answered even if the task that asked is gone: its successor asks again and finds what was learned.
"""

import asyncio
import itertools
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import import_module
from typing import Any

from babylon_rl.errors import BabylonError
from babylon_rl.fanout.errors import TaskError
from babylon_rl.fanout.workers import Desk, Handle

logger = logging.getLogger(__name__)

AT_ONCE = 10_000
"""Questions that wait at the same time, at most."""


class Mailbox:
    """The actor."""

    def __init__(self) -> None:
        self._numbers = itertools.count()
        self._questions: list[tuple[int, Any]] = []
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._arrived = asyncio.Event()

    async def ask(self, question: Any) -> Any:
        number = next(self._numbers)
        self._answers[number] = asyncio.get_running_loop().create_future()
        self._questions.append((number, question))
        self._arrived.set()
        return await self._answers[number]

    async def take(self) -> list[tuple[int, Any]]:
        await self._arrived.wait()
        self._arrived.clear()
        taken, self._questions = self._questions, []
        return taken

    async def answer(self, number: int, answer: Any) -> None:
        waiting = self._answers.pop(number, None)
        if waiting is not None and not waiting.done():
            waiting.set_result(answer)


class RayDesk:
    """What tasks hold."""

    def __init__(self, mailbox: Any) -> None:
        self._mailbox = mailbox

    async def ask(self, question: Any) -> Any:
        answer = await self._mailbox.ask.remote(question)
        if isinstance(answer, BabylonError):
            raise answer
        return answer


@asynccontextmanager
async def open_desk(ray: Any, handle: Handle) -> AsyncIterator[Desk]:
    """Opens a mailbox and answers what comes in; see `Workers.desk`."""
    strategies = import_module("ray.util.scheduling_strategies")
    here = strategies.NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    made = ray.remote(Mailbox).options(num_cpus=0, max_concurrency=AT_ONCE, scheduling_strategy=here)
    mailbox = made.remote()
    clerk = asyncio.create_task(_serve(mailbox, handle))
    try:
        yield RayDesk(mailbox)
    finally:
        clerk.cancel()
        await asyncio.gather(clerk, return_exceptions=True)
        ray.kill(mailbox)


async def _serve(mailbox: Any, handle: Handle) -> None:
    answering: set[asyncio.Task[None]] = set()
    try:
        while True:
            for number, question in await mailbox.take.remote():
                task = asyncio.create_task(_answer(mailbox, handle, number, question))
                answering.add(task)
                task.add_done_callback(answering.discard)
    finally:
        left = list(answering)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)


async def _answer(mailbox: Any, handle: Handle, number: int, question: Any) -> None:
    try:
        answer = await handle(question)
    except BabylonError as error:
        answer = error
    except Exception as error:
        logger.exception("a question of a task could not be answered")
        answer = TaskError(f"the process that started the task failed: {type(error).__name__}: {error}")
    await mailbox.answer.remote(number, answer)
