"""Many frozen windows, scored in order: here, or on a cluster's workers where a judge has to be asked.

    async for scored in score_stream(windows, settings, connect):
        scored.group

On a cluster a task reads a bundle of windows, prepares what the judge sees and makes the groups; every
request to a judge is made by this process (`judge/desk.py`), so its limits hold for all tasks together.
"""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING

from pydantic import SecretStr

from babylon_rl.fanout import Desk, Shared, Workers, open_workers
from babylon_rl.scoring.frozen import KeptWindow
from babylon_rl.scoring.pipeline import in_order
from babylon_rl.scoring.scorers import JUDGED, Connect, open_judges, open_scorer, ruler_of, ruler_rules
from babylon_rl.scoring.window_scorer import ScoredWindow, WindowScorer
from babylon_rl.settings import Settings

if TYPE_CHECKING:
    from babylon_rl.scoring.judge.desk import Reach
    from babylon_rl.scoring.judge.ruler import RulerRules

AHEAD = 4
"""Windows that are read while all places at the judge are taken."""
BUNDLE = 8
"""Windows per task, at most: so many are prepared again when a worker is lost."""


async def score_stream(
    windows: AsyncIterable[KeptWindow], settings: Settings, connect: Connect
) -> AsyncIterator[ScoredWindow]:
    """Scores windows and yields them in their order.

    Args:
        windows: Asked for by the caller's own task.
        settings: Which scorer, and how; RAY_ADDRESS says where.
        connect: Opens the connection on which a judge keeps verdicts and books.

    Raises:
        ScoringError: No window can be scored like this.
        FanoutError: The cluster cannot be used.
    """
    if settings.scorer in JUDGED:
        async with open_workers(settings) as workers:
            if workers is not None:
                async for scored in _score_there(workers, windows, settings, connect):
                    yield scored
                return
    async with open_scorer(settings, connect) as scorer:
        at_once = settings.judge_concurrency + AHEAD if settings.scorer in JUDGED else 1
        async for _, scored in in_order(windows, lambda window: _score(scorer, window), at_once):
            yield scored


async def _score(scorer: WindowScorer, frozen: KeptWindow) -> ScoredWindow:
    began, window = monotonic(), frozen.load()
    scored = window.complete(await scorer.score(window.window))
    scored.seconds = monotonic() - began
    return scored


@dataclass(frozen=True)
class Bundle:
    """Windows that one task scores."""

    windows: list[KeptWindow]
    desk: Desk
    recipe: "Shared[Recipe]"


@dataclass(frozen=True)
class Recipe:
    """How to score, without what only the asking process may know."""

    settings: Settings
    """Without keys and addresses of databases."""
    reaches: "tuple[Reach, ...]"
    rules: "RulerRules"
    """With the secret values that must not reach a judge: a cluster is inside of the trust that they need."""


async def _score_there(
    workers: Workers, windows: AsyncIterable[KeptWindow], settings: Settings, connect: Connect
) -> AsyncIterator[ScoredWindow]:
    from babylon_rl.scoring.judge.desk import Office, Reach

    async with AsyncExitStack() as stack:
        panels = await open_judges(stack, settings, connect)
        desk = await stack.enter_async_context(workers.desk(Office(panels).answer))
        reaches = tuple(Reach.of(panel) for panel in panels)
        recipe = await workers.share(Recipe(_without_secrets(settings), reaches, ruler_rules(settings)))
        at_once = settings.judge_concurrency + AHEAD
        size = max(1, min(BUNDLE, -(-at_once // workers.width)))
        bundles = _bundles(windows, size, desk, recipe)
        async for _, scored in in_order(bundles, lambda b: workers.run(score_bundle, b), workers.width + 1):
            for window in scored:
                yield window


async def _bundles(
    windows: AsyncIterable[KeptWindow], size: int, desk: Desk, recipe: "Shared[Recipe]"
) -> AsyncIterator[Bundle]:
    waiting: list[KeptWindow] = []
    async for window in windows:
        waiting.append(window)
        if len(waiting) == size:
            yield Bundle(waiting, desk, recipe)
            waiting = []
    if waiting:
        yield Bundle(waiting, desk, recipe)


def score_bundle(bundle: Bundle) -> list[ScoredWindow]:
    """A task: scores its windows at the same time."""
    return asyncio.run(_score_bundle(bundle))


async def _score_bundle(bundle: Bundle) -> list[ScoredWindow]:
    from babylon_rl.scoring.judge.desk import DeskClient
    from babylon_rl.scoring.judge.panel import Panel

    recipe = bundle.recipe.get()
    settings = recipe.settings
    panels = [
        Panel(
            DeskClient(reach, number, bundle.desk),
            orders=settings.judge_orders,
            canary_rate=settings.judge_canary_rate,
        )
        for number, reach in enumerate(recipe.reaches)
    ]
    scorer = ruler_of(panels, recipe.rules, settings)
    found = await asyncio.gather(*(_score(scorer, w) for w in bundle.windows), return_exceptions=True)
    # All are awaited before the first failure is raised: what was asked is paid for, so it is kept.
    for result in found:
        if isinstance(result, BaseException):
            raise result
    return [result for result in found if isinstance(result, ScoredWindow)]


def _without_secrets(settings: Settings) -> Settings:
    secret = [name for name in type(settings).model_fields if isinstance(getattr(settings, name), SecretStr)]
    return settings.model_copy(update=dict.fromkeys(secret))
