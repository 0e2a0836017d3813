"""Policies of a known skill that answer the simulator's prompts."""

import random
from collections.abc import Sequence

from babylon_rl.policy.chat import ChatAnswer, ChatRequest
from babylon_rl.policy.errors import PromptTooLongError
from babylon_rl.simulation.market import HEADLINES
from babylon_rl.simulation.trader import MAX_SIZE, format_order


class Skilled:
    """Follows the strongest headline with probability `skill`, does the opposite with probability `folly`,
    and else trades at random."""

    def __init__(self, version: str, skill: float = 0.0, folly: float = 0.0) -> None:
        self.version, self.skill, self.folly = version, skill, folly

    async def complete(self, requests: Sequence[ChatRequest]) -> list[ChatAnswer]:
        return [self._answer(request) for request in requests]

    def _answer(self, request: ChatRequest) -> ChatAnswer:
        rng = random.Random(f"{request.seed}/{self.skill}/{self.folly}")
        lines = [line.split() for line in request.messages[-1]["content"].splitlines()[1:]]
        ticker, word = max(lines, key=lambda pair: (abs(HEADLINES.index(pair[1]) - 2), rng.random()))
        side, draw = ("BUY", "SELL")[HEADLINES.index(word) < 2], rng.random()
        if draw >= self.skill + self.folly:
            (ticker, word), side = rng.choice(lines), rng.choice(("BUY", "SELL"))
        elif draw >= self.skill:
            side = {"BUY": "SELL", "SELL": "BUY"}[side]
        return answer(format_order(ticker, word, side, MAX_SIZE), self.version)


class Fixed:
    """Says one thing, whatever it is asked; prompts longer than `context` characters are refused."""

    def __init__(self, version: str, content: str, context: int = 1_000_000) -> None:
        self.version, self.content, self.context = version, content, context

    async def complete(self, requests: Sequence[ChatRequest]) -> list[ChatAnswer]:
        for request in requests:
            if (length := len(str(request.messages))) > self.context:
                raise PromptTooLongError(length, request.max_tokens, self.context)
        return [answer(self.content, self.version) for _ in requests]


def answer(content: str, version: str) -> ChatAnswer:
    return ChatAnswer(content, "stop", [1], [2], [-0.1], version, "a model", "response", "template")
