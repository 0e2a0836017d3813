"""Which scorer rewards the windows: chosen by SCORER, set up as the settings say."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

from babylon_rl.database.connection import Databases
from babylon_rl.scoring.local import HeuristicScorer, PnlScorer, Scorer, ScoringError
from babylon_rl.scoring.window_scorer import LocalWindowScorer, WindowScorer
from babylon_rl.settings import Settings

if TYPE_CHECKING:
    from babylon_rl.scoring.judge.client import Gate
    from babylon_rl.scoring.judge.ledger import Ledger
    from babylon_rl.scoring.judge.panel import Panel
    from babylon_rl.scoring.judge.rubric import Rubric
    from babylon_rl.scoring.judge.ruler import RulerRules

JUDGED = ("ruler", "ruler_with_heuristic_check")
"""Scorers that ask a judge."""

Connect = Callable[[], AbstractAsyncContextManager[Databases]]
"""Opens a connection of one's own, under a role that may keep verdicts (`babylon_judge`)."""


def local_scorer(settings: Settings, name: str | None = None) -> Scorer:
    """Returns a scorer that needs no model, set up as the settings say.

    Args:
        settings: Weights, scales, penalty.
        name: `pnl` or `heuristic`; by default what SCORER names.

    Raises:
        ScoringError: The name is that of another kind of scorer.
    """
    wanted = name or settings.scorer
    if wanted == "heuristic":
        return HeuristicScorer(
            settings.heuristic_weights,
            settings.heuristic_pnl_scale,
            settings.heuristic_activity_scale,
            settings.invalid_action_penalty,
        )
    if wanted == "pnl":
        return PnlScorer(settings.invalid_action_penalty)
    raise ScoringError(f"{wanted} is no local scorer", "SCORER=pnl and SCORER=heuristic need nothing else.")


@asynccontextmanager
async def open_scorer(settings: Settings, connect: Connect) -> AsyncIterator[WindowScorer]:
    """Opens the scorer that SCORER names.

    Args:
        settings: Which scorer, and how.
        connect: Used only by judges, which keep verdicts and books on a connection of their own.

    Raises:
        ScoringError: It cannot score any window: no key, no such function, a host that is not allowed, ….
    """
    if settings.scorer == "function":
        from babylon_rl.scoring.function import FunctionScorer

        yield FunctionScorer(settings.reward_function or "", settings.min_agents_per_window)
    elif settings.scorer in JUDGED:
        async with open_ruler(settings, connect) as ruler:
            yield ruler
    else:
        yield LocalWindowScorer(local_scorer(settings), settings.min_agents_per_window)


@asynccontextmanager
async def open_ruler(settings: Settings, connect: Connect) -> AsyncIterator[WindowScorer]:
    """Opens the RULER scorer; see `open_scorer`."""
    async with AsyncExitStack() as stack:
        panels = await open_judges(stack, settings, connect)
        yield ruler_of(panels, ruler_rules(settings), settings)


async def open_judges(stack: AsyncExitStack, settings: Settings, connect: Connect) -> "list[Panel]":
    """Opens the judge and, where one is set, the second one, with their books; closed with the stack.

    Raises:
        JudgeSetupError: One of them cannot be asked.
    """
    from babylon_rl.scoring.judge.ledger import Ledger
    from babylon_rl.scoring.judge.rubric import load_rubric

    rubric = load_rubric(settings.judge_rubric)
    models = [settings.judge_model, *filter(None, [settings.judge_second_model])]
    db = await stack.enter_async_context(connect())
    ledger = Ledger(db.rl, settings.judge_daily_budget_usd)
    return await open_panels(stack, settings, ledger, [(model, rubric) for model in models])


def ruler_rules(settings: Settings) -> "RulerRules":
    """Returns how windows are judged, with the secrets of this process."""
    from babylon_rl.scoring.judge.redaction import known_secrets
    from babylon_rl.scoring.judge.ruler import RulerRules

    return RulerRules(
        min_agents=settings.min_agents_per_window,
        episode_tokens=settings.judge_episode_tokens,
        alarm_correlation=settings.judge_alarm_correlation,
        target_per_day=settings.target_trajectories,
        max_dropout=settings.max_dropout,
        secrets=tuple(known_secrets(settings)),
    )


def ruler_of(panels: "Sequence[Panel]", rules: "RulerRules", settings: Settings) -> WindowScorer:
    """Returns the RULER scorer of one panel, or of two, the second for what the first leaves doubtful."""
    from babylon_rl.scoring.judge.ruler import RulerScorer

    with_check = settings.scorer == "ruler_with_heuristic_check"
    return RulerScorer(
        panels[0],
        rules,
        second=panels[1] if len(panels) > 1 else None,
        check=local_scorer(settings, settings.judge_check_scorer) if with_check else None,
    )


async def open_panels(
    stack: AsyncExitStack,
    settings: Settings,
    ledger: "Ledger",
    judges: "Sequence[tuple[str, Rubric]]",
    *,
    orders: int | None = None,
) -> "list[Panel]":
    """Opens one panel per judge and rubric; closed with the stack.

    Raises:
        JudgeSetupError: One of them cannot be asked.
    """
    from babylon_rl.scoring.judge.client import Gate
    from babylon_rl.scoring.judge.panel import Panel

    gate = Gate(settings.judge_concurrency)
    panels = []
    for model, rubric in judges:
        client = _client(settings, model, rubric, ledger, gate)
        stack.push_async_callback(client.close)
        panels.append(
            Panel(client, orders=orders or settings.judge_orders, canary_rate=settings.judge_canary_rate)
        )
    return panels


def _client(settings: Settings, model: str, rubric: "Rubric", ledger: "Ledger", gate: "Gate"):
    from babylon_rl.scoring.judge.address import judge_address
    from babylon_rl.scoring.judge.client import JudgeClient
    from babylon_rl.scoring.judge.litellm_transport import LiteLlmTransport
    from babylon_rl.scoring.judge.transport import OpenAiTransport

    address = judge_address(settings, model)
    temperature, timeout = settings.judge_temperature, settings.judge_timeout_seconds
    if address.client == "litellm":
        transport = LiteLlmTransport(address, temperature=temperature, timeout=timeout)
    else:
        transport = OpenAiTransport(
            address, temperature=temperature, timeout=timeout, connections=settings.judge_concurrency
        )
    return JudgeClient(
        address,
        transport,
        rubric,
        ledger,
        gate,
        temperature=temperature,
        attempts=settings.judge_attempts,
    )
