"""The share of a day's gradient that is signal, on gradients whose truth is known."""

import pytest

from babylon_rl.training.reliability import MIN_WINDOWS, signal_share


def share(noise: float, *, windows: int = 24, mean: float = 1.0, seed: int = 0, size: int = 4000) -> float:
    """Share of gradients ``mean + noise * N(0, 1)``, one per window, over ``size`` parameters."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    parameter = torch.nn.Parameter(torch.zeros(size))
    gradients = mean + noise * torch.randn(windows, size, generator=generator)
    return signal_share(
        [torch.tensor([window]) for window in range(windows)],
        [parameter],
        lambda rows: (gradients[rows].sum(0) * parameter).sum(),
    )


def test_pure_noise_has_next_to_none() -> None:
    assert max(share(1.0, mean=0.0, seed=seed) for seed in range(10)) < 0.1


def test_windows_that_agree_have_nearly_all() -> None:
    assert share(0.5) > 0.95


def test_it_falls_with_the_noise() -> None:
    shares = [share(noise) for noise in (1.0, 4.0, 16.0)]
    assert shares == sorted(shares, reverse=True)
    # One standard error of the mean per parameter doubles the squared t: half of it is signal.
    assert share(24**0.5, windows=24) == pytest.approx(0.5, abs=0.06)


def test_scale_does_not_matter() -> None:
    assert share(4.0) == pytest.approx(share(4e-4, mean=1e-4), abs=1e-3)


def test_few_windows_tell_nothing() -> None:
    assert share(100.0, mean=0.0, windows=MIN_WINDOWS - 1) == 1.0


def test_parameters_without_gradient_do_not_count() -> None:
    import torch

    used, unused = torch.nn.Parameter(torch.zeros(100)), torch.nn.Parameter(torch.zeros(100))
    gradients = 1.0 + torch.randn(12, 100, generator=torch.Generator().manual_seed(1))
    rows = [torch.tensor([window]) for window in range(12)]

    def loss(chosen: torch.Tensor) -> torch.Tensor:
        return (gradients[chosen].sum(0) * used).sum()

    assert signal_share(rows, [used, unused], loss) == signal_share(rows, [used], loss)
