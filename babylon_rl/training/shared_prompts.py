"""Answers to one prompt, read together: the prompt once, its answers behind it, none seeing another.

A causal model computes the same at a prompt's tokens whatever follows them, so rows that begin alike need not
be read one by one: a forward and backward pass over eight answers to a prompt of 60 tokens costs an eighth of
the prompt's work, and its gradient is the same. Attention is masked to a tree, a token's position is the one
it has in its own row.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class PromptTrees:
    """Rows of a batch, merged by prompt. Shapes are ``(trees, longest)``, but where noted.

    Attributes:
        tokens: The prompt, then what each of its rows has behind it up to the last token that predicts.
        positions: Each token's position in its row.
        attends: ``(trees, 1, longest, longest)``: which earlier tokens each token sees.
        predicting: ``(predicted,)``: for each answer token, row by row, the index in the flattened trees of
            the token before it.
    """

    tokens: "torch.Tensor"
    positions: "torch.Tensor"
    attends: "torch.Tensor"
    predicting: "torch.Tensor"


def number_prompts(tokens: "torch.Tensor", answers: "torch.Tensor") -> "torch.Tensor":
    """A number for each row, equal where what stands before the first answer token is: ``(rows,)``.

    Args:
        tokens: ``(rows, longest)``.
        answers: Which tokens an answer is made of, same shape; at least one in each row.
    """
    import torch

    lengths = answers.int().argmax(1).tolist()
    numbers: dict[bytes, int] = {}
    prompts = (row[:length].numpy().tobytes() for row, length in zip(tokens.cpu(), lengths, strict=True))
    return torch.tensor([numbers.setdefault(prompt, len(numbers)) for prompt in prompts])


def by_prompt(prompts: "torch.Tensor", generator: "torch.Generator | None" = None) -> "torch.Tensor":
    """The rows, those of one prompt side by side; the prompts shuffled where a generator is given."""
    import torch

    count = int(prompts.max()) + 1
    place = torch.arange(count) if generator is None else torch.empty(count, dtype=torch.long)
    if generator is not None:
        place[torch.randperm(count, generator=generator)] = torch.arange(count)
    return place[prompts].argsort(stable=True)


def merge(
    model: "PreTrainedModel", tokens: "torch.Tensor", answers: "torch.Tensor", prompts: "torch.Tensor"
) -> PromptTrees | None:
    """The trees of these rows; None where that saves nothing, or the model takes no mask of its own.

    Args:
        tokens: ``(rows, longest)``.
        answers: Which of them an answer is made of, same shape; at least one in each row.
        prompts: ``(rows,)``, as `number_prompts` gave them.
    """
    import torch

    if not _takes_masks(model):
        return None
    count, width = answers.shape
    _, tree = prompts.unique(return_inverse=True)
    columns = torch.arange(width, device=tokens.device)
    first = answers.int().argmax(1)
    last = width - 1 - answers.flip(1).int().argmax(1)
    # Behind each other in their tree: where each row's part begins.
    order, own = tree.argsort(stable=True), last - first
    behind = own[order].cumsum(0) - own[order]
    starts = torch.zeros(int(tree.max()) + 1, dtype=torch.long, device=tokens.device)
    starts = starts.scatter_reduce(0, tree[order], behind, "amin", include_self=False)
    offset = torch.empty_like(own)
    offset[order] = behind - starts[tree[order]]
    offset += first
    trees, longest = len(starts), int((offset + own).max())
    if trees == count or trees * longest >= count * (width - 1):
        return None

    def slots(chosen: "torch.Tensor") -> "tuple[torch.Tensor, torch.Tensor, torch.Tensor]":
        rows, at = chosen.nonzero(as_tuple=True)
        place = torch.where(at < first[rows], at, offset[rows] + at - first[rows])
        return rows, at, tree[rows] * longest + place

    used = columns < last[:, None]
    rows, at, place = slots(used)
    merged = tokens.new_zeros(trees * longest).index_put((place,), tokens[rows, at])
    positions = torch.zeros_like(merged).index_put((place,), at)
    # The prompt is everybody's (0), padding nobody's (-1).
    branch = torch.full_like(merged, -1).index_put((place,), torch.where(at < first[rows], 0, rows + 1))
    branch = branch.view(trees, longest)
    seen = (branch[:, None, :] == 0) | (branch[:, None, :] == branch[:, :, None])
    attends = (seen & torch.ones_like(seen[0]).tril())[:, None]
    shape = (trees, longest)
    return PromptTrees(merged.view(shape), positions.view(shape), attends, slots(_before(answers))[2])


def _before(answers: "torch.Tensor") -> "torch.Tensor":
    """The positions whose next token is one of an answer."""
    import torch

    return torch.nn.functional.pad(answers[:, 1:], (0, 1))


def _takes_masks(model: "PreTrainedModel") -> bool:
    """Whether attention is of the kind that a mask describes wholly: full, and computed by PyTorch."""
    config = model.config
    windowed = getattr(config, "use_sliding_window", True) and getattr(config, "sliding_window", None)
    return getattr(config, "_attn_implementation", None) == "sdpa" and not windowed
