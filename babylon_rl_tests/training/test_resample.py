"""Same-prompt groups: deterministic, on-policy, and without what has no price."""

import math
from collections.abc import Sequence

import pytest

from babylon_rl.policy.chat import ChatAnswer
from babylon_rl.policy.engine import EmbeddedEngine
from babylon_rl.simulation.trader import build_messages
from babylon_rl.training.resample import RecordedPrompt, resample

pytestmark = pytest.mark.anyio
WORDS = [("AURUM", "surge"), ("BOREAL", "quiet"), ("COBALT", "bearish"), ("DYNAMO", "crash")]


def prompt(name: str, messages: Sequence[dict[str, str]] | None = None) -> RecordedPrompt:
    return RecordedPrompt(
        name, "2026-10-01T00:00", "a", messages or build_messages(WORDS, 1000.0, 0), 1.0, 12
    )


async def by_length(pairs: Sequence[tuple[RecordedPrompt, ChatAnswer]]) -> list[float | None]:
    return [float(len(answer.content)) for _, answer in pairs]


async def test_equal_seeds_give_equal_groups_of_the_current_policy(base_engine: EmbeddedEngine) -> None:
    prompts = [prompt("t/0"), prompt("t/1")]
    first = await resample(base_engine, prompts, 4, by_length, seed=1)
    again = await resample(base_engine, prompts, 4, by_length, seed=1)
    other = await resample(base_engine, prompts, 4, by_length, seed=2)
    assert first == again and first.episodes != other.episodes
    assert first.versions == {base_engine.version: len(first.episodes)}
    assert {e.window_id for e in first.episodes} <= {"2026-10-01T00:00/t/0", "2026-10-01T00:00/t/1"}
    assert all(len(c.logprobs) == len(c.token_ids) > 0 for e in first.episodes for c in e.calls)


async def test_answers_without_a_price_are_counted_and_not_trained(base_engine: EmbeddedEngine) -> None:
    async def holes(pairs: Sequence[tuple[RecordedPrompt, ChatAnswer]]) -> list[float | None]:
        values: list[float | None] = [float(number) for number in range(len(pairs))]
        values[:2] = [None, math.nan]
        return values

    found = await resample(base_engine, [prompt("t/0")], 4, holes)
    assert found.dropped["unpriced"] == 2 and found.rewards == {"t/0": [2.0, 3.0]}


async def test_groups_without_spread_and_prompts_that_are_too_long(base_engine: EmbeddedEngine) -> None:
    async def flat(pairs: Sequence[tuple[RecordedPrompt, ChatAnswer]]) -> list[float | None]:
        return [1.0] * len(pairs)

    long = prompt("t/9", [{"role": "user", "content": "AURUM surge " * 2000}])
    found = await resample(base_engine, [prompt("t/0"), long], 4, flat)
    assert found.episodes == [] and found.dropped == {"no_spread": 4, "prompt_too_long": 1}
