"""Log-probabilities of packed answers under a model, projected to the vocabulary only where one is needed."""

from typing import TYPE_CHECKING, Any

from babylon_rl.training.shared_prompts import by_prompt, merge

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

REFERENCE_ROWS = 64
"""Rows per forward pass where no gradient is needed."""


def batch_of(
    model: "PreTrainedModel", packed: dict[str, Any], chosen: "torch.Tensor"
) -> "dict[str, torch.Tensor]":
    """The chosen rows of a packed batch, on the model's device."""
    return {name: value[chosen].to(model.device) for name, value in packed.items() if hasattr(value, "dim")}


def reference_logprobs(reference: "PreTrainedModel", packed: dict[str, Any]) -> "torch.Tensor":
    """Log-probabilities under the reference, aligned like those of `token_logprobs`; on the CPU."""
    import torch

    was_training = reference.training
    reference.eval()
    logprobs = torch.zeros(packed["tokens"].shape)
    with torch.no_grad():
        for chosen in by_prompt(packed["prompts"]).split(REFERENCE_ROWS):
            logprobs[chosen] = token_logprobs(reference, batch_of(reference, packed, chosen))[0].cpu()
    reference.train(was_training)
    return logprobs


def at_tokens(before: "torch.Tensor") -> "torch.Tensor":
    """Values aligned with the position before their token, moved to the token itself."""
    import torch

    return torch.nn.functional.pad(before[:, :-1], (1, 0))


def token_logprobs(
    model: "PreTrainedModel", batch: "dict[str, torch.Tensor]"
) -> "tuple[torch.Tensor, torch.Tensor]":
    """Log-probability of each answer's next token and entropy of its distribution, zero elsewhere.

    Both have the shape ``(rows, longest)``; the first is aligned with the position before its token, as ART's
    loss wants it. The vocabulary projection runs only where an answer's token is predicted, and equal prompts
    are read once.
    """
    import torch

    tokens, mask = batch["tokens"], batch["assistant_mask"]
    predicted = mask[:, 1:]
    log_probabilities = torch.log_softmax(model.lm_head(_predicting(model, batch)).float(), dim=-1)
    chosen = log_probabilities.gather(1, tokens[:, 1:][predicted][:, None])[:, 0]
    new_logprobs = torch.zeros(tokens.shape, device=tokens.device)
    entropies = torch.zeros(tokens.shape, device=tokens.device)
    new_logprobs[:, :-1][predicted] = chosen
    entropies[:, 1:][predicted] = -(log_probabilities.exp() * log_probabilities).sum(-1).detach()
    return new_logprobs, entropies


def _predicting(model: "PreTrainedModel", batch: "dict[str, torch.Tensor]") -> "torch.Tensor":
    """Last hidden states from which the answers' tokens are predicted, row by row."""
    tokens, mask = batch["tokens"], batch["assistant_mask"]
    trees = merge(model, tokens, mask, batch["prompts"])
    if trees is None:
        hidden = model.model(input_ids=tokens[:, :-1], use_cache=False).last_hidden_state
        return hidden[mask[:, 1:]]
    hidden = model.model(
        input_ids=trees.tokens,
        attention_mask=trees.attends,
        position_ids=trees.positions,
        use_cache=False,
    ).last_hidden_state
    return hidden.flatten(0, 1)[trees.predicting]
