"""One verdict: from the cache, or by as many requests as it takes, each booked, bounded and checked."""

import asyncio
import random
import time
from collections.abc import Sequence
from typing import Any

from babylon_rl.scoring.judge import prompt as prompts
from babylon_rl.scoring.judge import views
from babylon_rl.scoring.judge.address import JudgeAddress
from babylon_rl.scoring.judge.cache import Verdict, VerdictCache, cache_key
from babylon_rl.scoring.judge.encoding import estimate_tokens
from babylon_rl.scoring.judge.errors import (
    ContextOverflowError,
    InvalidReplyError,
    JudgeError,
    JudgeSetupError,
    JudgeUnavailableError,
    RequestError,
    UnusableReplyError,
)
from babylon_rl.scoring.judge.ledger import Booking, Ledger, Usage
from babylon_rl.scoring.judge.prompt import Prompt, build_prompt
from babylon_rl.scoring.judge.replies import parse_reply
from babylon_rl.scoring.judge.rubric import Rubric
from babylon_rl.scoring.judge.transport import Answer, Transport
from babylon_rl.scoring.judge.views import EpisodeView

LONGEST_WAIT = 120.0
"""Seconds of Retry-After that are waited for; a judge that asks for more is not available now."""

FIRST_WAIT = 0.5
"""Seconds before the second attempt; doubled from then on, with jitter."""

GIVEN_UP_AFTER = 3
"""Verdicts in a row that found the judge unavailable; then the next ones do not try for a while."""
PAUSE = 30.0


class Gate:
    """Bounds the requests at one time, and holds all of them back while the judge asks for rest.

    Shared by everything that asks the same server. After `GIVEN_UP_AFTER` verdicts in a row without an answer
    it stays shut for `PAUSE` seconds, so that a day of windows does not wait for each timeout of its own.
    """

    def __init__(self, concurrency: int) -> None:
        self._places = asyncio.Semaphore(concurrency)
        self._open_at = 0.0
        self._failures = 0
        self._shut_until = 0.0
        self._last = ""

    async def __aenter__(self) -> None:
        await self._places.acquire()
        try:
            # Not an Event: the moment may move on while somebody waits for it.
            while (wait := self._open_at - time.monotonic()) > 0:  # noqa: ASYNC110
                await asyncio.sleep(wait)
            if time.monotonic() < self._shut_until:
                raise JudgeUnavailableError(
                    f"not tried, because {self._failures} verdicts in a row failed: {self._last}",
                    "Nothing was scored by default; run it again when the judge answers.",
                )
        except BaseException:
            self._places.release()
            raise

    async def __aexit__(self, *_: object) -> None:
        self._places.release()

    def rest(self, seconds: float) -> None:
        """Lets nobody in for so long; the limit of a rate is that of all requests together."""
        self._open_at = max(self._open_at, time.monotonic() + seconds)

    def answered(self) -> None:
        self._failures = 0

    def gave_up(self, problem: str) -> None:
        self._failures += 1
        self._last = problem
        if self._failures >= GIVEN_UP_AFTER:
            self._shut_until = time.monotonic() + PAUSE


class JudgeClient:
    """Asks one judge by one rubric.

    Args:
        address: Which judge.
        transport: How it is asked.
        rubric: By what it compares.
        ledger: Books and budget.
        gate: Shared by all clients of the same server.
        temperature: As the transport sends it; part of the cache key.
        attempts: Requests for one verdict.
    """

    def __init__(
        self,
        address: JudgeAddress,
        transport: Transport,
        rubric: Rubric,
        ledger: Ledger,
        gate: Gate,
        *,
        temperature: float,
        attempts: int,
    ) -> None:
        self.address, self.rubric = address, rubric
        self._transport, self._ledger, self._gate = transport, ledger, gate
        self._attempts = attempts
        self._cache = VerdictCache(ledger)
        self._parameters = {
            "judge": address.name,
            "host": address.host,
            "rubric": rubric.sha256,
            "temperature": temperature,
            "prompt": prompts.VERSION,
            "view": views.VERSION,
        }

    def fits(self, truth: dict[str, Any], tokens: int, count: int) -> bool:
        """Whether so many episodes of so many tokens can be read, and answered, at once."""
        asked = prompts.input_tokens(self.rubric, truth, tokens, count)
        return asked + prompts.output_tokens(count) <= self.address.context_tokens

    def key(self, truth: dict[str, Any], shown: Sequence[EpisodeView]) -> str:
        """Returns the hash under which the verdict on these episodes, in this order, is kept."""
        return cache_key(self._parameters, truth, [view.digest for view in shown])

    async def judge(
        self,
        window_id: str,
        truth: dict[str, Any],
        shown: Sequence[EpisodeView],
        purpose: str,
        usage: Usage,
    ) -> Verdict:
        """Returns scores in the order of `shown`, from the cache if they are there.

        `usage` grows by what it cost, also when it fails.

        Raises:
            JudgeSetupError: Key or model is wrong.
            JudgeUnavailableError: Also the last attempt found no judge.
            UnusableReplyError: Also the last attempt gave no valid answer.
            BudgetReachedError: The next request could exceed the budget.
        """
        key = self.key(truth, shown)
        kept = await self._cache.get(key)
        if kept is not None:
            usage.cached += 1
            return kept
        spent = Usage()
        try:
            verdict = await self._ask(window_id, truth, shown, purpose, key, spent)
        except ContextOverflowError:
            verdict = Verdict([], overflow=True)
        finally:
            usage.add(spent)
        tokens = (spent.input_tokens, spent.output_tokens)
        return await self._cache.put(key, self.address.name, verdict, tokens, spent.cost_usd)

    async def close(self) -> None:
        await self._transport.close()

    async def _ask(
        self,
        window_id: str,
        truth: dict[str, Any],
        shown: Sequence[EpisodeView],
        purpose: str,
        key: str,
        usage: Usage,
    ) -> Verdict:
        bodies = [view.body for view in shown]
        tokens = prompts.input_tokens(self.rubric, truth, sum(v.tokens for v in shown), len(shown))
        room, problem = prompts.output_tokens(len(shown)), None
        last: JudgeError | None = None
        for attempt in range(1, self._attempts + 1):
            asked = build_prompt(self.rubric, truth, bodies, problem=problem)
            booking = Booking(window_id, self.address.name, purpose, key, attempt)
            try:
                verdict = await self._request(asked, tokens, booking, room, usage)
            except InvalidReplyError as invalid:
                last, problem = invalid, invalid.kind.replace("_", " ")
                if invalid.kind == "truncated":
                    room *= 2
                continue
            except RequestError as failed:
                last = failed
                if not failed.retry or (failed.after or 0) > LONGEST_WAIT:
                    break
                if attempt < self._attempts:
                    await self._wait(attempt, failed.after)
                continue
            self._gate.answered()
            return verdict
        assert last is not None
        if isinstance(last, InvalidReplyError):
            raise UnusableReplyError(
                f"the judge {self.address.name} gave no usable answer in {self._attempts} attempts; the last "
                f"one was {last.kind.replace('_', ' ')} ({last.detail})",
                "Nothing was scored by default. Try again, or another JUDGE_MODEL.",
            )
        self._gate.gave_up(last.problem)
        raise JudgeUnavailableError(last.problem, last.remedy) from last

    async def _request(
        self, asked: Prompt, tokens: int, booking: Booking, room: int, usage: Usage
    ) -> Verdict:
        async with self._gate:
            most = self.address.price.cost(tokens, room)
            number = await self._ledger.book(booking, most)
            started = time.monotonic()
            settled = Usage(calls=1)
            status, problem = "interrupted", None
            settled.cost_usd = most  # of a request whose fate is unknown
            try:
                answer = await self._transport.send(asked.messages, asked.schema, room)
                self._count(settled, answer, tokens)
                scores = parse_reply(
                    answer.text, asked.ids, finish_reason=answer.finish_reason, refusal=answer.refusal
                )
                status = "ok"
                return Verdict([scores[name] for name in asked.ids])
            except InvalidReplyError as invalid:
                status, problem = invalid.kind, invalid.detail
                raise
            except RequestError as failed:
                status, problem = failed.kind, failed.problem
                if not failed.charged:
                    settled.cost_usd = 0.0
                raise
            except (JudgeSetupError, ContextOverflowError) as refused:
                status, problem, settled.cost_usd = "refused_request", refused.problem, 0.0
                raise
            finally:
                seconds = time.monotonic() - started
                # Also when this task is cancelled: what was asked is on the bill.
                await self._ledger.settle(number, status, settled, seconds, problem)
                usage.add(settled)

    def _count(self, settled: Usage, answer: Answer, tokens: int) -> None:
        counted = answer.input_tokens, answer.output_tokens
        settled.input_tokens = counted[0] if counted[0] is not None else tokens
        settled.output_tokens = counted[1] if counted[1] is not None else estimate_tokens(answer.text or "")
        settled.cost_usd = self.address.price.cost(settled.input_tokens, settled.output_tokens)

    async def _wait(self, attempt: int, after: float | None) -> None:
        if after is not None:
            self._gate.rest(after)
            return
        await asyncio.sleep(FIRST_WAIT * 2 ** (attempt - 1) * random.uniform(0.5, 1.0))
