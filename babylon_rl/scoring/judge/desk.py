"""A judge that is asked from afar: tasks on a cluster prepare windows, this process asks for their verdicts.

    office = Office(panels)                                  # here: keys, budget, limits, cache
    async with workers.desk(office.answer) as desk:
        RulerScorer(Panel(DeskClient(...)), ...)             # in a task

All requests of all tasks go through one gate and one ledger, and none through a worker: a worker that is lost
takes no answer with it that was paid for. Its successor's questions find the verdict in the cache, or join
the request that is still under way.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec
from pydantic import SecretStr

from babylon_rl.fanout import Desk
from babylon_rl.scoring.judge.address import NO_KEY, JudgeAddress
from babylon_rl.scoring.judge.cache import Verdict
from babylon_rl.scoring.judge.client import JudgeClient
from babylon_rl.scoring.judge.errors import JudgeError
from babylon_rl.scoring.judge.ledger import Usage
from babylon_rl.scoring.judge.panel import Panel
from babylon_rl.scoring.judge.rubric import Rubric
from babylon_rl.scoring.judge.views import EpisodeView


class Question(msgspec.Struct):
    """One verdict that a task needs."""

    judge: int
    """Which of the panels, in the order in which they were opened."""
    window_id: str
    truth: dict[str, Any]
    shown: list[EpisodeView]
    purpose: str


class Reply(msgspec.Struct):
    """The verdict or why there is none, and what it cost."""

    verdict: Verdict | JudgeError
    usage: Usage


class Office:
    """Answers questions with the panels' own clients.

    Args:
        panels: The judges; see `scorers.open_panels`.
    """

    def __init__(self, panels: Sequence[Panel]) -> None:
        self._panels = panels
        self._asked: dict[tuple[int, str], asyncio.Task[Reply]] = {}

    async def answer(self, question: Question) -> Reply:
        """Returns the reply; equal questions at the same time are asked once, and the first one pays."""
        client = self._panels[question.judge].client
        key = (question.judge, client.key(question.truth, question.shown))
        under_way = self._asked.get(key)
        if under_way is not None:
            reply = await asyncio.shield(under_way)
            return Reply(reply.verdict, Usage(cached=1))
        task = self._asked[key] = asyncio.create_task(_ask(client, question))
        try:
            return await task
        finally:
            del self._asked[key]


async def _ask(client: JudgeClient, question: Question) -> Reply:
    usage = Usage()
    try:
        verdict = await client.judge(
            question.window_id, question.truth, question.shown, question.purpose, usage
        )
    except JudgeError as problem:
        return Reply(problem, usage)
    return Reply(verdict, usage)


class Reach(msgspec.Struct, frozen=True):
    """What a task may know of a judge: all but its key."""

    address: JudgeAddress
    rubric: Rubric

    @classmethod
    def of(cls, panel: Panel) -> "Reach":
        address = msgspec.structs.replace(panel.client.address, key=SecretStr(NO_KEY))
        return cls(address, panel.client.rubric)


class DeskClient(JudgeClient):
    """The client of a task: knows what the judge can read, and leaves the asking to the desk."""

    def __init__(self, reach: Reach, judge: int, desk: Desk) -> None:
        self.address, self.rubric = reach.address, reach.rubric
        self._judge, self._desk = judge, desk

    async def judge(
        self,
        window_id: str,
        truth: dict[str, Any],
        shown: Sequence[EpisodeView],
        purpose: str,
        usage: Usage,
    ) -> Verdict:
        reply = await self._desk.ask(Question(self._judge, window_id, truth, list(shown), purpose))
        usage.add(reply.usage)
        if isinstance(reply.verdict, JudgeError):
            raise reply.verdict
        return reply.verdict

    async def close(self) -> None:
        """Nothing is open here."""
