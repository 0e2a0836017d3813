"""What is trained and how it is written: all weights of a model, or a LoRA adapter on top of them."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from babylon_rl.policy.checkpoints import (
    is_adapter,
    load_checkpoint,
    read_manifest,
    verify_checkpoint,
    write_model,
)
from babylon_rl.training.recipe import EmbeddedTrainConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Network:
    """A model whose trainable parameters are those of the method.

    Attributes:
        model: For forward passes; parameters that are not trained require no gradient.
        write: Writes the result's files into an empty folder.
        provenance: What the manifest must say for the result to be loaded again.
    """

    model: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerBase"
    write: Callable[[Path], None]
    provenance: dict[str, Any] = field(default_factory=dict)


def open_network(checkpoint: Path, config: EmbeddedTrainConfig) -> Network:
    """Load a checkpoint for training.

    An adapter is trained on; under the method ``full`` it is merged first. A whole model gets a new adapter
    under the method ``lora``.

    Raises:
        CheckpointError: The checkpoint is unusable.
        AdapterMismatchError: It is an adapter of another rank, or of another model.
    """
    if config.method == "full":
        model, tokenizer = load_checkpoint(checkpoint)
        return Network(model, tokenizer, lambda folder: write_model(folder, model, tokenizer))
    return _adapter(checkpoint, config)


def _adapter(checkpoint: Path, config: EmbeddedTrainConfig) -> Network:
    from babylon_rl.policy.adapters import (
        AdapterConfig,
        attach,
        describe_base,
        load_adapter,
        read_config,
        require_rank,
        write_adapter,
    )

    verify_checkpoint(checkpoint)
    if is_adapter(checkpoint):
        require_rank(checkpoint, config.lora_rank)
        shape = read_config(checkpoint)
        network, tokenizer = load_adapter(checkpoint)
        base = read_manifest(checkpoint)["base_checkpoint"]
    else:
        model, tokenizer = load_checkpoint(checkpoint)
        name = read_manifest(checkpoint).get("base_model")
        shape = AdapterConfig(config.lora_rank, config.lora_alpha, name)
        network, base = attach(model, shape, config.seed), describe_base(checkpoint)
    inner: Any = network.get_base_model()
    return Network(
        inner, tokenizer, lambda folder: write_adapter(folder, network, shape), {"base_checkpoint": base}
    )
