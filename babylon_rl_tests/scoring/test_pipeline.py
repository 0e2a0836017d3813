"""Windows worked on side by side: results in order, bounded, and nothing left running."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from babylon_rl.scoring.pipeline import in_order

pytestmark = pytest.mark.anyio


async def numbers(count: int, asked: list[int]) -> AsyncIterator[int]:
    for number in range(count):
        asked.append(number)
        yield number


async def test_results_come_in_order_and_no_more_than_allowed_are_begun():
    asked: list[int] = []
    running, most = 0, 0

    async def work(number: int) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.001 * ((number * 7) % 5))
        running -= 1
        return number * number

    given = []
    async for number, square in in_order(numbers(30, asked), work, 4):
        assert len(asked) - len(given) <= 4
        given.append((number, square))
    assert given == [(n, n * n) for n in range(30)]
    assert 1 < most <= 4


async def test_one_at_a_time_is_one_after_the_other():
    asked: list[int] = []

    async def work(number: int) -> int:
        await asyncio.sleep(0)
        assert asked[-1] == number
        return number

    assert [n async for n, _ in in_order(numbers(5, asked), work, 1)] == [0, 1, 2, 3, 4]


async def test_a_failure_comes_out_in_its_place_and_ends_the_rest():
    ended: list[int] = []

    async def work(number: int) -> int:
        try:
            if number == 2:
                raise ValueError("two")
            await asyncio.sleep(0.01 if number < 2 else 60)
        finally:
            ended.append(number)
        return number

    given = []
    with pytest.raises(ValueError, match="two"):
        async for number, _ in in_order(numbers(10, []), work, 4):
            given.append(number)
    assert given == [0, 1]
    assert len(ended) >= 4, "what was running was cancelled"
