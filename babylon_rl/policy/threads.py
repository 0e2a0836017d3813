"""How many threads a model's arithmetic gets."""

SMALL_MODEL_PARAMETERS = 5_000_000
"""Up to this size two threads wait for each other longer than they help, most of all on busy cores."""


def fit_threads(parameters: int) -> None:
    """Keep this process's arithmetic on one thread where the model is small."""
    import torch

    if parameters <= SMALL_MODEL_PARAMETERS and torch.get_num_threads() > 1:
        torch.set_num_threads(1)
