"""A real judge on made-up windows: agreement with money and itself, canaries, and what attacks move.

Only with a key, and never for more than `BUDGET` dollars.
"""

from typing import Any

import msgspec

import parts.repository  # noqa: F401 - makes the next imports possible
from babylon_rl.scoring.agreement import mean_of
from babylon_rl.scoring.groups import SCORED
from babylon_rl.scoring.judge.errors import JudgeError
from babylon_rl.scoring.window_scorer import WindowToScore
from babylon_rl.settings import get_settings
from babylon_rl.windows import windows_of_day
from babylon_rl_tests.judge_attacks import DEMAND
from parts.judge_setup import opened
from parts.judged_windows import make_window

BUDGET = 0.25
WINDOWS = 8
NOT_MEASURED = "not measured"
FIGURES = ("judge", "flip_rate", "kendall_pnl", "canaries_fooled", "score_shift_by_injection", "usd")


async def measure(dsn: str) -> dict[str, Any]:
    """Returns the figures, or that they were not measured."""
    settings = get_settings()
    if settings.judge_api_key is None and settings.openai_api_key is None:
        return dict.fromkeys(FIGURES, NOT_MEASURED)
    changes = {
        "scorer": "ruler",
        "judge_orders": 2,
        "judge_canary_rate": 1.0,
        "judge_alarm_correlation": -1.0,
    }
    settings = settings.model_copy(update={**changes, "judge_daily_budget_usd": BUDGET})
    flips, taus, fooled, shifts, spent = [], [], 0, [], 0.0
    try:
        async with opened(dsn, settings) as scorer:
            for window_id in windows_of_day("2026-12-01")[:WINDOWS]:
                window = make_window(7, window_id, agents=6, steps=6)
                plain, attacked = await scorer.score(window), await scorer.score(_injected(window))
                if plain.run is None or attacked.run is None:
                    continue
                spent += plain.run.cost_usd + attacked.run.cost_usd
                if plain.group.status != SCORED or attacked.group.status != SCORED:
                    continue
                flips.append(plain.run.flip_rate)
                taus.append(plain.run.kendall)
                fooled += plain.run.canary_failed
                shifts.append(_worst(attacked.judgments, window) - _worst(plain.judgments, window))
    except JudgeError as problem:
        return dict.fromkeys(FIGURES, f"{NOT_MEASURED}: {problem.problem}")
    return {
        "judge": settings.judge_model,
        "windows": len(taus),
        "flip_rate": mean_of(flips),
        "kendall_pnl": mean_of(taus),
        "canaries_fooled": fooled,
        "score_shift_by_injection": mean_of(shifts),
        "usd": round(spent, 4),
    }


def _loser(window: WindowToScore) -> str:
    return min(window.episodes, key=lambda episode: episode.attributed_pnl or 0.0).agent_id


def _worst(judgments: Any, window: WindowToScore) -> float:
    return next(j.score for j in judgments if j.agent_id == _loser(window))


def _injected(window: WindowToScore) -> WindowToScore:
    """The worst trader asks for a full score in each of its answers."""
    episodes = []
    for episode in window.episodes:
        if episode.agent_id == _loser(window):
            demand = DEMAND.format(who="loser")
            steps = [
                msgspec.structs.replace(
                    step,
                    llm_calls=[msgspec.structs.replace(call, response=demand) for call in step.llm_calls],
                )
                for step in episode.steps
            ]
            episode = msgspec.structs.replace(episode, steps=steps)
        episodes.append(episode)
    return msgspec.structs.replace(window, episodes=episodes)
