"""Rows with equal prompts: read together they give what each gives alone."""

import copy
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from babylon_rl.policy.engine import EmbeddedEngine
from babylon_rl.training.shared_prompts import by_prompt, merge, number_prompts
from babylon_rl.training.token_logprobs import reference_logprobs, token_logprobs

if TYPE_CHECKING:
    import torch

Row = tuple[list[int], list[tuple[list[int], bool]]]
"""A prompt, then what stands behind it, part by part: an answer, or what the game said next."""


def packed(rows: list[Row]) -> dict[str, Any]:
    """Right-padded, as ART packs them."""
    import torch

    width = max(len(prompt) + sum(len(part) for part, _ in parts) for prompt, parts in rows) + 1
    tokens, answers = torch.zeros((len(rows), width), dtype=torch.long), torch.zeros((len(rows), width))
    for index, (prompt, parts) in enumerate(rows):
        at = len(prompt)
        tokens[index, :at] = torch.tensor(prompt)
        for part, is_answer in parts:
            tokens[index, at : at + len(part)] = torch.tensor(part)
            answers[index, at : at + len(part)] = is_answer
            at += len(part)
    mask = answers.bool()
    return {"tokens": tokens, "assistant_mask": mask, "prompts": number_prompts(tokens, mask)}


def alone(model: Any, batch: dict[str, Any]) -> "tuple[torch.Tensor, torch.Tensor]":
    """The same without sharing: every prompt has a number of its own."""
    import torch

    return token_logprobs(model, batch | {"prompts": torch.arange(len(batch["tokens"]))})


SHARED: list[Row] = [
    ([5, 6, 7, 8], [([9, 10], True)]),
    ([5, 6, 7, 8], [([11], True)]),
    ([5, 6, 7, 9], [([9, 10, 12], True)]),
    ([5, 6, 7, 8], [([9, 13], True), ([14, 15], False), ([16, 17], True), ([18], False)]),
    ([20], [([21], True)]),
    ([20], [([22, 23], True)]),
]


def test_logprobs_and_gradients_are_those_of_rows_read_alone(base_engine: EmbeddedEngine) -> None:
    import torch

    batch = packed(SHARED)
    merged, single = copy.deepcopy(base_engine.model), copy.deepcopy(base_engine.model)
    assert merge(merged, batch["tokens"], batch["assistant_mask"], batch["prompts"]) is not None
    weights = torch.linspace(-1.0, 1.0, batch["tokens"].numel()).view(batch["tokens"].shape)
    together, apart = token_logprobs(merged, batch), alone(single, batch)
    torch.testing.assert_close(together, apart, rtol=1e-4, atol=1e-5)
    for logprobs, _ in (together, apart):
        (logprobs * weights).sum().backward()
    for one, other in zip(merged.parameters(), single.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-3, atol=1e-5)


parts = st.lists(st.integers(1, 90), min_size=1, max_size=4)
row = st.tuples(
    st.sampled_from([[1, 2, 3], [1, 2, 4], [7], [1, 2, 3, 4, 5, 6]]),
    st.tuples(parts, st.just(True)).flatmap(
        lambda answer: st.lists(st.tuples(parts, st.booleans()), max_size=2).map(lambda more: [answer, *more])
    ),
)


@given(st.lists(row, min_size=1, max_size=7))
def test_any_rows(base_engine: EmbeddedEngine, rows: list[Row]) -> None:
    import torch

    batch = packed(rows)
    with torch.no_grad():
        together, apart = token_logprobs(base_engine.model, batch), alone(base_engine.model, batch)
    torch.testing.assert_close(together, apart, rtol=1e-4, atol=1e-5)


def test_reference_logprobs_come_back_in_the_order_of_the_rows(base_engine: EmbeddedEngine) -> None:
    import torch

    batch = packed([SHARED[index] for index in (0, 4, 2, 1, 5, 3)])
    expected = alone(base_engine.model, batch)[0].detach()
    torch.testing.assert_close(reference_logprobs(base_engine.model, batch), expected, rtol=1e-4, atol=1e-5)


def test_rows_of_one_prompt_stay_side_by_side_when_prompts_are_shuffled() -> None:
    import torch

    prompts = torch.tensor([0, 1, 0, 2, 1, 0, 3])
    generator = torch.Generator().manual_seed(1)
    order = by_prompt(prompts, generator)
    assert sorted(order.tolist()) == list(range(7))
    numbers = prompts[order].tolist()
    assert sum(a != b for a, b in zip(numbers, numbers[1:], strict=False)) == 3
    assert order.tolist() != by_prompt(prompts).tolist()


def test_distinct_prompts_are_shuffled_like_rows() -> None:
    import torch

    order = by_prompt(torch.arange(9), torch.Generator().manual_seed(3))
    assert order.tolist() == torch.randperm(9, generator=torch.Generator().manual_seed(3)).tolist()


@pytest.mark.parametrize("why", ["distinct prompts", "sliding window", "attention of its own"])
def test_rows_are_read_alone_where_sharing_is_impossible(base_engine: EmbeddedEngine, why: str) -> None:
    batch, model = packed(SHARED), copy.deepcopy(base_engine.model)
    if why == "distinct prompts":
        batch = packed([SHARED[0], SHARED[2]])
    elif why == "sliding window":
        model.config.use_sliding_window, model.config.sliding_window = True, 4
    else:
        model.config._attn_implementation = "eager"
    assert merge(model, batch["tokens"], batch["assistant_mask"], batch["prompts"]) is None
