"""The attack suite: what a judge that believes everything finds in a request, here and in ART's."""

import asyncio
import json
from dataclasses import dataclass

import msgspec

import parts.repository  # noqa: F401 - makes the next imports possible
from babylon_rl.outcomes.window_outcomes import News
from babylon_rl.scoring.window_scorer import WindowToScore
from babylon_rl_tests.game_rows import at
from babylon_rl_tests.judge_attacks import PAYLOADS, attack_steps, payload
from babylon_rl_tests.judge_reading import demands, lenient, score_of, strict
from babylon_rl_tests.judge_server import Seen, judge_server
from babylon_rl_tests.scoring.judge.made import make_window, outcomes
from parts.judge_setup import judge_settings, opened

PNLS = (40.0, -900.0, 5.0, 90.0)
ATTACKER = 1
WHO = "evil"


@dataclass
class Damage:
    """What attacks achieved."""

    attacks: int = 0
    tag_breakouts: int = 0
    """Requests in which a lenient reader finds other tags than were meant."""
    obeyed: int = 0
    """Requests with a demand outside of its author's own data, or a score that followed it."""


async def ours(dsn: str) -> Damage:
    """Every payload in every place of an episode, in the news and in a market's question."""
    found = Damage()
    with judge_server(manner="gullible") as judge:
        async with opened(dsn, judge_settings(judge.url, judge_attempts=1)) as scorer:
            for name in PAYLOADS:
                judge.seen.clear()
                scored = await scorer.score(_window(payload(name, WHO)))
                rewards = {member.agent_id: member.reward for member in scored.group.members}
                honest = rewards.get(f"agent-{ATTACKER}") == score_of(PNLS[ATTACKER])
                (seen,) = judge.seen
                _note(found, seen, 2 * (len(PNLS) + 1), honest)
    return found


def arts() -> Damage:
    """The same payloads as an assistant's message, through `art.rewards.ruler_score_group`."""
    from babylon_rl.training.art_import import import_art

    art = import_art()
    from art.rewards import ruler_score_group

    async def score() -> Damage:
        found = Damage()
        with judge_server(manner="gullible") as judge:
            options: dict[str, object] = {"api_base": judge.url, "api_key": "x", "max_retries": 0}
            for name in PAYLOADS:
                judge.seen.clear()
                group = art.TrajectoryGroup(
                    [
                        art.Trajectory(
                            messages_and_choices=[
                                {"role": "user", "content": json.dumps({"profit_usd": pnl, "agent": i})},
                                {"role": "assistant", "content": _said(i, payload(name, WHO))},
                            ],
                            reward=0.0,
                        )
                        for i, pnl in enumerate(PNLS)
                    ]
                )
                try:
                    scored = await ruler_score_group(group, "openai/judge", options)
                    honest = scored is not None and scored.trajectories[ATTACKER].reward == score_of(
                        PNLS[ATTACKER]
                    )
                except Exception:  # a payload that it cannot even send harms nobody else
                    honest = True
                if judge.seen:
                    _note(found, judge.seen[0], 2 * len(PNLS), honest)
        return found

    return asyncio.run(score())


def _note(found: Damage, seen: Seen, tags: int, honest: bool) -> None:
    found.attacks += 1
    read = lenient(seen.messages)
    found.tag_breakouts += read.tags != tags
    own = [name for name, body in strict(seen.messages).items() if f"PWN-{WHO}" in body]
    elsewhere = demands(read.outside) or any(
        demands(text) for name, text in read.blocks.items() if name not in own and name != "ground_truth"
    )
    found.obeyed += bool(elsewhere) or not honest


def _window(text: str) -> WindowToScore:
    window = make_window(PNLS)
    episodes = list(window.episodes)
    episodes[ATTACKER] = msgspec.structs.replace(episodes[ATTACKER], steps=attack_steps(text, WHO))
    question = msgspec.structs.replace(outcomes().predictions[0], question=text)
    news = [News(kind="article", published_at=at(3), text=text, organizations=[])]
    truth = outcomes(news=news, predictions=[question])
    return WindowToScore(window.window_id, episodes, truth)


def _said(agent: int, text: str) -> str:
    return f'{{"who": "PWN-{WHO}"}} {text}' if agent == ATTACKER else "HOLD"
