"""`babylon train`: flags that mean nothing in a mode are refused, and none is ignored."""

from pathlib import Path
from typing import Any

import pytest

from babylon_rl.commands.train import _options
from babylon_rl.settings import Settings
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


def options_of(
    settings: Settings, capsys: pytest.CaptureFixture[str], file: Path | None = None, **flags: Any
) -> tuple[dict[str, Any], str]:
    """What a run is told, and the notes that a person reads."""
    _, given = _options(settings.model_copy(update={"training_backend": "embedded"}), flags, file)
    return given, " ".join(capsys.readouterr().err.split())


def test_a_flag_beats_the_file_and_the_file_the_environment(
    settings: Settings, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "rl-pipeline.yaml"
    file.write_text("training: {learning_rate: 0.002, kl_penalty: 0.1, gamma: 0.99}")
    told = settings.model_copy(update={"kl_penalty": 0.5, "learning_rate": 1e-5})
    given, notes = options_of(told, capsys, file, learning_rate=1e-4, base_model=None)
    assert given == {"learning_rate": 1e-4, "kl_penalty": 0.1}
    assert "GAMMA=0.99: a default that backend embedded cannot follow; dropped" in notes


def test_unusual_values_are_told_wherever_they_come_from(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    told = settings.model_copy(update={"batch_size": 65})
    given, notes = options_of(told, capsys, learning_rate=0.5)
    assert given == {"learning_rate": 0.5}
    assert "LEARNING_RATE 0.5 is outside of the usual 1e-8 to 1e-3." in notes
    assert "BATCH_SIZE 65 is more than the usual 64." in notes
