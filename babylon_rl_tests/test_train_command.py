"""`babylon train`: flags that mean nothing in a mode are refused, and none is ignored."""

import pytest

from babylon_rl_tests.test_cli import babylon, environment, error_of

__all__ = ["environment"]


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["--iterations", "3"], "--iterations means nothing in mode single. Use --mode continuous"),
        (["--mode", "single", "--windows-per-iteration", "9"], "--windows-per-iteration means nothing"),
        (["--mode", "list", "--learning-rate", "1e-6"], "--learning-rate means nothing in mode list"),
        (["--mode", "continuous", "--day", "2026-10-02"], "--day means nothing in mode continuous"),
        (["--mode", "continuous", "--window", "2026-10-02T14:00"], "--window means nothing"),
        (["--day", "2026-10-02", "--lookback-hours", "48"], "--lookback-hours means nothing beside --day"),
        (["--day", "2026-10-02", "--window", "2026-10-02T14:00"], "--day and --window exclude each other"),
    ],
)
def test_a_flag_without_effect_is_refused(
    environment: dict[str, str], flags: list[str], complaint: str
) -> None:
    assert complaint in error_of(babylon(environment, "train", *flags))


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["--backend", "serverless"], "WANDB_API_KEY"),
        (["--learning-rate", "-1"], "learning_rate=-1.0"),
        (["--backend", "tpu"], "training_backend='tpu'"),
        (["--config", "gone.yaml"], "gone.yaml cannot be read"),
    ],
)
def test_a_value_that_cannot_be_is_refused(
    environment: dict[str, str], flags: list[str], complaint: str
) -> None:
    assert complaint in error_of(babylon(environment, "train", *flags))
