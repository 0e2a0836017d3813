"""Fuzzed replies: what becomes of a judge's scores, here and in ART's own group function."""

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import parts.repository  # noqa: F401 - makes the next imports possible
from babylon_rl.records.steps import Action, EnvironmentState, Step
from babylon_rl.scoring.episodes import Episode
from babylon_rl.scoring.window_scorer import WindowToScore
from babylon_rl_tests.judge_fuzz import kind_of
from babylon_rl_tests.judge_reading import score_of
from babylon_rl_tests.judge_server import judge_server
from babylon_rl_tests.scoring.judge.made import outcomes
from parts.judge_setup import judge_settings, opened

WINDOW = "2026-10-01T14:00"


@dataclass
class Outcome:
    """What a reader made of the replies."""

    accepted: int = 0
    misassigned: int = 0
    """Rewards that are not what the judge meant for their episode."""
    replies_misassigned: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    """Replies with a misassigned reward, by kind."""

    def note(self, number: int, rewards: Sequence[float] | None, meant: Sequence[float]) -> None:
        """Compares rewards (None if the reply was refused) with what was meant."""
        if rewards is None:
            return
        self.accepted += 1
        wrong = sum(not abs(got - want) < 1e-9 for got, want in zip(rewards, meant, strict=True))
        self.misassigned += wrong
        if wrong:
            self.replies_misassigned += 1
            self.kinds[kind_of(number)] += 1


def profits(number: int) -> list[float]:
    """Returns the P&L of the members of group `number`, 3 to 8 of them, all different."""
    rng = random.Random(f"group {number}")
    return [round(rng.uniform(-150, 150), 2) + number / 1e6 for _ in range(rng.randint(3, 8))]


async def ours(dsn: str, count: int) -> Outcome:
    """Scores `count` groups by one reply each; a reply that is refused leaves its group unjudged."""
    found = Outcome()
    with judge_server(manner="fuzz", keep=False) as judge:
        settings = judge_settings(judge.url, judge_attempts=1, min_agents_per_window=2)
        async with opened(dsn, settings) as scorer:
            for number in range(count):
                pnls = profits(number)
                window = WindowToScore(WINDOW, [_episode(i, pnl) for i, pnl in enumerate(pnls)], outcomes())
                group = (await scorer.score(window)).group
                rewards = [member.reward for member in group.members] or None
                found.note(number, rewards, [score_of(_rounded(pnl)) for pnl in pnls])
    return found


def arts(count: int) -> Outcome:
    """The same groups and replies through `art.rewards.ruler_score_group`."""
    from babylon_rl.training.art_import import import_art

    art = import_art()
    from art.rewards import ruler_score_group

    _silence()

    async def score() -> Outcome:
        found = Outcome()
        with judge_server(manner="fuzz", keep=False) as judge:
            options: dict[str, object] = {
                "api_base": judge.url,
                "api_key": "benchmark",
                "max_retries": 0,
                "timeout": 30,
            }
            for number in range(count):
                pnls = profits(number)
                group = art.TrajectoryGroup([_trajectory(art, pnl) for pnl in pnls])
                calls = judge.calls
                try:
                    scored = await ruler_score_group(group, "openai/judge", options)
                except Exception:  # whatever it refuses a reply with
                    scored = None
                assert judge.calls == calls + 1, "one request per group, or the replies would not be the same"
                rewards = [trajectory.reward for trajectory in scored.trajectories] if scored else None
                found.note(number, rewards, [score_of(_rounded(pnl)) for pnl in pnls])
        return found

    return asyncio.run(score())


def _rounded(pnl: float) -> float:
    return float(f"{pnl:.6g}")


def _episode(number: int, pnl: float) -> Episode:
    step = Step(
        step_number=0,
        timestamp=None,
        environment_state=EnvironmentState(agent_balance=1000, agent_pnl=0, open_positions=0),
        provider_accesses=[],
        llm_calls=[],
        action=Action(action_type="HOLD", parameters={}, success=True),
        reward=0.0,
    )
    return Episode(
        window_id=WINDOW,
        agent_id=f"agent-{number}",
        trajectory_ids=[f"t-{number}"],
        steps=[step],
        calls=[],
        policy_versions=[],
        actions=1,
        invalid_actions=0,
        horizon="1h",
        attributed_pnl=pnl,
        pnl_source="orders",
        start_equity=1000.0,
        trades=1,
        wins=0,
        losses=0,
        pending_orders=0,
        unpriced_orders=0,
    )


def _trajectory(art: Any, pnl: float) -> Any:
    messages = [
        {"role": "system", "content": "Trade."},
        {"role": "user", "content": f'{{"profit_usd": {_rounded(pnl)}}}'},
        {"role": "assistant", "content": "HOLD"},
    ]
    return art.Trajectory(messages_and_choices=messages, reward=0.0)


def _silence() -> None:
    import logging

    import litellm

    litellm.suppress_debug_info = True
    logging.getLogger("LiteLLM").setLevel(logging.CRITICAL)
