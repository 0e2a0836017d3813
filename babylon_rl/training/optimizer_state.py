"""Adam's moments beside a checkpoint, as safetensors: a resumed training goes on as if it had not stopped."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from babylon_rl.policy.errors import CheckpointError

if TYPE_CHECKING:
    import torch

FILE = "optimizer.safetensors"
_MOMENTS = ("step", "exp_avg", "exp_avg_sq")


class OptimizerState:
    """The moments of each trained parameter; empty means a fresh optimiser.

    Args:
        tensors: By ``<parameter>/<moment>``.
        source: Where they were read, for errors.
    """

    def __init__(self, tensors: "dict[str, torch.Tensor] | None" = None, source: Path | None = None) -> None:
        self.tensors = tensors or {}
        self.source = source or Path(FILE)

    @classmethod
    def load(cls, checkpoint: Path) -> "OptimizerState":
        """The moments of a verified checkpoint; empty where it was saved without."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        if not (checkpoint / FILE).is_file():
            return cls(source=checkpoint)
        try:
            return cls(load_file(checkpoint / FILE), checkpoint)
        except SafetensorError as error:
            raise CheckpointError(checkpoint, f"{FILE}: {error}") from error

    def save(self, folder: Path) -> None:
        """Write the moments into a checkpoint's folder."""
        from safetensors.torch import save_file

        save_file(dict(sorted(self.tensors.items())), folder / FILE)

    def put_into(
        self, optimiser: "torch.optim.Optimizer", parameters: "Mapping[str, torch.nn.Parameter]"
    ) -> None:
        """Give the optimiser these moments.

        Raises:
            CheckpointError: They are of other parameters.
        """
        if not self.tensors:
            return
        wanted = {f"{name}/{moment}" for name in parameters for moment in _MOMENTS}
        if wanted != set(self.tensors):
            raise CheckpointError(self.source, f"{FILE} holds the moments of other parameters")
        for name, parameter in parameters.items():
            state = {moment: self.tensors[f"{name}/{moment}"].clone() for moment in _MOMENTS}
            if state["exp_avg"].shape != parameter.shape:
                raise CheckpointError(self.source, f"{FILE}: {name} has another shape")
            for moment in ("exp_avg", "exp_avg_sq"):
                state[moment] = state[moment].to(parameter.device)
            optimiser.state[parameter] = state

    def take_from(
        self, optimiser: "torch.optim.Optimizer", parameters: "Mapping[str, torch.nn.Parameter]"
    ) -> None:
        """Keep the optimiser's moments."""
        self.tensors = {
            f"{name}/{moment}": optimiser.state[parameter][moment].detach().cpu().clone()
            for name, parameter in parameters.items()
            for moment in _MOMENTS
        }
