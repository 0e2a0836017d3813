"""PPO on one batch: ART's own tokenisation, packing and loss, and an optimiser around them.

Several epochs of clipped updates, with the recorded log-probabilities as the old policy. ART rescales
advantages to a mean magnitude of one, so the learning rate alone sets the step size.
"""

import math
import random
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from babylon_rl.training.errors import EmptyBatchError, TrainingDivergedError
from babylon_rl.training.off_policy import correct, spare, step_ratios
from babylon_rl.training.optimizer_state import OptimizerState
from babylon_rl.training.recipe import EmbeddedTrainConfig
from babylon_rl.training.reliability import signal_share
from babylon_rl.training.shared_prompts import by_prompt, number_prompts
from babylon_rl.training.token_logprobs import at_tokens, batch_of, reference_logprobs, token_logprobs

if TYPE_CHECKING:
    import art
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Progress = Callable[[int, int, dict[str, float]], None]
"""Receives optimiser steps done, their total, and the metrics of the last one."""

Batch = "dict[str, torch.Tensor]"


def optimise(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    groups: "list[art.TrajectoryGroup]",
    config: EmbeddedTrainConfig,
    on_step: Progress | None = None,
    *,
    reference: "PreTrainedModel | None" = None,
    state: OptimizerState | None = None,
) -> list[dict[str, float]]:
    """Update ``model`` in place; returns one dictionary of metrics per optimiser step.

    Equal inputs give bit-identical weights on the CPU: ART's own shuffling is seeded too. Only parameters
    that require a gradient change.

    Args:
        reference: Weights that the KL penalty measures from; those of ``model`` as given by default.
        state: Moments to go on with, and where the final ones are left.

    Raises:
        EmptyBatchError: No group has a spread of rewards and recorded log-probabilities.
        TrainingDivergedError: The loss is no finite number.
    """
    import torch

    with _seeded(config.seed):
        packed = _pack(tokenizer, groups, scale_rewards=config.scale_rewards)
    packed["prompts"] = number_prompts(packed["tokens"], packed["assistant_mask"])
    rows = packed["tokens"].shape[0]
    trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
    if config.kl_penalty > 0:
        packed["ref_logprobs"] = reference_logprobs(reference or model, packed)
    parent = at_tokens(reference_logprobs(model, packed))
    found = correct(packed, parent, config) | _left_out(groups, rows)
    # Before tokens are spared: praise of what is certain would look like signal on any day.
    share = _signal_share(model, packed, config)
    found |= spare(packed, parent, config)
    config = replace(config, learning_rate=config.learning_rate * share)
    optimiser = torch.optim.AdamW(trained.values(), lr=config.learning_rate, weight_decay=0.0)
    if state is not None:
        state.put_into(optimiser, trained)
    generator = torch.Generator().manual_seed(config.seed)
    total, metrics = config.epochs * len(_steps(torch.arange(rows), config)), []
    model.train()
    for _ in range(config.epochs):
        for micro_batches in _steps(by_prompt(packed["prompts"], generator), config):
            rate = _warm_up(optimiser, config, len(metrics) + 1)
            optimiser.zero_grad()
            measured = _accumulate(model, packed, micro_batches, config)
            norm = torch.nn.utils.clip_grad_norm_(trained.values(), config.max_grad_norm)
            if not math.isfinite(measured["loss/train"]) or not math.isfinite(norm.item()):
                raise TrainingDivergedError(len(metrics) + 1, config.learning_rate)
            optimiser.step()
            metrics.append(
                {
                    **measured,
                    **found,
                    "loss/grad_norm": norm.item(),
                    "loss/learning_rate": rate,
                    "data/signal_share": share,
                    "data/step_num_gradient_steps": float(total),
                }
            )
            if on_step:
                on_step(len(metrics), total, metrics[-1])
    model.eval()
    if state is not None:
        state.take_from(optimiser, trained)
    return metrics


def _left_out(groups: "list[art.TrajectoryGroup]", rows: int) -> dict[str, float]:
    """Calls of the groups that are in no row: they carry no advantage, or ART could not read them."""
    calls = [
        (1 + len(one.additional_histories), one.reward) for group in groups for one in group.trajectories
    ]
    silent = sum(count for count, advantage in calls if advantage == 0)
    unread = sum(count for count, _ in calls) - silent - rows
    return {"dropped/zero_advantage": float(silent), "dropped/not_tokenized": float(unread)}


def _signal_share(model: "PreTrainedModel", packed: dict[str, Any], config: EmbeddedTrainConfig) -> float:
    """The factor of the learning rate; ART gives the rows of one group the same parent id."""
    if config.smallest_step >= 1.0:
        return 1.0
    groups = packed["parent_ids"][:, 0]
    windows = [(groups == group).nonzero()[:, 0] for group in groups.unique()]
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    share = signal_share(
        windows, parameters, lambda rows: _loss(model, batch_of(model, packed, rows), config)[0].policy_loss
    )
    return max(share, config.smallest_step)


def _steps(order: "torch.Tensor", config: EmbeddedTrainConfig) -> "list[tuple[torch.Tensor, ...]]":
    """The rows of an epoch, in this order: per optimiser step, the rows of each forward pass."""
    if config.batch_size is None:
        steps = order.chunk(config.minibatches)
        return [step.chunk(config.gradient_accumulation_steps) for step in steps]
    steps = order.split(config.batch_size * config.gradient_accumulation_steps)
    return [step.split(config.batch_size) for step in steps]


def _accumulate(
    model: "PreTrainedModel",
    packed: dict[str, Any],
    micro_batches: "tuple[torch.Tensor, ...]",
    config: EmbeddedTrainConfig,
) -> dict[str, float]:
    """Backward passes of one optimiser step; together they are the gradient of one large batch."""
    tokens = float(packed["assistant_mask"][_joined(micro_batches)].sum())
    measured: list[dict[str, float]] = []
    for chosen in micro_batches:
        batch = batch_of(model, packed, chosen)
        share = float(batch["assistant_mask"].sum()) / tokens
        loss, new_logprobs = _loss(model, batch, config)
        policy_loss = loss.policy_loss if len(micro_batches) == 1 else loss.policy_loss * share
        policy_loss.backward()
        values = {
            "loss/train": loss.policy_loss.item(),
            "loss/entropy": loss.entropy.item(),
            "loss/probs_corr": loss.probs_corr.item(),
            **step_ratios(batch, new_logprobs, config),
        }
        if loss.kl_policy_ref is not None:
            values["loss/kl_policy_ref"] = loss.kl_policy_ref.item()
        measured.append({name: value * share for name, value in values.items()})
    return {
        **{name: sum(values[name] for values in measured) for name in measured[0]},
        "data/step_trainer_tokens": tokens,
    }


def _joined(micro_batches: "tuple[torch.Tensor, ...]") -> "torch.Tensor":
    import torch

    return torch.cat(micro_batches)


def _warm_up(optimiser: "torch.optim.Optimizer", config: EmbeddedTrainConfig, step: int) -> float:
    """Set and return the learning rate of a step; the first one is 1."""
    rate = config.learning_rate
    if config.warmup_steps:
        rate *= min(1.0, step / config.warmup_steps)
        for group in optimiser.param_groups:
            group["lr"] = rate
    return rate


def _pack(
    tokenizer: "PreTrainedTokenizerBase", groups: "list[art.TrajectoryGroup]", *, scale_rewards: bool = False
) -> dict[str, Any]:
    """One row per history, right-padded; shapes ``(rows, longest)``. Rows do not share prompts."""
    from art.preprocessing.pack import packed_tensors_from_tokenized_results
    from art.preprocessing.tokenize import tokenize_trajectory_groups

    results = list(
        tokenize_trajectory_groups(
            tokenizer,
            groups,
            allow_training_without_logprobs=False,
            scale_rewards=False,
            drop_zero_advantage_trajectories=False,
        )
    )
    # ART subtracts the mean of the members it is given. Ours carry the advantage over their whole group,
    # which also has members that are not trained.
    for result in results:
        result.advantage = result.trajectory.reward
    if scale_rewards:
        _scale(results, groups)
    results = [result for result in results if result.advantage != 0]
    if not results:
        raise EmptyBatchError("No group of this batch has a spread of rewards and recorded log-probabilities")
    for result in results:
        result.prompt_length = 0
    return dict(
        packed_tensors_from_tokenized_results(
            results,
            seq_len=max(len(result.token_ids) for result in results),
            pad_token_id=cast(int, tokenizer.pad_token_id),
            truncate_long_results=False,
            pack_results=False,
            verbosity=0,
        )
    )


def _scale(results: list[Any], groups: "list[art.TrajectoryGroup]") -> None:
    """Divide each advantage by the standard deviation of those of its window."""
    import statistics

    deviations = {
        id(trajectory): statistics.pstdev(member.reward for member in group.trajectories)
        for group in groups
        for trajectory in group.trajectories
    }
    for result in results:
        result.advantage /= deviations[id(result.trajectory)] or 1.0


def _loss(
    model: "PreTrainedModel", batch: "dict[str, torch.Tensor]", config: EmbeddedTrainConfig
) -> "tuple[Any, torch.Tensor]":
    """ART's PPO loss of one batch, and the log-probabilities that it was made of."""
    import torch
    from art.loss import loss_fn

    half = torch.autocast(model.device.type, torch.bfloat16)
    with half if config.precision == "bfloat16" else nullcontext():
        new_logprobs, entropies = token_logprobs(model, batch)
    options: Any = {
        "ppo": True,
        "epsilon": config.epsilon,
        "kl_penalty_coef": config.kl_penalty,
        "importance_sampling_level": config.importance_sampling,
        "truncated_importance_sampling": config.truncated_importance,
    }
    loss = loss_fn(cast(Any, batch), new_logprobs, batch.get("ref_logprobs"), entropies, options)
    return loss, new_logprobs


class _seeded:  # noqa: N801 - reads as a statement
    """Python's global random state, fixed for ART's shuffling and restored afterwards."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def __enter__(self) -> None:
        self.state = random.getstate()
        random.seed(self.seed)

    def __exit__(self, *_: object) -> None:
        random.setstate(self.state)
