"""How the embedded backend trains one unit: the configuration that is part of the unit's identity."""

from dataclasses import dataclass
from typing import Literal

Method = Literal["full", "lora"]
Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class EmbeddedTrainConfig:
    """How the embedded backend trains one unit; part of the unit's identity."""

    learning_rate: float = 2e-3
    smallest_step: float = 0.25
    """The learning rate is multiplied by the share of the day's gradient that is signal (``reliability``),
    but by no less than this: a policy that starts from chance would never leave it. 1 turns it off.
    """
    epochs: int = 4
    minibatches: int = 4
    """Optimiser steps per epoch, unless ``batch_size`` says how large one is."""
    epsilon: float = 0.2
    """PPO clips the importance ratio to ``1 ± epsilon``."""
    importance_sampling: Literal["token", "sequence"] = "sequence"
    """Whether the ratio is each token's own, or the geometric mean over its answer (GSPO, arXiv 2507.18071).
    An order is one action, paid as a whole: clipped by token, the one that decides (the side) stops learning
    after a fifth, while those that only spell the order have hardly moved.
    """
    truncated_importance: float | None = None
    """Cap of the importance weight from the recorded policy to the parent; the clipped ratio then starts at
    the parent (``off_policy``). None lets the clipped ratio begin at the recorded policy.
    """
    negative_veto: float | None = None
    """Answers with a negative advantage whose mean log ratio is below minus this are left out."""
    negative_spare: float | None = 0.98
    """A bad answer does not push down the tokens that the parent gave more than this probability. 1 or None
    spares none (``off_policy.spare``).
    """
    second_moment: float | None = None
    """Bound of the mean squared log ratio; the tokens that exceed it are left out (M2PO uses 0.04)."""
    scale_rewards: bool = False
    """Divides advantages by their standard deviation in each window. Off: in a market most of a window's
    spread is luck, so the division makes a quiet hour, in which nothing could be learned, as loud as one with
    a real difference (arXiv 2505.17989 drops it for the same reason).
    """
    max_grad_norm: float = 1.0
    seed: int = 0
    method: Method = "full"
    """``full`` trains every weight, ``lora`` an adapter on top of them."""
    lora_rank: int = 8
    lora_alpha: float = 16.0
    """The adapter's update is scaled by ``lora_alpha / lora_rank``."""
    batch_size: int | None = None
    """Sequences per forward pass. An optimiser step takes ``batch_size * gradient_accumulation_steps``."""
    gradient_accumulation_steps: int = 1
    """Forward passes per optimiser step: less memory, the same gradient."""
    warmup_steps: int = 0
    """Optimiser steps over which the learning rate rises linearly to its value."""
    kl_penalty: float = 0.0
    """Weight of the divergence from the unit's parent: ART lowers the advantage of tokens that went far."""
    precision: Precision = "float32"
    """Arithmetic of the forward pass; the weights and the optimiser stay in float32."""
    optimizer_state: Literal["fresh", "continue"] = "fresh"
    """``continue`` stores Adam's moments beside the checkpoint and goes on with the parent's."""
