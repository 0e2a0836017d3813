"""The embedded backend: ART's own tokenisation, packing and loss around a small model on the CPU or one GPU.

The gradient is PPO's: several epochs of clipped updates on one day of episodes, with the recorded log-
probabilities as the old policy. ART rescales advantages to a mean magnitude of one, so the learning rate
alone sets the step size.
"""

import asyncio
import random
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from babylon_rl.policy.checkpoints import load_checkpoint, save_checkpoint
from babylon_rl.policy.engine import EmbeddedEngine
from babylon_rl.policy.server import PolicyServer
from babylon_rl.training.art_import import import_art
from babylon_rl.training.errors import EmptyBatchError

if TYPE_CHECKING:
    import art
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Progress = Callable[[int, int, dict[str, float]], None]
"""Receives optimiser steps done, their total, and the metrics of the last one."""


@dataclass(frozen=True)
class EmbeddedTrainConfig:
    """How the embedded backend trains one unit; part of the unit's identity."""

    learning_rate: float = 1e-3
    epochs: int = 4
    minibatches: int = 4
    epsilon: float = 0.2
    """PPO clips the importance ratio to ``1 ± epsilon``."""
    max_grad_norm: float = 1.0
    seed: int = 0


class EmbeddedBackend:
    """An ``art.backend.Backend`` that trains whole tiny models in this process.

    Args:
        root: folder for ART's own files.
        checkpoint: directory of the checkpoint that training starts from.
        step: ART's step number of that checkpoint: its depth in the lineage.
    """

    def __init__(self, root: Path, checkpoint: Path, step: int) -> None:
        self.root, self.checkpoint, self.step = root, checkpoint, step
        self._server: PolicyServer | None = None

    async def register(self, model: "art.TrainableModel") -> None:
        """Adopt a model; nothing is written before it is trained."""
        model.base_path = str(self.root)

    async def _prepare_backend_for_training(
        self, model: "art.TrainableModel", config: Any = None
    ) -> tuple[str, str]:
        """Serve the current checkpoint, so that ``model.openai_client()`` works; returns address and key."""
        self._server = self._server or PolicyServer(self._engine())
        return self._server.base_url, self._server.api_key

    def _model_inference_name(self, model: "art.Model", step: int | None = None) -> str:
        return f"{model.name}@{self.step if step is None else step}"

    async def _get_step(self, model: "art.TrainableModel") -> int:
        return self.step

    async def _delete_checkpoint_files(self, model: "art.TrainableModel", steps_to_keep: list[int]) -> None:
        """Checkpoints belong to the registry, which archives them; ART deletes none."""

    async def train(
        self,
        model: "art.TrainableModel",
        trajectory_groups: "Iterable[art.TrajectoryGroup]",
        *,
        output: Path,
        config: EmbeddedTrainConfig,
        manifest: dict[str, Any],
        on_step: Progress | None = None,
    ) -> "art.types.LocalTrainResult":
        """Train the current checkpoint on the groups, write the result to ``output`` and make it the current
        one.

        Args:
            manifest: provenance to be stored with the checkpoint.

        Raises:
            EmptyBatchError: no group carries signal, so there is nothing to learn.
            CheckpointError: the current checkpoint is unusable.
        """
        import_art()
        from art._backend_training import aggregate_rl_training_metrics
        from art.types import LocalTrainResult

        groups, started = list(trajectory_groups), time.monotonic()
        network, tokenizer = load_checkpoint(self.checkpoint)
        samples = optimise(network, tokenizer, groups, config, on_step)
        provenance = {**manifest, "step": self.step + 1, "train_config": asdict(config)}
        save_checkpoint(output, network, tokenizer, provenance)
        self.checkpoint, self.step = output, self.step + 1
        if self._server:
            self._server.swap(self._engine())
        metrics = aggregate_rl_training_metrics(
            training_metrics=samples, trajectory_groups=groups, trainer_started=started
        )
        return LocalTrainResult(step=self.step, metrics=metrics, checkpoint_path=str(output))

    async def close(self) -> None:
        """Stop serving."""
        if self._server:
            await asyncio.to_thread(self._server.close)
            self._server = None

    def _engine(self) -> EmbeddedEngine:
        return EmbeddedEngine.load(self.checkpoint, f"step{self.step}")


def optimise(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    groups: "list[art.TrajectoryGroup]",
    config: EmbeddedTrainConfig,
    on_step: Progress | None = None,
) -> list[dict[str, float]]:
    """Update ``model`` in place; returns one dictionary of metrics per optimiser step.

    Equal inputs give bit-identical weights on the CPU: ART's own shuffling is seeded too.
    """
    import torch

    with _seeded(config.seed):
        packed = _pack(tokenizer, groups)
    rows = packed["tokens"].shape[0]
    optimiser = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=0.0)
    generator = torch.Generator().manual_seed(config.seed)
    total, metrics = config.epochs * len(torch.arange(rows).chunk(config.minibatches)), []
    model.train()
    for _ in range(config.epochs):
        for chosen in torch.randperm(rows, generator=generator).chunk(config.minibatches):
            batch = {
                name: value[chosen].to(model.device)
                for name, value in packed.items()
                if hasattr(value, "dim")
            }
            loss = _loss(model, batch, config)
            optimiser.zero_grad()
            loss.policy_loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
            optimiser.step()
            metrics.append(
                {
                    "loss/train": loss.policy_loss.item(),
                    "loss/entropy": loss.entropy.item(),
                    "loss/grad_norm": norm.item(),
                    "loss/learning_rate": config.learning_rate,
                    "loss/probs_corr": loss.probs_corr.item(),
                    "data/step_trainer_tokens": float(batch["assistant_mask"].sum()),
                    "data/step_num_gradient_steps": float(total),
                }
            )
            if on_step:
                on_step(len(metrics), total, metrics[-1])
    model.eval()
    return metrics


def _pack(tokenizer: "PreTrainedTokenizerBase", groups: "list[art.TrajectoryGroup]") -> dict[str, Any]:
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


def _loss(model: "PreTrainedModel", batch: "dict[str, torch.Tensor]", config: EmbeddedTrainConfig) -> Any:
    """ART's PPO loss; the vocabulary projection runs only where an answer's token is predicted."""
    import torch
    from art.loss import loss_fn

    tokens, mask = batch["tokens"], batch["assistant_mask"]
    hidden = model.model(input_ids=tokens[:, :-1]).last_hidden_state
    predicted = mask[:, 1:]
    log_probabilities = torch.log_softmax(model.lm_head(hidden[predicted]).float(), dim=-1)
    chosen = log_probabilities.gather(1, tokens[:, 1:][predicted][:, None])[:, 0]
    new_logprobs = torch.zeros(tokens.shape, device=tokens.device)
    entropies = torch.zeros(tokens.shape, device=tokens.device)
    new_logprobs[:, :-1][predicted] = chosen
    entropies[:, 1:][predicted] = -(log_probabilities.exp() * log_probabilities).sum(-1).detach()
    options: Any = {"ppo": True, "epsilon": config.epsilon}
    return loss_fn(cast(Any, batch), new_logprobs, None, entropies, options)


class _seeded:  # noqa: N801 - reads as a statement
    """Python's global random state, fixed for ART's shuffling and restored afterwards."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def __enter__(self) -> None:
        self.state = random.getstate()
        random.seed(self.seed)

    def __exit__(self, *_: object) -> None:
        random.setstate(self.state)
