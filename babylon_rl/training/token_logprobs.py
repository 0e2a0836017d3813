"""Log-probabilities of packed answers under a model, projected to the vocabulary only where one is needed."""

from typing import TYPE_CHECKING, Any

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
    rows = torch.arange(packed["tokens"].shape[0])
    with torch.no_grad():
        parts = [
            token_logprobs(reference, batch_of(reference, packed, chosen))[0].cpu()
            for chosen in rows.split(REFERENCE_ROWS)
        ]
    reference.train(was_training)
    return torch.cat(parts)


def at_tokens(before: "torch.Tensor") -> "torch.Tensor":
    """Values aligned with the position before their token, moved to the token itself."""
    import torch

    return torch.nn.functional.pad(before[:, :-1], (1, 0))


def token_logprobs(
    model: "PreTrainedModel", batch: "dict[str, torch.Tensor]"
) -> "tuple[torch.Tensor, torch.Tensor]":
    """Log-probability of each answer's next token and entropy of its distribution, zero elsewhere.

    Both have the shape ``(rows, longest)``; the first is aligned with the position before its token, as ART's
    loss wants it. The vocabulary projection runs only where an answer's token is predicted.
    """
    import torch

    tokens, mask = batch["tokens"], batch["assistant_mask"]
    hidden = model.model(input_ids=tokens[:, :-1], use_cache=False).last_hidden_state
    predicted = mask[:, 1:]
    log_probabilities = torch.log_softmax(model.lm_head(hidden[predicted]).float(), dim=-1)
    chosen = log_probabilities.gather(1, tokens[:, 1:][predicted][:, None])[:, 0]
    new_logprobs = torch.zeros(tokens.shape, device=tokens.device)
    entropies = torch.zeros(tokens.shape, device=tokens.device)
    new_logprobs[:, :-1][predicted] = chosen
    entropies[:, 1:][predicted] = -(log_probabilities.exp() * log_probabilities).sum(-1).detach()
    return new_logprobs, entropies
