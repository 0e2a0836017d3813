"""Answers that a server is paid for: estimated first, limited per day, and kept as they come.

    paid = await PaidPolicy.open(policy, rl, plan, prices, daily_budget)
    print(paid.estimate)                       # of what is not there yet
    await paid.require_budget()                # refuses before the first request
    answers = await paid.complete(requests)

A request is booked with the most that it can cost before it is made, under a lock, so that the limit also
holds against other processes and against a crash: what was booked and never answered stays spent. A
repetition takes the answers that came before and pays for the others only.
"""

import asyncio
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import asyncpg

from babylon_rl.errors import BabylonError
from babylon_rl.policy.chat import ChatAnswer, ChatRequest, Policy
from babylon_rl.policy.errors import PolicyError, PromptTooLongError
from babylon_rl.serving.target_policy import CONCURRENCY
from babylon_rl.training.costs import PriceTable
from babylon_rl.training.resample import RecordedPrompt

CHARACTERS_PER_TOKEN = 4

_LOCK = "SELECT pg_advisory_xact_lock(hashtext('babylon_rl'), hashtext('rl.paid_answers'))"
_KEPT = """
SELECT request_key, answer FROM rl.paid_answers WHERE request_key = ANY($1::text[]) AND answer IS NOT NULL
"""
_SPENT = """
SELECT coalesce(sum(cost_usd), 0)::float8 FROM rl.paid_answers
 WHERE asked_at >= date_trunc('day', now() AT TIME ZONE 'UTC') AT TIME ZONE 'UTC'
"""
# What an earlier attempt booked and never got stays spent.
_BOOK = """
INSERT INTO rl.paid_answers AS known (request_key, version, agent_id, cost_usd) VALUES ($1, $2, $3, $4)
ON CONFLICT (request_key) DO UPDATE SET cost_usd = known.cost_usd + excluded.cost_usd, asked_at = now()
"""
_SETTLE = """
UPDATE rl.paid_answers
   SET answer = $3, prompt_tokens = $4, answer_tokens = $5, cost_usd = greatest(0, cost_usd - $2 + $6)
 WHERE request_key = $1
"""
_RELEASE = "UPDATE rl.paid_answers SET cost_usd = greatest(0, cost_usd - $2) WHERE request_key = $1"
_BILL = """
SELECT count(answer) AS answers, coalesce(sum(prompt_tokens), 0) AS prompt_tokens,
       coalesce(sum(answer_tokens), 0) AS answer_tokens, coalesce(sum(cost_usd), 0)::float8 AS usd
  FROM rl.paid_answers WHERE request_key = ANY($1::text[])
"""


class AnswerBudgetError(BabylonError):
    """Asking could exceed the day's budget."""


@dataclass(frozen=True)
class AnswerEstimate:
    """What asking will use, before anything is asked."""

    answers: int
    kept: int
    """Answers that are there from an earlier attempt."""
    prompt_tokens: int
    """About; a quarter of the characters."""
    answer_tokens: int
    """At most."""
    usd: float

    def __str__(self) -> str:
        kept = f" ({self.kept} more are there already)" if self.kept else ""
        return (
            f"{self.answers} paid answers{kept}, about {self.prompt_tokens:,} prompt tokens and at most "
            f"{self.answer_tokens:,} answer tokens, ${self.usd:,.2f} by the price table"
        )


class PaidPolicy:
    """A policy behind a server, whose answers are booked and kept in `rl.paid_answers`; see `open`."""

    def __init__(
        self,
        policy: Policy,
        rl: asyncpg.Connection,
        agents: Mapping[str, str],
        kept: Mapping[str, ChatAnswer],
        estimate: AnswerEstimate,
        prices: PriceTable,
        daily_budget: float,
    ) -> None:
        self._policy, self._rl, self._prices, self._budget = policy, rl, prices, daily_budget
        self._agents, self._kept = agents, dict(kept)
        self._turn = asyncio.Lock()
        """Held while the connection is used."""
        self.estimate = estimate

    @classmethod
    async def open(
        cls,
        policy: Policy,
        rl: asyncpg.Connection,
        plan: Sequence[tuple[RecordedPrompt, ChatRequest]],
        prices: PriceTable,
        daily_budget: float,
    ) -> "PaidPolicy":
        """Looks up what is there already; asks nobody.

        Args:
            rl: Nobody else may use it while answers are asked for.
            plan: Every request that will be made, and the prompt that it is about.
            daily_budget: Dollars per UTC day, of all batches together.
        """
        agents = {_key(policy.version, request): prompt.agent_id for prompt, request in plan}
        rows = await rl.fetch(_KEPT, list(agents))
        kept = {row["request_key"]: ChatAnswer(**row["answer"]) for row in rows}
        left = [request for _, request in plan if _key(policy.version, request) not in kept]
        read, written = sum(map(_prompt_tokens, left)), sum(request.max_tokens for request in left)
        usd = prices.answers(len(left), read, written)
        estimate = AnswerEstimate(len(left), len(kept), read, written, usd)
        return cls(policy, rl, agents, kept, estimate, prices, daily_budget)

    @property
    def version(self) -> str:
        return self._policy.version

    async def require_budget(self) -> None:
        """Raises AnswerBudgetError if the estimate exceeds what is left of the day's budget."""
        spent = await spent_today(self._rl)
        if self.estimate.usd > 0 and spent + self.estimate.usd > self._budget:
            raise AnswerBudgetError(
                f"{self.estimate} exceed the budget: ${spent:.2f} of the day's ${self._budget:g} for answers "
                "are spent or reserved",
                "Raise RESAMPLE_DAILY_BUDGET_USD, lower RESAMPLE_PROMPTS or RESAMPLE_ANSWERS, or wait for "
                "the next UTC day. An own server's prices are set to 0 in PRICE_TABLE.",
            )

    async def complete(self, requests: Sequence[ChatRequest]) -> list[ChatAnswer]:
        """Answers in order; those that came are kept, whatever became of the others.

        Raises:
            AnswerBudgetError: The next request could exceed the budget.
            PolicyError: The server did not answer; nobody was asked any more after that.
        """
        free, problems, failed = asyncio.Semaphore(CONCURRENCY), list[BabylonError](), list[BabylonError]()

        async def one(request: ChatRequest) -> ChatAnswer | None:
            async with free:
                if failed:
                    return None
                try:
                    return await self._answer(request)
                except PromptTooLongError as problem:
                    problems.append(problem)
                except (PolicyError, AnswerBudgetError) as problem:
                    failed.append(problem)

        answers = await asyncio.gather(*map(one, requests))
        if failed or problems:
            raise [*failed, *problems][0]
        return [answer for answer in answers if answer is not None]

    async def bill(self) -> dict[str, float]:
        """What the planned answers cost, in whichever attempt they were asked for."""
        row = await self._rl.fetchrow(_BILL, list(self._agents))
        assert row is not None
        return {f"paid_{name}": float(value) for name, value in row.items()}

    async def _answer(self, request: ChatRequest) -> ChatAnswer:
        key = _key(self.version, request)
        if (known := self._kept.get(key)) is not None:
            return known
        most = self._prices.answers(1, _prompt_tokens(request), request.max_tokens)
        await self._book(key, most)
        try:
            [answer] = await self._policy.complete([request])
        except PolicyError:
            async with self._turn:
                await self._rl.execute(_RELEASE, key, most)
            raise
        if not all(map(math.isfinite, answer.logprobs)):  # no JSON, and nothing to learn from
            answer = replace(answer, logprobs=[])
        read = answer.prompt_tokens if answer.prompt_tokens is not None else _prompt_tokens(request)
        written = answer.answer_tokens if answer.answer_tokens is not None else _tokens(answer.content)
        cost = self._prices.answers(1, read, written)
        async with self._turn:
            await self._rl.execute(_SETTLE, key, most, asdict(answer), read, written, cost)
        self._kept[key] = answer
        return answer

    async def _book(self, key: str, most: float) -> None:
        async with self._turn, self._rl.transaction():
            if most > 0:
                await self._rl.execute(_LOCK)
                spent = await spent_today(self._rl)
                if spent + most > self._budget:
                    raise AnswerBudgetError(
                        f"${spent:.2f} of the day's ${self._budget:g} for answers are spent or reserved, and "
                        f"the next may cost ${most:.4f}",
                        "Raise RESAMPLE_DAILY_BUDGET_USD or wait for the next UTC day; what was answered is "
                        "kept.",
                    )
            await self._rl.execute(_BOOK, key, self.version, self._agents.get(key, ""), most)


async def spent_today(rl: asyncpg.Connection) -> float:
    """Dollars of this UTC day, reserved ones included."""
    return float(await rl.fetchval(_SPENT) or 0.0)


def _key(version: str, request: ChatRequest) -> str:
    asked = [version, *asdict(request).values()]
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


def _prompt_tokens(request: ChatRequest) -> int:
    return sum(_tokens(message["content"]) for message in request.messages)


def _tokens(text: str) -> int:
    return -(-len(text) // CHARACTERS_PER_TOKEN)
