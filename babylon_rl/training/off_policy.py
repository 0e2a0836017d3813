"""What to do about data that another policy recorded: yesterday's weights, or older ones.

Three policies are apart from each other: the *behaviour* that sampled an answer (its recorded log-
probabilities), the *parent* at which the step starts, and the policy that is being trained. PPO's ratio from
the behaviour to the trained policy makes a token that had become unlikely already before the first step lie
outside the clip, where it teaches nothing. So the jumps are taken apart (decoupled PPO, arXiv 2110.00641):

    truncated importance weight   min(parent / behaviour, cap), a constant of the batch (arXiv 1802.01561)
    clipped ratio                 trained / parent, which is one at the first step

Masks are drawn once per unit, against the parent: the *veto* of answers with a negative advantage that the
parent would hardly give any more (pushing those down further destabilises; arXiv 2512.02556), and second-
moment masking, which leaves out the tokens with the largest squared log ratio until the mean over the batch
is below a bound (M2PO, arXiv 2510.01161).

A bad order is bad by what it chose, not by how it is spelled. Yet its advantage pushes down each of its
tokens, and what a nearly certain token loses goes to every other one: the policy forgets the grammar, the
faster the older the logs are, in which its own new mistakes do not occur. So tokens of which the parent was
certain are *spared* by negative advantages, and learn from positive ones only.
"""

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from babylon_rl.training.recipe import EmbeddedTrainConfig


def correct(
    packed: "dict[str, Any]", parent: "torch.Tensor", config: "EmbeddedTrainConfig"
) -> dict[str, float]:
    """Correct a packed batch in place for its age; returns what was found and done.

    Answers without recorded log-probabilities get the parent's: their importance weight is one, and the clip
    still bounds how far the unit's steps take them.

    Args:
        packed: ART's tensors of shape ``(rows, longest)``, one answer per row.
        parent: Log-probabilities of the tokens under the parent, same shape, zero outside the answers.
    """
    import torch

    answers, unknown = packed["assistant_mask"].bool(), _unknown(packed)
    behaviour = torch.where(unknown, parent, packed["logprobs"])
    # Exactly what was recorded where nothing is known to differ: a ratio of one has no rounding.
    difference = torch.where(answers, parent - behaviour, torch.zeros_like(parent))
    found = _moments(difference, answers, unknown, packed["advantages"], config)
    vetoed = _veto(difference, answers, packed["advantages"], config.negative_veto)
    masked = _second_moment_mask(difference, answers & ~vetoed, packed["advantages"], config.second_moment)
    packed["advantages"] = packed["advantages"].masked_fill(vetoed | masked, 0.0)
    if config.truncated_importance is not None:
        packed["original_logprobs"] = torch.where(answers, behaviour, packed["logprobs"])
        packed["logprobs"] = torch.where(answers, parent, packed["logprobs"])
    else:
        packed["logprobs"] = torch.where(unknown, parent, packed["logprobs"])
    tokens = float(answers.sum())
    return {
        **found,
        "off_policy/vetoed_share": float(vetoed.sum()) / tokens,
        "off_policy/masked_share": float(masked.sum()) / tokens,
        "off_policy/truncated_share": _truncated(difference, answers, config.truncated_importance),
    }


def spare(
    packed: "dict[str, Any]", parent: "torch.Tensor", config: "EmbeddedTrainConfig"
) -> dict[str, float]:
    """Leave the tokens that are spared out of a packed batch, in place; returns their share.

    A choice that is nearly always made is spared like grammar. It is changed by praise of the alternatives
    only, as long as it is nearly certain.

    Args:
        parent: As for `correct`.
    """
    import torch

    answers = packed["assistant_mask"].bool()
    spared = torch.zeros_like(answers)
    if config.negative_spare is not None and config.negative_spare < 1:
        spared = answers & (packed["advantages"] < 0) & (parent > math.log(config.negative_spare))
        packed["advantages"] = packed["advantages"].masked_fill(spared, 0.0)
    return {"off_policy/spared_share": float(spared.sum()) / float(answers.sum())}


def step_ratios(
    batch: "dict[str, torch.Tensor]", new_logprobs: "torch.Tensor", config: "EmbeddedTrainConfig"
) -> dict[str, float]:
    """Moments of the clipped ratio in one optimiser step, over the batch's answer tokens; at the level of
    answers where ``importance_sampling`` says so.

    Args:
        new_logprobs: Aligned with the position before each token, as ART's loss wants it.
    """
    import torch

    answers = batch["assistant_mask"][:, 1:].bool()
    old, new = batch["logprobs"][:, 1:], new_logprobs.detach()[:, :-1]
    known = answers & ~torch.isnan(old)
    if not bool(known.any()):
        return {"off_policy/clipped_share": 0.0, "off_policy/step_ratio_mean": 1.0}
    difference = torch.where(known, new - old, torch.zeros_like(new))
    ratio = _clipped_ratio(difference, known, config)[known]
    outside = _outside(ratio, batch["advantages"][:, 1:][known], config.epsilon)
    return {
        "off_policy/clipped_share": float(outside.float().mean()),
        "off_policy/step_ratio_mean": float(ratio.mean()),
    }


def _clipped_ratio(
    difference: "torch.Tensor", answers: "torch.Tensor", config: "EmbeddedTrainConfig"
) -> "torch.Tensor":
    """What PPO clips: each token's ratio, or the geometric mean of its answer's."""
    import torch

    if config.importance_sampling == "token":
        return torch.exp(difference)
    mean = difference.sum(1, keepdim=True) / answers.sum(1, keepdim=True).clamp(min=1)
    return torch.exp(mean).expand_as(difference)


def _outside(ratio: "torch.Tensor", advantages: "torch.Tensor", epsilon: float) -> "torch.Tensor":
    """Where a step has no gradient because the ratio went as far as it may."""
    up, down = (advantages > 0) & (ratio > 1 + epsilon), (advantages < 0) & (ratio < 1 - epsilon)
    return up | down


def _unknown(packed: dict[str, Any]) -> "torch.Tensor":
    """Answer tokens whose log-probability nobody recorded."""
    import torch

    return packed["assistant_mask"].bool() & torch.isnan(packed["logprobs"])


def _moments(
    difference: "torch.Tensor",
    answers: "torch.Tensor",
    unknown: "torch.Tensor",
    advantages: "torch.Tensor",
    config: "EmbeddedTrainConfig",
) -> dict[str, float]:
    """The importance ratio parent / behaviour, per token, and the effective sample size, per answer."""
    import torch

    ratio = torch.exp(difference[answers])
    # Weights of whole answers; in double precision, and bounded where they would overflow.
    weights = torch.exp(difference.double().sum(1).clamp(-50.0, 50.0))[answers.any(1)]
    clipped = _clipped_ratio(difference, answers, config)[answers]
    outside = _outside(clipped, advantages[answers], config.epsilon)
    return {
        "off_policy/effective_sample_size": float(weights.sum() ** 2 / (weights**2).sum()),
        "off_policy/effective_share": float(weights.sum() ** 2 / (weights**2).sum() / weights.numel()),
        "off_policy/ratio_mean": float(ratio.mean()),
        "off_policy/ratio_std": float(ratio.std(unbiased=False)),
        "off_policy/ratio_max": float(ratio.max()),
        "off_policy/second_moment": float((difference[answers] ** 2).mean()),
        "off_policy/outside_clip_share": float(outside.float().mean()),
        "off_policy/without_logprobs_share": float(unknown.sum()) / float(answers.sum()),
    }


def _veto(
    difference: "torch.Tensor", answers: "torch.Tensor", advantages: "torch.Tensor", bound: float | None
) -> "torch.Tensor":
    """Tokens of answers with a negative advantage whose mean log ratio is below minus the bound."""
    import torch

    if bound is None:
        return torch.zeros_like(answers)
    mean = difference.sum(1) / answers.sum(1).clamp(min=1)
    return answers & (advantages < 0) & (mean < -bound)[:, None]


def _second_moment_mask(
    difference: "torch.Tensor", answers: "torch.Tensor", advantages: "torch.Tensor", bound: float | None
) -> "torch.Tensor":
    """The tokens to leave out so that the mean squared log ratio of the rest is at most the bound.

    Only tokens that PPO could clip are left out (up with a positive advantage, down with a negative one): the
    others pull the policy back.
    """
    import torch

    left_out = torch.zeros_like(answers)
    if bound is None:
        return left_out
    total, count = float((difference[answers] ** 2).sum()), int(answers.sum())
    away = answers & (difference * advantages > 0)
    squares = (difference**2)[away]
    rows, columns = away.nonzero(as_tuple=True)
    for index in squares.argsort(descending=True, stable=True).tolist():
        if count == 0 or total / count <= bound:
            break
        total, count = total - float(squares[index]), count - 1
        left_out[rows[index], columns[index]] = True
    return left_out


def _truncated(difference: "torch.Tensor", answers: "torch.Tensor", cap: float | None) -> float:
    if cap is None:
        return 0.0
    return float((difference[answers] > math.log(cap)).float().mean())
