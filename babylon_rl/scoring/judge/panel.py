"""A group's scores by one judge: identical episodes once, in seeded orders, in parts where they are too many.

Every request's verdict is kept as soon as it arrives, so a window that was interrupted goes on where it
stopped, and one that was judged before costs nothing.
"""

import asyncio
import hashlib
import random
from collections.abc import Sequence
from typing import Any

import msgspec

from babylon_rl.scoring.agreement import flip_rate, mean_spread
from babylon_rl.scoring.judge.canary import is_fooled, make_canary
from babylon_rl.scoring.judge.client import JudgeClient
from babylon_rl.scoring.judge.ledger import Usage
from babylon_rl.scoring.judge.replies import EpisodeScore
from babylon_rl.scoring.judge.rubric import CRITERIA
from babylon_rl.scoring.judge.split import halve, reunite, split
from babylon_rl.scoring.judge.views import EpisodeView


class PanelVerdict(msgspec.Struct, kw_only=True):
    """What a judge made of a group; lists are in the order of the views that were given."""

    scores: list[float]
    """Means over the orders, from 0 to 1."""
    by_order: list[list[float]]
    """Scores in each order, shape `(orders, episodes)`."""
    reasons: list[str]
    """Of the first order."""
    components: list[dict[str, float]]
    """Means over the orders, by criterion."""
    canaries: list[float]
    """Scores of the canaries that were among them."""
    fooled: bool
    """Whether a canary got a score that it is not worth."""

    @property
    def spread(self) -> float | None:
        """Mean distance between an episode's lowest and highest score over the orders; None for one order."""
        return mean_spread(self.by_order)

    @property
    def spreads(self) -> list[float | None]:
        """That distance for each episode."""
        if len(self.by_order) < 2:
            return [None] * len(self.scores)
        return [max(column) - min(column) for column in zip(*self.by_order, strict=True)]

    @property
    def flips(self) -> float | None:
        """Share of pairs of episodes whose order depends on the order of the request."""
        return flip_rate(self.by_order)


class _Order(msgspec.Struct):
    """The scores of one order, by distinct episode."""

    scores: list[float]
    said: list[EpisodeScore]
    canaries: list[float]
    fooled: bool


class Panel:
    """Judges groups through one client.

    Args:
        client: The judge.
        orders: How many orders are judged and averaged.
        canary_rate: Share of the orders that have a canary in each of their requests.
    """

    def __init__(self, client: JudgeClient, *, orders: int = 1, canary_rate: float = 0.0) -> None:
        self.client, self.orders, self._canary_rate = client, orders, canary_rate

    async def judge(
        self,
        window_id: str,
        truth: dict[str, Any],
        views: Sequence[EpisodeView],
        usage: Usage,
        *,
        purpose: str = "score",
        first_order: int = 0,
        canary: bool = False,
    ) -> PanelVerdict:
        """Judges a group.

        Args:
            window_id: For the books.
            truth: What the judge is told of the window.
            views: One per episode.
            usage: Grows by what this costs, also when it fails.
            purpose: For the books.
            first_order: Number of the first seeded order; other numbers give other orders.
            canary: Put a canary into every request, whatever the rate says.

        Raises:
            JudgeError: See `JudgeClient.judge`. What arrived before is kept and need not be paid again.
        """
        distinct = {view.digest: view for view in sorted(views, key=lambda view: view.digest)}
        shown = list(distinct.values())
        place = {digest: i for i, digest in enumerate(distinct)}
        seed = hashlib.sha256("".join(distinct).encode()).hexdigest()
        asked = [
            self._order(window_id, truth, shown, (seed, number), purpose, usage, canary)
            for number in range(first_order, first_order + self.orders)
        ]
        # All are awaited before the first failure is raised: what is on its way is paid for, so it is kept.
        orders = _all_or_raise(await asyncio.gather(*asked, return_exceptions=True))
        chosen = [place[view.digest] for view in views]
        by_order = [[order.scores[i] for i in chosen] for order in orders]
        return PanelVerdict(
            scores=[sum(column) / len(column) for column in zip(*by_order, strict=True)],
            by_order=by_order,
            reasons=[orders[0].said[i].reason for i in chosen],
            components=[_mean_components([order.said[i] for order in orders]) for i in chosen],
            canaries=[score for order in orders for score in order.canaries],
            fooled=any(order.fooled for order in orders),
        )

    async def _order(
        self,
        window_id: str,
        truth: dict[str, Any],
        distinct: Sequence[EpisodeView],
        order: tuple[str, int],
        purpose: str,
        usage: Usage,
        canary: bool,
    ) -> _Order:
        seed = f"{order[0]}:{order[1]}"
        shuffled = permutation(len(distinct), *order)
        lot = random.Random(seed).random()
        guest = make_canary(truth, seed) if canary or lot < self._canary_rate else None
        extra = guest.tokens if guest else 0
        tokens = [distinct[i].tokens for i in shuffled]
        parts = split(tokens, lambda total, n: self.client.fits(truth, total + extra, n + bool(guest)))

        async def judge_part(part: list[int]) -> list[tuple[list[int], list[EpisodeScore], float | None]]:
            views = [distinct[shuffled[i]] for i in part]
            at = random.Random(f"{seed}:{part}").randint(0, len(views))
            request = [*views[:at], guest, *views[at:]] if guest else views
            verdict = await self.client.judge(window_id, truth, request, purpose, usage)
            if verdict.overflow:
                halves = [judge_part(half) for half in halve(part, tokens)]
                return [
                    entry
                    for found in _all_or_raise(await asyncio.gather(*halves, return_exceptions=True))
                    for entry in found
                ]
            scores = list(verdict.scores)
            canary_score = scores.pop(at).score if guest else None
            return [(part, scores, canary_score)]

        judged = _all_or_raise(
            await asyncio.gather(*(judge_part(part) for part in parts), return_exceptions=True)
        )
        pieces = [piece for found in judged for piece in found]
        scores = reunite(
            [p for p, _, _ in pieces], [[s.score for s in said] for _, said, _ in pieces], len(tokens)
        )
        said: dict[int, EpisodeScore] = {}
        for part, own, _ in pieces:
            for i, score in zip(part, own, strict=True):
                said.setdefault(shuffled[i], score)
        position = {original: i for i, original in enumerate(shuffled)}
        return _Order(
            scores=[scores[position[i]] for i in range(len(distinct))],
            said=[said[i] for i in range(len(distinct))],
            canaries=[score for _, _, score in pieces if score is not None],
            fooled=any(
                is_fooled(score, [entry.score for entry in own])
                for _, own, score in pieces
                if score is not None
            ),
        )


def permutation(count: int, seed: str, number: int) -> list[int]:
    """Returns the seeded order with this number.

    Order 0 is a shuffle, 1 the same backwards, 2 and 3 these two turned by an eighth, and so on: a judge with
    a liking for places meets each episode in several of them, and small groups do not repeat an order by
    chance.
    """
    order = list(range(count))
    random.Random(seed).shuffle(order)
    turned = (number // 2) * max(1, count // 8) % max(1, count)
    order = order[turned:] + order[:turned]
    return order[::-1] if number % 2 else order


def _all_or_raise(found: Sequence[Any]) -> list[Any]:
    for result in found:
        if isinstance(result, BaseException):
            raise result
    return list(found)


def _mean_components(said: Sequence[EpisodeScore]) -> dict[str, float]:
    rated = {name: [s.components[name] for s in said if name in s.components] for name in CRITERIA}
    return {name: sum(values) / len(values) for name, values in rated.items() if values}
