"""Group commit: trajectories that end at about the same time share a transaction and its flush to disk.

Every caller waits until its own rows are committed. While a few connections are storing, the ends that arrive
wait and are taken together next. Where the server refuses a group, its members are stored one by one, so that
a bad one harms nobody.
"""

import asyncio
import os
from collections import deque
from dataclasses import dataclass
from typing import Any

import asyncpg

from babylon_rl.recorder.errors import NotStoredError, RecorderError
from babylon_rl.recorder.storage import explained, store, store_group

LARGEST_GROUP = 16
"""Trajectories of one transaction; with more of them the first ones only wait longer."""

SMALLEST_SHARE = 2
"""What a writer takes where others are free: below, a flush to disk costs more than another core brings."""

_LARGEST_BYTES = 8 * 1024 * 1024  # of steps in one statement; the calls add about as much


@dataclass
class _Ended:
    """One trajectory on its way to the disk."""

    row: dict[str, Any]
    calls: list[dict[str, Any]]
    is_new: asyncio.Future[bool]


class GroupCommit:
    """Stores ended trajectories through a pool to the game's database."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool
        self._waiting: deque[_Ended] = deque()
        # The server compresses on the core of each connection: fewer writers leave its cores idle.
        self._most_writers = min(pool.get_max_size(), max(4, os.cpu_count() or 1))
        self._writers = 0
        self._storing = 0  # writers that hold a group
        self._tasks: set[asyncio.Task[None]] = set()  # the loop itself holds tasks only weakly

    async def store(self, row: dict[str, Any], calls: list[dict[str, Any]]) -> bool:
        """Stores one trajectory and its calls; committed when it returns. Returns whether it was new.

        Raises:
            RecorderError: As `storage.store`.
        """
        ended = _Ended(row, calls, asyncio.get_running_loop().create_future())
        self._waiting.append(ended)
        if self._writers < self._most_writers:
            self._writers += 1
            task = asyncio.create_task(self._write())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return await ended.is_new

    async def _write(self) -> None:
        """Stores groups until nothing waits."""
        try:
            await asyncio.sleep(0)  # who ends in this turn of the loop joins the first group
            while group := self._next_group():
                await self._store_groups(group)
        finally:
            # Nothing is awaited since the last look, so nobody can have ended unseen.
            self._writers -= 1

    async def _store_groups(self, group: list[_Ended]) -> None:
        """Stores `group` and what comes after it over one connection, as long as that lives."""
        try:
            with explained(len(group)):
                async with self._pool.acquire() as connection:
                    while group:
                        self._storing += 1
                        try:
                            is_usable = await _store_group(connection, group)
                        finally:
                            self._storing -= 1
                        # Who was just answered may end the next one at once: giving the connection back and
                        # taking it again would cost a round trip.
                        await asyncio.sleep(0)
                        group = self._next_group() if is_usable else []
        except Exception as problem:
            for ended in group:
                _settle(ended, problem)
        except BaseException:
            for ended in group:
                ended.is_new.cancel()
            raise

    def _next_group(self) -> list[_Ended]:
        """The oldest of those that wait: a share that leaves something to do for the free writers."""
        share = max(-(-len(self._waiting) // (self._most_writers - self._storing)), SMALLEST_SHARE)
        group: list[_Ended] = []
        size = 0
        while self._waiting and len(group) < min(share, LARGEST_GROUP) and size < _LARGEST_BYTES:
            ended = self._waiting.popleft()
            if not ended.is_new.done():  # else its caller was cancelled
                group.append(ended)
                size += len(ended.row["stepsJson"])
        return group


async def _store_group(connection: Any, group: list[_Ended]) -> bool:
    """Stores a group and answers its callers. Returns whether the connection can be used for another one."""
    is_usable, alone = True, group
    if len(group) > 1:
        try:
            calls = [call for ended in group for call in ended.calls]
            new = await store_group(connection, [ended.row for ended in group], calls)
        except RecorderError:
            pass  # one of them is in the way: see which
        else:
            alone = [ended for ended in group if ended.row["trajectoryId"] not in new]
            for ended in group:
                if ended.row["trajectoryId"] in new:
                    _settle(ended, True)
    for ended in alone:
        try:
            _settle(ended, bool(await store(connection, [ended.row], ended.calls)))
        except RecorderError as problem:
            _settle(ended, problem)
            # The driver does not always notice at once that a connection is lost.
            is_usable = is_usable and not isinstance(problem, NotStoredError)
    return is_usable and not connection.is_closed()


def _settle(ended: _Ended, result: bool | Exception) -> None:
    if ended.is_new.done():
        return
    if isinstance(result, Exception):
        ended.is_new.set_exception(result)
    else:
        ended.is_new.set_result(result)
