"""Two judges, rubrics or numbers of orders on the same windows: do they agree with each other and the money?

Nothing is stored but the verdicts and their cost: scores and rewards stay as they are. Verdicts come from the
cache where they were paid for before.
"""

import asyncio
from collections.abc import AsyncIterable, Sequence
from contextlib import AsyncExitStack
from itertools import combinations
from pathlib import Path
from typing import Any

import asyncpg
import msgspec

from babylon_rl.scoring.agreement import kendall_tau, mean_of
from babylon_rl.scoring.dropout import kept_agents
from babylon_rl.scoring.judge.errors import JudgeError, JudgeSetupError
from babylon_rl.scoring.judge.ledger import Ledger, Usage
from babylon_rl.scoring.judge.panel import Panel, PanelVerdict
from babylon_rl.scoring.judge.redaction import Redactor, known_secrets
from babylon_rl.scoring.judge.rubric import load_rubric
from babylon_rl.scoring.judge.truth import ground_truth
from babylon_rl.scoring.judge.views import EpisodeView, build_views
from babylon_rl.scoring.scorers import open_panels
from babylon_rl.scoring.window_scorer import WindowToScore
from babylon_rl.settings import Settings


class Variant(msgspec.Struct, frozen=True):
    """One way to judge."""

    model: str
    rubric: Path | None = None
    orders: int = 2

    @property
    def name(self) -> str:
        rubric = f", {self.rubric.name}" if self.rubric else ""
        return f"{self.model}{rubric}, {self.orders} order{'s' * (self.orders > 1)}"


class VariantReport(msgspec.Struct, kw_only=True):
    """What one variant made of the windows; means over windows, None where nothing can be said."""

    name: str
    windows: int = 0
    failed: int = 0
    problem: str = ""
    """Of the first window that failed."""
    kendall_pnl: float | None = None
    """Kendall's tau-b of scores and attributed P&L."""
    flip_rate: float | None = None
    """Share of pairs of episodes whose order depends on the order of the request; None for one order."""
    spread: float | None = None
    """Distance between an episode's lowest and highest score over the orders."""
    calls: int = 0
    cached: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float = 0.0


class PairReport(msgspec.Struct, kw_only=True):
    """How two variants agree: Kendall's tau-b of their scores, averaged over the windows that both judged."""

    first: str
    second: str
    windows: int
    kendall: float | None


class Comparison(msgspec.Struct, kw_only=True):
    """The result."""

    windows: int
    episodes: int
    variants: list[VariantReport]
    pairs: list[PairReport]


async def compare(
    variants: Sequence[Variant],
    windows: AsyncIterable[WindowToScore],
    settings: Settings,
    rl: asyncpg.Connection,
    *,
    dropout: float = 0.0,
) -> Comparison:
    """Judges every window by every variant.

    Args:
        variants: At least one; two or more to compare them with each other.
        windows: Windows with at least two episodes and their outcomes.
        settings: Judge's address, key, budget, attempts.
        rl: A connection of its own, under a role that may keep verdicts and books.
        dropout: Share of each window's agents to leave out.

    Raises:
        JudgeSetupError: A variant cannot be asked at all.
    """
    secrets = tuple(known_secrets(settings))
    reports = [VariantReport(name=variant.name) for variant in variants]
    found: list[list[PanelVerdict | None]] = []
    money: list[list[float | None]] = []
    episodes_seen = 0
    async with AsyncExitStack() as stack:
        ledger = Ledger(rl, settings.judge_daily_budget_usd)
        panels = [
            (await open_panels(stack, settings, ledger, [(v.model, load_rubric(v.rubric))], orders=v.orders))[
                0
            ]
            for v in variants
        ]
        async for window in windows:
            assert window.outcomes is not None
            kept = set(kept_agents(window.window_id, [e.agent_id for e in window.episodes], dropout))
            episodes = [episode for episode in window.episodes if episode.agent_id in kept]
            views = build_views(episodes, secrets=secrets, max_tokens=settings.judge_episode_tokens)
            truth = ground_truth(window.outcomes, Redactor(secrets))
            verdicts = await asyncio.gather(
                *(
                    _judge(panel, report, window.window_id, truth, views)
                    for panel, report in zip(panels, reports, strict=True)
                )
            )
            found.append(list(verdicts))
            money.append([episode.attributed_pnl for episode in episodes])
            episodes_seen += len(episodes)
    for i, report in enumerate(reports):
        _summarise(report, [row[i] for row in found], money)
    return Comparison(
        windows=len(found),
        episodes=episodes_seen,
        variants=reports,
        pairs=[
            _pair(reports[i].name, reports[j].name, [(row[i], row[j]) for row in found])
            for i, j in combinations(range(len(variants)), 2)
        ],
    )


async def _judge(
    panel: Panel, report: VariantReport, window_id: str, truth: dict[str, Any], views: Sequence[EpisodeView]
) -> PanelVerdict | None:
    usage = Usage()
    try:
        return await panel.judge(window_id, truth, views, usage, purpose="compare")
    except JudgeSetupError:
        raise
    except JudgeError as problem:
        report.failed += 1
        report.problem = report.problem or str(problem)
        return None
    finally:
        report.windows += 1
        report.calls += usage.calls
        report.cached += usage.cached
        report.input_tokens += usage.input_tokens
        report.output_tokens += usage.output_tokens
        report.cost_usd += usage.cost_usd


def _summarise(
    report: VariantReport,
    verdicts: Sequence[PanelVerdict | None],
    money: Sequence[Sequence[float | None]],
) -> None:
    judged = [(v, pnl) for v, pnl in zip(verdicts, money, strict=True) if v is not None]
    report.kendall_pnl = mean_of([_with_money(verdict.scores, pnl) for verdict, pnl in judged])
    report.flip_rate = mean_of([verdict.flips for verdict, _ in judged])
    report.spread = mean_of([verdict.spread for verdict, _ in judged])


def _with_money(scores: Sequence[float], money: Sequence[float | None]) -> float | None:
    known = [(score, pnl) for score, pnl in zip(scores, money, strict=True) if pnl is not None]
    return kendall_tau([s for s, _ in known], [p for _, p in known]) if len(known) > 1 else None


def _pair(
    first: str, second: str, verdicts: Sequence[tuple[PanelVerdict | None, PanelVerdict | None]]
) -> PairReport:
    both = [(a, b) for a, b in verdicts if a is not None and b is not None]
    tau = mean_of([kendall_tau(a.scores, b.scores) for a, b in both])
    return PairReport(first=first, second=second, windows=len(both), kendall=tau)


def comparable(window: WindowToScore) -> bool:
    """Whether a window can be judged: at least two episodes, outcomes, and no order that still waits."""
    waiting = sum(episode.pending_orders for episode in window.episodes)
    return window.outcomes is not None and len(window.episodes) >= 2 and not waiting
