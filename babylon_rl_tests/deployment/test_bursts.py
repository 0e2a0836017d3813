"""What counts as a burst of errors."""

import pytest

from babylon_rl.deployment.bursts import is_burst


@pytest.mark.parametrize(
    ("candidate", "incumbent", "burst"),
    [
        ((9, 9), (100, 0), False),  # too few to say
        ((30, 12), (100, 0), True),
        ((100, 12), (100, 0), False),  # few of many: the experiment's business
        ((30, 30), (0, 0), True),
        ((30, 12), (0, 0), False),  # nobody to compare with: half must fail
        ((30, 15), (30, 14), False),  # everybody fails
        ((10, 10), (10**6, 10), True),
    ],
)
def test_what_is_a_burst(candidate: tuple[int, int], incumbent: tuple[int, int], burst: bool) -> None:
    assert is_burst(candidate, incumbent) is burst
