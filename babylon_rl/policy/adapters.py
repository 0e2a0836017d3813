"""LoRA adapters on disk, in PEFT's layout, and the models that they belong to.

    adapter_config.json  adapter_model.safetensors  manifest.json

The manifest names the checkpoint that the adapter was trained on (`base_checkpoint`: address, file hashes).
An adapter is only ever put on those weights, its configuration is rebuilt from an allow-list of keys, and its
tensors must have exactly the names and shapes that the configuration promises.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlparse

from babylon_rl.policy.checkpoints import ADAPTER_CONFIG, is_adapter, load_checkpoint, read_manifest
from babylon_rl.policy.errors import AdapterMismatchError, CheckpointError

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

ADAPTER_WEIGHTS = "adapter_model.safetensors"
TARGETS = ("down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj")
"""Layers that an adapter may change: every linear layer of the allowed architectures but the vocabulary's."""
LARGEST_RANK = 256
_REFUSED = ("auto_mapping", "modules_to_save", "layer_replication", "trainable_token_indices")


@dataclass(frozen=True)
class AdapterConfig:
    """The part of PEFT's configuration that is understood here."""

    rank: int
    alpha: float
    base_model: str | None
    targets: tuple[str, ...] = TARGETS

    def to_peft(self) -> dict[str, Any]:
        """The content of `adapter_config.json`, as PEFT and vLLM read it."""
        return {
            "base_model_name_or_path": self.base_model,
            "bias": "none",
            "fan_in_fan_out": False,
            "inference_mode": True,
            "init_lora_weights": True,
            "lora_alpha": self.alpha,
            "lora_dropout": 0.0,
            "modules_to_save": None,
            "peft_type": "LORA",
            "r": self.rank,
            "target_modules": list(self.targets),
            "task_type": "CAUSAL_LM",
            "use_dora": False,
            "use_rslora": False,
        }


def read_config(path: Path) -> AdapterConfig:
    """The configuration of an adapter directory.

    Raises:
        CheckpointError: it is unreadable, of another kind than LoRA, or asks for what is never done.
    """
    try:
        values = json.loads((path / ADAPTER_CONFIG).read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(path, f"{ADAPTER_CONFIG} is not readable ({error})") from None
    if not isinstance(values, dict) or values.get("peft_type") != "LORA":
        raise CheckpointError(path, f"{ADAPTER_CONFIG} does not describe a LoRA adapter")
    for name in _REFUSED:
        if values.get(name):
            raise CheckpointError(path, f"{ADAPTER_CONFIG} asks for {name}, which is not supported")
    if values.get("use_dora") or values.get("use_rslora") or values.get("bias", "none") != "none":
        raise CheckpointError(path, f"{ADAPTER_CONFIG} describes a variant of LoRA that is not supported")
    rank, alpha, targets = values.get("r"), values.get("lora_alpha"), values.get("target_modules")
    if not isinstance(rank, int) or not 1 <= rank <= LARGEST_RANK:
        raise CheckpointError(path, f"{ADAPTER_CONFIG}: rank {rank!r} is not between 1 and {LARGEST_RANK}")
    if not isinstance(alpha, int | float) or alpha <= 0:
        raise CheckpointError(path, f"{ADAPTER_CONFIG}: lora_alpha {alpha!r} is not a positive number")
    if not isinstance(targets, list) or not targets or set(targets) - set(TARGETS):
        raise CheckpointError(path, f"{ADAPTER_CONFIG}: target_modules {targets!r} are not among {TARGETS}")
    return AdapterConfig(rank, alpha, values.get("base_model_name_or_path"), tuple(sorted(targets)))


def base_of(path: Path) -> Path:
    """The directory of the checkpoint that an adapter was trained on.

    Raises:
        AdapterMismatchError: it is gone, or holds other weights than the adapter was trained on.
    """
    manifest = read_manifest(path)
    named: Mapping[str, Any] = manifest.get("base_checkpoint") or {}
    recorded = Path(unquote(urlparse(str(named.get("uri", ""))).path))
    # A moved BABYLON_HOME keeps checkpoints and models side by side.
    places = [recorded, path.parent / recorded.name, path.parent.parent / "models" / recorded.name]
    base = next((place for place in places if recorded.name and place.is_dir()), None)
    if base is None:
        raise AdapterMismatchError(path, f"the model that it was trained on ({recorded}) is not there")
    if read_manifest(base)["files"] != named.get("files"):
        raise AdapterMismatchError(path, f"it was trained on other weights than those of {base}")
    expected, found = read_config(path).base_model, read_manifest(base).get("base_model")
    if expected is not None and found is not None and expected != found:
        raise AdapterMismatchError(path, f"it belongs to the base model {expected}, not to {found}")
    return base


def describe_base(base: Path) -> dict[str, Any]:
    """What an adapter's manifest says under `base_checkpoint`."""
    return {"uri": base.as_uri(), "files": read_manifest(base)["files"]}


def attach(model: "PreTrainedModel", config: AdapterConfig, seed: int = 0) -> "PeftModel":
    """Put a fresh adapter on a model; it changes nothing until it is trained. Same seed, same weights."""
    import torch
    from peft import LoraConfig, get_peft_model

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        options = LoraConfig(
            r=config.rank,
            lora_alpha=config.alpha,  # type: ignore[arg-type]
            target_modules=list(config.targets),
            lora_dropout=0.0,
            bias="none",
            task_type="CAUSAL_LM",
        )
        return get_peft_model(model, options)  # type: ignore[return-value]


def load_adapter(path: Path) -> "tuple[PeftModel, PreTrainedTokenizerBase]":
    """Load an adapter on its base, ready to be trained further; the directory has been verified.

    Raises:
        AdapterMismatchError: tensors are missing, unknown, or of another shape than the configuration says.
    """
    from peft import get_peft_model_state_dict, set_peft_model_state_dict
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    config = read_config(path)
    model, tokenizer = load_checkpoint(base_of(path))
    network = attach(model, config)
    wanted = {name: tuple(value.shape) for name, value in get_peft_model_state_dict(network).items()}
    try:
        tensors = load_file(path / ADAPTER_WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(path, str(error).splitlines()[0]) from error
    found = {name: tuple(value.shape) for name, value in tensors.items()}
    if found != wanted:
        differing = sorted(name for name in {*found, *wanted} if found.get(name) != wanted.get(name))
        name = differing[0]
        raise AdapterMismatchError(
            path,
            f"{name} has the shape {found.get(name)}, but rank {config.rank} on its base needs "
            f"{wanted.get(name)} ({len(differing)} tensors differ)",
        )
    set_peft_model_state_dict(network, tensors)
    return network, tokenizer


def load_merged(path: Path) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
    """Load an adapter merged into its base, in evaluation mode."""
    network, tokenizer = load_adapter(path)
    merged: Any = network.merge_and_unload()  # type: ignore[operator]
    merged.requires_grad_(True)
    return merged.eval(), tokenizer


def write_adapter(folder: Path, network: "PeftModel", config: AdapterConfig) -> None:
    """Write an adapter's files. PEFT's own writer looks the base model up on the network."""
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    tensors: dict[str, torch.Tensor] = {
        name: value.detach().cpu().contiguous()
        for name, value in sorted(get_peft_model_state_dict(network, save_embedding_layers=False).items())
    }
    save_file(tensors, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})
    (folder / ADAPTER_CONFIG).write_text(json.dumps(config.to_peft(), indent=2, sort_keys=True) + "\n")


def require_rank(path: Path, rank: int) -> None:
    """Refuse to go on training an adapter under another rank than it has.

    Raises:
        AdapterMismatchError: the ranks differ.
    """
    if is_adapter(path) and (has := read_config(path).rank) != rank:
        raise AdapterMismatchError(path, f"it has rank {has}, and LORA_RANK asks for {rank}")
