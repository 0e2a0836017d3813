"""Which backend trains and why; what each can be told."""

import logging
from pathlib import Path

import pytest

from babylon_rl.settings import Settings
from babylon_rl.training.backends import Gpu, choose_backend, environment_python, find_gpu
from babylon_rl.training.errors import BackendNotAvailableError
from babylon_rl.training.options import (
    CutRules,
    UnsupportedOptionError,
    cut_rules,
    embedded_config,
    hyperparameters,
    local_config,
    serverless_config,
)

GPU = Gpu(True, "a GPU is usable: H100")
NO_GPU = Gpu(False, "the GPU backend is not installed")


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)


def made(tmp_path: Path, **values: object) -> Settings:
    return Settings(_env_file=None, babylon_home=tmp_path, **values)


@pytest.mark.parametrize(
    ("values", "gpu", "name", "reason"),
    [
        ({}, NO_GPU, "embedded", "auto: no WANDB_API_KEY, and the GPU backend is not installed"),
        ({}, GPU, "local", "auto: no WANDB_API_KEY, but a GPU is usable: H100"),
        ({"wandb_api_key": "k"}, GPU, "serverless", "auto: WANDB_API_KEY is set"),
        ({"wandb_api_key": "k", "train_rl_local": False}, GPU, "serverless", "auto: WANDB_API_KEY is set"),
        (
            {"training_backend": "embedded", "wandb_api_key": "k"},
            GPU,
            "embedded",
            "TRAINING_BACKEND=embedded",
        ),
        ({"training_backend": "local"}, GPU, "local", "TRAINING_BACKEND=local"),
        (
            {"training_backend": "serverless", "wandb_api_key": "k", "wandb_entity": "e"},
            GPU,
            "serverless",
            "TRAINING_BACKEND=serverless",
        ),
    ],
)
def test_the_choice_and_its_reason(
    tmp_path: Path,
    values: dict[str, object],
    gpu: Gpu,
    name: str,
    reason: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    choice = choose_backend(made(tmp_path, **values), lambda _: gpu)
    assert (choice.name, choice.reason) == (name, reason)
    assert f"training backend: {name} ({reason})" in caplog.text


def test_a_backend_that_was_asked_for_is_not_replaced_by_another(tmp_path: Path) -> None:
    with pytest.raises(BackendNotAvailableError, match=r"'local' cannot run here: the GPU .* setup-gpu"):
        choose_backend(made(tmp_path, training_backend="local"), lambda _: NO_GPU)


def test_training_here_can_be_forbidden(tmp_path: Path) -> None:
    with pytest.raises(
        BackendNotAvailableError, match=r"TRAIN_RL_LOCAL=false forbids .* Unset TRAIN_RL_LOCAL"
    ):
        choose_backend(made(tmp_path, train_rl_local=False), lambda _: GPU)


def test_a_gpu_is_looked_for_only_where_it_matters(tmp_path: Path) -> None:
    def never(_: Settings) -> Gpu:
        raise AssertionError("looked for a GPU")

    choose_backend(made(tmp_path, training_backend="embedded"), never)
    choose_backend(made(tmp_path, wandb_api_key="k"), never)


def fake_python(tmp_path: Path, script: str) -> Settings:
    python = tmp_path / "local-gpu" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)
    settings = made(tmp_path)
    assert environment_python(settings) == python
    return settings


def test_the_gpu_is_asked_for_in_its_own_environment(tmp_path: Path) -> None:
    assert find_gpu(fake_python(tmp_path, "echo noise; echo NVIDIA H100")) == Gpu(
        True, "a GPU is usable: NVIDIA H100"
    )


def test_without_a_gpu_its_environment_says_why(tmp_path: Path) -> None:
    found = find_gpu(fake_python(tmp_path, "echo 'AssertionError: torch sees no CUDA device' >&2; exit 1"))
    assert not found.usable and "torch sees no CUDA device" in found.finding
    assert "is missing" in find_gpu(made(tmp_path, local_gpu_python=tmp_path / "nowhere")).finding


@pytest.mark.parametrize(
    "values",
    [
        {"batch_size": 4},
        {"gradient_accumulation_steps": 2},
        {"iterations_per_window": 10},
        {"kl_penalty": 0.05},
        {"warmup_steps": 10},
        {"max_grad_norm": 1.0},
        {"gamma": 0.99},
        {"training_method": "full"},
        {"lora_rank": 4},
        {"training_seed": 1},
        {"training_precision": "float32"},
        {"training_optimizer_state": "continue"},
    ],
)
def test_serverless_refuses_what_it_cannot_do_by_name(tmp_path: Path, values: dict[str, object]) -> None:
    [(name, value)] = values.items()
    with pytest.raises(UnsupportedOptionError, match=rf"cannot follow {name.upper()}={value}: .*Unset"):
        serverless_config(made(tmp_path, **values))


def test_values_that_change_nothing_are_fine_everywhere(tmp_path: Path) -> None:
    nothing = made(
        tmp_path,
        gamma=1,
        kl_penalty=0,
        warmup_steps=0,
        iterations_per_window=1,
        gradient_accumulation_steps=1,
    )
    assert serverless_config(nothing) == serverless_config(made(tmp_path))
    assert local_config(nothing) == local_config(made(tmp_path))


def test_the_gpu_backend_follows_its_part(tmp_path: Path) -> None:
    config = local_config(
        made(tmp_path, kl_penalty=0.1, lora_rank=4, learning_rate=1e-5, training_epsilon=0.1)
    )
    assert (config.kl_penalty_coef, config.lora_rank, config.learning_rate) == (0.1, 4, 1e-5)
    with pytest.raises(UnsupportedOptionError, match="WARMUP_STEPS=3"):
        local_config(made(tmp_path, warmup_steps=3))


def test_the_embedded_backend_follows_all_but_the_discount(tmp_path: Path) -> None:
    config = embedded_config(
        made(tmp_path, training_method="lora", lora_rank=4, iterations_per_window=2, training_seed=7)
    )
    assert (config.method, config.lora_rank, config.epochs, config.seed) == ("lora", 4, 2, 7)
    with pytest.raises(UnsupportedOptionError, match="GAMMA=0.9: .* nothing is discounted"):
        embedded_config(made(tmp_path, gamma=0.9))
    with pytest.raises(UnsupportedOptionError, match="LORA_RANK is set, but the method"):
        embedded_config(made(tmp_path, lora_rank=4))


def test_clipping_of_our_own_is_ppos(tmp_path: Path) -> None:
    assert serverless_config(made(tmp_path)).ppo is False
    asked = serverless_config(made(tmp_path, training_epsilon=0.1))
    assert asked.ppo and asked.epsilon == 0.1


def test_chunks_are_limited_where_a_body_is_sent(tmp_path: Path) -> None:
    assert cut_rules(made(tmp_path), "embedded") == CutRules(None, None)
    assert cut_rules(made(tmp_path), "serverless") == CutRules(16 << 20, None)
    assert cut_rules(made(tmp_path, checkpoint_frequency=5, training_chunk_bytes=4096), "local") == CutRules(
        4096, 5
    )


def test_every_hyperparameter_is_a_setting() -> None:
    assert set(hyperparameters()) <= set(Settings.model_fields)
