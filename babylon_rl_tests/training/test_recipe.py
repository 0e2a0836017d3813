"""What the embedded recipe can be told: each option against what it must do, and the default unchanged."""

import itertools
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from babylon_rl.policy.checkpoints import load_checkpoint, read_manifest
from babylon_rl.policy.engine import EmbeddedEngine
from babylon_rl.policy.errors import CheckpointError
from babylon_rl.training.conversion import TrainableEpisode, to_art_groups
from babylon_rl.training.embedded import EmbeddedBackend, EmbeddedTrainConfig, optimise
from babylon_rl.training.errors import (
    EmptyBatchError,
    TrainingDivergedError,
    UnknownTrainingArgumentError,
)
from babylon_rl.training.optimizer_state import FILE, OptimizerState
from babylon_rl.training.options import CutRules
from babylon_rl.training.unit_recipe import Recipe
from babylon_rl_tests.played import play_day, trainable

ONE_STEP = EmbeddedTrainConfig(epochs=1, minibatches=1)


@pytest.fixture(scope="module")
def episodes(base_engine: EmbeddedEngine) -> list[TrainableEpisode]:
    return trainable(play_day(base_engine, windows=3, agents=4, seed=2))


def trained(
    start: Path, episodes: list[TrainableEpisode], config: EmbeddedTrainConfig, **options: Any
) -> tuple[Any, list[dict[str, float]]]:
    """All weights in one vector, and the metrics of each step."""
    import torch

    model, tokenizer = load_checkpoint(start)
    metrics = optimise(model, tokenizer, to_art_groups(episodes), config, **options)
    return torch.cat([value.detach().flatten() for value in model.parameters()]), metrics


def test_the_default_is_ppo_as_the_learning_benchmark_knows_it() -> None:
    config = EmbeddedTrainConfig()
    assert (config.learning_rate, config.epochs, config.minibatches, config.epsilon) == (2e-3, 4, 4, 0.2)
    assert config.smallest_step == 0.25
    assert (config.method, config.optimizer_state, config.precision) == ("full", "fresh", "float32")
    assert (config.batch_size, config.gradient_accumulation_steps) == (None, 1)
    assert (config.kl_penalty, config.warmup_steps) == (0.0, 0)
    assert (config.importance_sampling, config.negative_spare) == ("sequence", 0.98)


def test_a_unit_from_before_tokens_were_spared_is_reproduced_without() -> None:
    identity = Recipe("embedded", EmbeddedTrainConfig(seed=7), CutRules()).identity()
    assert Recipe.recorded(identity).config == EmbeddedTrainConfig(seed=7)
    del identity["negative_spare"]
    assert Recipe.recorded(identity).config == EmbeddedTrainConfig(seed=7, negative_spare=None)


@pytest.mark.parametrize(
    "config",
    [
        replace(ONE_STEP, gradient_accumulation_steps=4),
        replace(ONE_STEP, batch_size=10, gradient_accumulation_steps=100),
    ],
)
def test_accumulated_gradients_are_those_of_one_large_batch(
    base_checkpoint: Path, episodes: list[TrainableEpisode], config: EmbeddedTrainConfig
) -> None:
    import torch

    weights, [metrics] = trained(base_checkpoint, episodes, config)
    expected, [whole] = trained(base_checkpoint, episodes, ONE_STEP)
    assert metrics["data/step_trainer_tokens"] == whole["data/step_trainer_tokens"]
    assert metrics["loss/train"] == pytest.approx(whole["loss/train"], abs=1e-5)
    assert metrics["loss/grad_norm"] == pytest.approx(whole["loss/grad_norm"], rel=1e-4)
    # Adam's first step only keeps signs, so equal gradients up to rounding may flip a weight near zero.
    assert torch.isclose(weights, expected, atol=2e-5).float().mean() > 0.99


def test_a_batch_size_says_how_many_sequences_a_step_takes(
    base_checkpoint: Path, episodes: list[TrainableEpisode]
) -> None:
    rows = sum(len(episode.calls) for episode in episodes)
    config = EmbeddedTrainConfig(epochs=2, batch_size=5, gradient_accumulation_steps=2)
    _, metrics = trained(base_checkpoint, episodes, config)
    assert len(metrics) == 2 * -(-rows // 10)


def test_the_learning_rate_warms_up(base_checkpoint: Path, episodes: list[TrainableEpisode]) -> None:
    config = EmbeddedTrainConfig(epochs=2, minibatches=3, warmup_steps=4, learning_rate=0.004)
    _, metrics = trained(base_checkpoint, episodes, config)
    rates = [step["loss/learning_rate"] for step in metrics]
    assert rates == pytest.approx([0.001, 0.002, 0.003, 0.004, 0.004, 0.004])


def test_the_norm_of_the_gradient_is_clipped(base_checkpoint: Path, episodes: list[TrainableEpisode]) -> None:
    """Adam forgets the scale of one step, not that of a step between others."""
    free, _ = trained(base_checkpoint, episodes, EmbeddedTrainConfig(epochs=1, max_grad_norm=1e9))
    clipped, metrics = trained(base_checkpoint, episodes, EmbeddedTrainConfig(epochs=1, max_grad_norm=1e-3))
    assert metrics[0]["loss/grad_norm"] > 1e-3, "reported before clipping"
    assert bool((free != clipped).any())


def divergence(start: Path, weights: Any, episodes: list[TrainableEpisode]) -> float:
    """Mean log-ratio of the recorded tokens between weights and the checkpoint that they came from."""
    import torch

    model, tokenizer = load_checkpoint(start)
    torch.nn.utils.vector_to_parameters(weights, model.parameters())
    still = replace(ONE_STEP, learning_rate=0.0, kl_penalty=1e-9)
    reference, _ = load_checkpoint(start)
    [metrics] = optimise(model, tokenizer, to_art_groups(episodes), still, reference=reference)
    return abs(metrics["loss/kl_policy_ref"])


def test_the_kl_penalty_keeps_the_policy_near_its_parent(
    base_checkpoint: Path, episodes: list[TrainableEpisode]
) -> None:
    """On average: how far one training goes depends on the order of its rows too."""
    moved = {0.0: 0.0, 5.0: 0.0}
    for penalty, seed in itertools.product(moved, range(3)):
        config = EmbeddedTrainConfig(kl_penalty=penalty, seed=seed)
        weights, metrics = trained(base_checkpoint, episodes, config)
        moved[penalty] += divergence(base_checkpoint, weights, episodes)
        assert ("loss/kl_policy_ref" in metrics[0]) is (penalty > 0)
        assert metrics[0].get("loss/kl_policy_ref", 0.0) == pytest.approx(0.0, abs=1e-5)
    assert moved[5.0] < moved[0.0]


def test_kept_moments_make_two_trainings_one(base_checkpoint: Path, episodes: list[TrainableEpisode]) -> None:
    import torch

    groups = to_art_groups(episodes)
    model, tokenizer = load_checkpoint(base_checkpoint)
    state = OptimizerState()
    first = optimise(model, tokenizer, groups, ONE_STEP, state=state)
    assert {name.rpartition("/")[2] for name in state.tensors} == {"step", "exp_avg", "exp_avg_sq"}
    kept, fresh = (torch.cat([p.detach().clone().flatten() for p in model.parameters()]) for _ in range(2))
    optimise(model, tokenizer, groups, ONE_STEP, state=state)
    kept = torch.cat([p.detach().flatten() for p in model.parameters()]) - kept
    assert next(iter(state.tensors[name] for name in state.tensors if name.endswith("/step"))) == 2
    again, tokenizer = load_checkpoint(base_checkpoint)
    optimise(again, tokenizer, groups, ONE_STEP)
    optimise(again, tokenizer, groups, ONE_STEP)
    fresh = torch.cat([p.detach().flatten() for p in again.parameters()]) - fresh
    assert not torch.equal(kept, fresh) and first


@pytest.fixture
def network() -> Any:
    from babylon_rl.training.art_import import import_art

    return import_art().TrainableModel(
        name="agent", project="tests", base_model="babylon-tiny", report_metrics=[]
    )


@pytest.mark.anyio
async def test_moments_travel_with_the_checkpoint(
    base_checkpoint: Path, episodes: list[TrainableEpisode], network: Any, tmp_path: Path
) -> None:
    config = EmbeddedTrainConfig(epochs=1, optimizer_state="continue")
    groups = to_art_groups(episodes)
    backend = EmbeddedBackend(tmp_path / "art", base_checkpoint, step=0)
    await backend.train(network, groups, output=tmp_path / "one", config=config)
    await backend.train(network, groups, output=tmp_path / "two", config=config)
    assert FILE in read_manifest(tmp_path / "two")["files"]
    steps = OptimizerState.load(tmp_path / "two").tensors
    assert {int(value) for name, value in steps.items() if name.endswith("/step")} == {8}
    load_checkpoint(tmp_path / "two")
    lora = EmbeddedBackend(tmp_path / "art", tmp_path / "two", step=2)
    with pytest.raises(CheckpointError, match="moments of other parameters"):
        await lora.train(network, groups, output=tmp_path / "three", config=replace(config, method="lora"))


def test_bfloat16_computes_nearly_the_same(base_checkpoint: Path, episodes: list[TrainableEpisode]) -> None:
    weights, metrics = trained(base_checkpoint, episodes, replace(ONE_STEP, precision="bfloat16"))
    expected, exact = trained(base_checkpoint, episodes, ONE_STEP)
    assert metrics[0]["loss/train"] == pytest.approx(exact[0]["loss/train"], abs=0.05)
    assert str(weights.dtype) == "torch.float32" and bool((weights != expected).any())


def test_a_training_that_diverges_says_so(base_checkpoint: Path, episodes: list[TrainableEpisode]) -> None:
    with pytest.raises(TrainingDivergedError, match=r"Lower LEARNING_RATE \(it was 1e\+30\)"):
        trained(base_checkpoint, episodes, EmbeddedTrainConfig(learning_rate=1e30))


@pytest.mark.anyio
async def test_it_is_an_art_backend(
    base_checkpoint: Path, episodes: list[TrainableEpisode], network: Any, tmp_path: Path
) -> None:
    """Registered, trained, logged, fine-tuned and pruned through ART's own model, in ART's own layout."""
    import art

    backend = EmbeddedBackend(tmp_path / "art", base_checkpoint, step=0)
    try:
        await network.register(backend)
        groups = to_art_groups(episodes)
        result = await backend.train(network, groups, learning_rate=1e-3, epochs=1)
        await network.log(groups, split="train", metrics=result.metrics, step=result.step)
        shown: Any = [{"role": "user", "content": "AURUM crash"}, {"role": "assistant", "content": "HOLD"}]
        conversation = art.Trajectory(messages_and_choices=shown, reward=0.0)
        config = art.TrainSFTConfig(learning_rate=5e-3, batch_size=8)
        await network.train_sft([conversation] * 400, config)
        assert await network.get_step() == 2
        answer = await network.openai_client().chat.completions.create(
            model=network.get_inference_name(),
            messages=[{"role": "user", "content": "AURUM crash"}],
            temperature=0,
        )
        assert answer.choices[0].message.content == "HOLD" and answer.model == "step2"
        folder = tmp_path / "art" / "tests" / "models" / "agent" / "checkpoints"
        assert sorted(os.listdir(folder)) == ["0001", "0002"]
        await backend._delete_checkpoint_files(network, [2])
        assert sorted(os.listdir(folder)) == ["0002"]
    finally:
        await backend.close()


@pytest.mark.anyio
async def test_an_unknown_argument_is_refused_by_name(
    base_checkpoint: Path, episodes: list[TrainableEpisode], network: Any, tmp_path: Path
) -> None:
    backend = EmbeddedBackend(tmp_path, base_checkpoint, step=0)
    with pytest.raises(UnknownTrainingArgumentError, match="'learning_rat'. Did you mean learning_rate"):
        await backend.train(network, to_art_groups(episodes), learning_rat=1e-3)
    with pytest.raises(EmptyBatchError, match="assistant's turn"):
        import art

        async for _ in backend._train_sft(network, [], art.TrainSFTConfig(), {}):
            pass
    assert not os.listdir(tmp_path)
