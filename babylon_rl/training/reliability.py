"""How much of a day's gradient is signal: the share that would be there again on other windows.

ART rescales every batch to the same mean advantage, so a day of pure noise would take a step as large as a
day full of signal. The windows of a day are independent repetitions: if the policy gradient's mean over them
is no larger than chance makes it, there is nothing to learn, and the step should be small.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch

MIN_WINDOWS = 6
"""Below this many windows their variance says nothing, and the step is taken whole."""

MAX_PARTS = 24
"""A day's windows; where there are more, such as a group for each prompt, neighbours are taken together."""


def signal_share(
    windows: "Sequence[torch.Tensor]",
    parameters: "Sequence[torch.nn.Parameter]",
    loss: "Callable[[torch.Tensor], Any]",
) -> float:
    """Share of the squared mean gradient, in units of its standard error, that chance does not explain.

    For each parameter t = mean / (sd / sqrt(n)) over the n windows. Without signal the mean of t squared is
    (n - 1) / (n - 3); the share is one minus that expectation over what was found, zero at least.

    Args:
        windows: Row numbers of each window.
        parameters: What is trained.
        loss: The policy loss of some rows, to be differentiated.
    """
    import torch

    if len(windows) < MIN_WINDOWS:
        return 1.0
    size = -(-len(windows) // MAX_PARTS)
    windows = [torch.cat(list(windows[first : first + size])) for first in range(0, len(windows), size)]
    n = len(windows)
    total = [torch.zeros_like(parameter) for parameter in parameters]
    squares = [torch.zeros_like(parameter) for parameter in parameters]
    for rows in windows:
        gradients = torch.autograd.grad(loss(rows), parameters, allow_unused=True)
        for index, gradient in enumerate(gradients):
            if gradient is not None:
                total[index] += gradient
                squares[index] += gradient**2
    t_squared, count = 0.0, 0
    for summed, squared in zip(total, squares, strict=True):
        mean = summed / n
        variance = (squared / n - mean**2) * n / (n - 1)
        known = variance > 1e-20
        t_squared += float((mean[known] ** 2 / (variance[known] / n)).sum())
        count += int(known.sum())
    if count == 0 or t_squared == 0.0:
        return 0.0
    return max(0.0, 1.0 - (n - 1) / (n - 3) / (t_squared / count))
