"""Supervised fine-tuning: the assistant's turns of given conversations become more likely."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

from babylon_rl.training.errors import EmptyBatchError, TrainingDivergedError
from babylon_rl.training.networks import Network
from babylon_rl.training.recipe import EmbeddedTrainConfig

if TYPE_CHECKING:
    import art
    import torch
    from transformers import PreTrainedTokenizerBase

DEFAULT_BATCH = 16
"""Conversations per optimiser step where ART is told ``auto``."""


def fine_tune(
    network: Network,
    trajectories: "list[art.Trajectory]",
    config: "art.types.TrainSFTConfig",
    recipe: EmbeddedTrainConfig,
) -> Iterator[dict[str, float]]:
    """One pass over the conversations in the given order; yields the metrics of each optimiser step.

    Args:
        config: ART's: a learning rate, or one per step, and the conversations per step.
        recipe: Only its ``max_grad_norm`` is used.

    Raises:
        EmptyBatchError: There is no assistant's turn to learn from.
        TrainingDivergedError: The loss is no finite number.
    """
    import torch

    rows = [_encode(network.tokenizer, trajectory.messages()) for trajectory in trajectories]
    rows = [row for row in rows if any(row[1])]
    if not rows:
        raise EmptyBatchError("No trajectory has an assistant's turn to learn from")
    size = DEFAULT_BATCH if config.batch_size == "auto" else config.batch_size
    steps = [rows[start : start + size] for start in range(0, len(rows), size)]
    parameters = [value for value in network.model.parameters() if value.requires_grad]
    optimiser = torch.optim.AdamW(parameters, weight_decay=0.0)
    network.model.train()
    for number, batch in enumerate(steps):
        rates: Any = config.learning_rate  # one for all steps, or a list
        rate = float(rates[number] if isinstance(rates, list) else rates)
        for group in optimiser.param_groups:
            group["lr"] = rate
        ids, mask = _pad(batch, cast(int, network.tokenizer.pad_token_id))
        ids, mask = ids.to(network.model.device), mask.to(network.model.device)
        logits = network.model(input_ids=ids[:, :-1]).logits.float()
        losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")
        loss = (losses * mask[:, 1:]).sum() / mask[:, 1:].sum()
        optimiser.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(parameters, recipe.max_grad_norm)
        if not torch.isfinite(loss):
            raise TrainingDivergedError(number + 1, rate)
        optimiser.step()
        yield {
            "loss/train": loss.item(),
            "loss/grad_norm": norm.item(),
            "loss/learning_rate": rate,
            "data/step_num_trajectories": float(len(rows)),
            "data/step_num_gradient_steps": float(len(steps)),
        }
    network.model.eval()


def _encode(tokenizer: "PreTrainedTokenizerBase", messages: list[Any]) -> tuple[list[int], list[int]]:
    """Token ids of a conversation and a mask that is one where the assistant speaks.

    The template must render a conversation as the beginning of any longer one, as all of ours do.
    """
    ids: list[int] = []
    mask: list[int] = []
    for number, message in enumerate(messages):
        said = message["role"] == "assistant"
        if said:
            header = _render(tokenizer, messages[:number], generate=True)[len(ids) :]
            ids, mask = ids + header, mask + [0] * len(header)
        new = _render(tokenizer, messages[: number + 1], generate=False)[len(ids) :]
        ids, mask = ids + new, mask + [int(said)] * len(new)
    return ids, mask


def _render(tokenizer: "PreTrainedTokenizerBase", messages: list[Any], *, generate: bool) -> list[int]:
    if not messages and not generate:
        return []
    text = tokenizer.apply_chat_template(messages, add_generation_prompt=generate, tokenize=False)
    return cast("list[int]", tokenizer(str(text), add_special_tokens=False)["input_ids"])


def _pad(rows: list[tuple[list[int], list[int]]], pad_token_id: int) -> "tuple[torch.Tensor, torch.Tensor]":
    import torch

    longest = max(len(ids) for ids, _ in rows)
    padded = torch.full((len(rows), longest), pad_token_id)
    masks = torch.zeros((len(rows), longest), dtype=torch.long)
    for number, (ids, mask) in enumerate(rows):
        padded[number, : len(ids)] = torch.tensor(ids)
        masks[number, : len(mask)] = torch.tensor(mask)
    return padded, masks
