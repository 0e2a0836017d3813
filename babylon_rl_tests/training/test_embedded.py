"""The embedded backend: ART's loss against one written by hand, the same bytes twice, and that it learns."""

import os
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from babylon_rl.policy.chat import ChatRequest
from babylon_rl.policy.checkpoints import load_checkpoint, read_manifest
from babylon_rl.policy.engine import EmbeddedEngine
from babylon_rl.policy.errors import CheckpointError
from babylon_rl.simulation.market import MarketSpec
from babylon_rl.simulation.trader import Order, parse_decision
from babylon_rl.training.conversion import TrainableCall, TrainableEpisode, to_art_groups
from babylon_rl.training.embedded import EmbeddedBackend, EmbeddedTrainConfig, optimise
from babylon_rl.training.errors import EmptyBatchError
from babylon_rl.training.tiny_base import demonstration
from babylon_rl_tests.played import play_day, trainable

STILL = EmbeddedTrainConfig(learning_rate=0.0, epochs=1, minibatches=1, max_grad_norm=1e9)
"""Computes the loss and its gradient, and leaves the weights as they are."""


@pytest.fixture(scope="module")
def episodes(base_engine: EmbeddedEngine) -> list[TrainableEpisode]:
    return trainable(play_day(base_engine, windows=3, agents=4, seed=2))


def off_policy(episodes: Sequence[TrainableEpisode], spread: float) -> list[TrainableEpisode]:
    """The same episodes as if another policy had played them, so that ratios leave the clipping range."""
    rng = random.Random(0)
    return [
        replace(
            episode,
            calls=[
                replace(call, logprobs=[min(-1e-3, p + rng.gauss(0, spread)) for p in call.logprobs])
                for call in episode.calls
            ],
        )
        for episode in episodes
    ]


def ppo_loss(
    engine: EmbeddedEngine, episodes: Sequence[TrainableEpisode], config: EmbeddedTrainConfig
) -> Any:
    """PPO's clipped objective (Schulman et al. 2017, equation 7), call by call and without any batching.

    Every episode has the same weight, shared by its tokens; advantages are scaled to a weighted mean size of
    one; the result is the mean over all tokens, those that are spared by a negative advantage being zero.
    """
    import torch

    terms, weights, advantages = [], [], []
    for episode in episodes:
        spoken = sum(len(call.token_ids) for call in episode.calls)
        for call in episode.calls:
            prompt = engine.encode(ChatRequest(call.messages))
            logits = engine.model(input_ids=torch.tensor([prompt + list(call.token_ids)])).logits[0]
            predicted = torch.log_softmax(logits[len(prompt) - 1 : -1].double(), dim=-1)
            new = predicted.gather(1, torch.tensor(call.token_ids)[:, None])[:, 0]
            difference = new - torch.tensor(call.logprobs, dtype=torch.double)
            if config.importance_sampling == "sequence":
                difference = difference.mean().expand_as(difference)
            ratio = torch.exp(difference)
            clipped = ratio.clamp(1 - config.epsilon, 1 + config.epsilon)
            term = -torch.minimum(ratio * episode.advantage, clipped * episode.advantage)
            spared = (new.detach() > np.log(config.negative_spare or 1.0)) & (episode.advantage < 0)
            terms.append(term.masked_fill(spared, 0.0))
            weights += [1 / spoken] * len(call.token_ids)
            advantages += [abs(episode.advantage)] * len(call.token_ids)
    weight = torch.tensor(weights, dtype=torch.double)
    weight = weight / weight.mean()
    scale = (torch.tensor(advantages, dtype=torch.double) * weight).mean()
    return (torch.cat(terms) * weight).mean() / scale


@pytest.mark.parametrize(
    ("spread", "options"),
    [
        (0.0, {}),
        (0.4, {}),
        (0.4, {"epsilon": 0.05}),
        (0.4, {"epsilon": 0.05, "importance_sampling": "token"}),
        (0.4, {"negative_spare": 0.5}),
        (0.4, {"importance_sampling": "token", "negative_spare": 1.0}),
    ],
)
def test_loss_and_gradient_are_ppos(
    base_checkpoint: Path, episodes: list[TrainableEpisode], spread: float, options: dict[str, Any]
) -> None:
    import torch

    recorded = off_policy(episodes, spread) if spread else episodes
    model, tokenizer = load_checkpoint(base_checkpoint)
    config = replace(STILL, **options)
    [metrics] = optimise(model, tokenizer, to_art_groups(recorded), config)

    reference = EmbeddedEngine.load(base_checkpoint, "reference")
    loss = ppo_loss(reference, recorded, config)
    loss.backward()
    assert metrics["loss/train"] == pytest.approx(loss.item(), abs=1e-5)
    names = dict(reference.model.named_parameters())
    ours, theirs = (
        torch.cat([parameter.grad.flatten() for _, parameter in sorted(found.items())])  # type: ignore[union-attr]
        for found in (dict(model.named_parameters()), names)
    )
    assert float(theirs.norm()) > 1e-3, "a gradient worth comparing"
    assert float((ours - theirs).norm() / theirs.norm()) < 1e-4
    assert metrics["loss/grad_norm"] == pytest.approx(float(theirs.norm()), rel=1e-4)


def test_minibatches_cover_every_token_once_per_epoch(
    base_checkpoint: Path, episodes: list[TrainableEpisode]
) -> None:
    model, tokenizer = load_checkpoint(base_checkpoint)
    seen: list[tuple[int, int, float]] = []
    config = EmbeddedTrainConfig(epochs=2, minibatches=3)
    metrics = optimise(
        model,
        tokenizer,
        to_art_groups(episodes),
        config,
        lambda done, total, values: seen.append((done, total, values["loss/train"])),
    )
    tokens = sum(len(call.token_ids) for episode in episodes for call in episode.calls)
    assert sum(step["data/step_trainer_tokens"] for step in metrics) == 2 * tokens
    assert [done for done, *_ in seen] == [1, 2, 3, 4, 5, 6] and {total for _, total, _ in seen} == {6}
    assert all(np.isfinite(list(step.values())).all() for step in metrics)
    assert metrics[0]["loss/probs_corr"] > 0.999, "the first step is on-policy"
    assert metrics[0]["loss/train"] == pytest.approx(0.0, abs=0.3)


def test_progress_ends_at_its_total_when_rows_do_not_divide(
    base_checkpoint: Path, episodes: list[TrainableEpisode]
) -> None:
    model, tokenizer = load_checkpoint(base_checkpoint)
    five = [replace(episode, calls=episode.calls[:1]) for episode in episodes[:4]]
    five[0] = replace(five[0], calls=episodes[0].calls[:2])
    seen: list[tuple[int, int]] = []
    config = EmbeddedTrainConfig(epochs=1, minibatches=4)
    optimise(model, tokenizer, to_art_groups(five), config, lambda done, total, _: seen.append((done, total)))
    assert seen[-1][0] == seen[-1][1] == len(seen)


def test_equal_inputs_give_equal_bytes(base_checkpoint: Path, episodes: list[TrainableEpisode]) -> None:
    """Whatever the caller's own random state is, and without touching it."""
    import torch

    def train(seed: int, disturbance: int) -> bytes:
        random.seed(disturbance)
        torch.manual_seed(disturbance)
        state = random.getstate()
        model, tokenizer = load_checkpoint(base_checkpoint)
        optimise(model, tokenizer, to_art_groups(episodes), EmbeddedTrainConfig(seed=seed, epochs=2))
        assert random.getstate() == state
        assert not model.training
        return b"".join(tensor.numpy().tobytes() for tensor in model.state_dict().values())

    first = train(0, 1)
    assert train(0, 2) == first
    assert train(1, 1) != first


def is_on(side: str, answer: str) -> bool:
    order = parse_decision(answer, MarketSpec().tickers)
    return isinstance(order, Order) and order.side == side


def play_for(engine: EmbeddedEngine, side: str, windows: int, seed: int) -> list[TrainableEpisode]:
    """One-call episodes of which valid orders on one side are rewarded, whatever the news."""
    rng = random.Random(seed)
    found = []
    for number in range(windows):
        messages, _ = demonstration(rng, MarketSpec(), 0.0)
        answers = engine.sample([ChatRequest(messages, seed=1000 * seed + 8 * number + i) for i in range(8)])
        rewards = np.array([float(is_on(side, answer.content)) for answer in answers])
        advantages = (rewards - rewards.mean()) * 8 / 7
        for agent, (answer, advantage) in enumerate(zip(answers, advantages, strict=True)):
            call = TrainableCall(
                messages, answer.content, answer.token_ids, answer.logprobs, answer.finish_reason
            )
            found.append(TrainableEpisode(str(number), str(agent), float(advantage), [call]))
    return found


def share_on(engine: EmbeddedEngine, side: str) -> float:
    """Share of answers to fresh prompts that are valid orders on a side."""
    rng = random.Random(999)
    requests = [ChatRequest(demonstration(rng, MarketSpec(), 0.0)[0], seed=i) for i in range(500)]
    return sum(is_on(side, answer.content) for answer in engine.sample(requests)) / 500


@pytest.mark.parametrize("side", ["long", "short"])
def test_rewarded_answers_become_more_likely(base_checkpoint: Path, side: str) -> None:
    engine = EmbeddedEngine.load(base_checkpoint, "v0.0.0")
    before = share_on(engine, side)
    groups = to_art_groups(play_for(engine, side, windows=48, seed=1))
    optimise(engine.model, engine.tokenizer, groups, EmbeddedTrainConfig())
    assert 0.3 < before < 0.6 and share_on(engine, side) > before + 0.15


def test_without_spread_there_is_nothing_to_learn(
    base_checkpoint: Path, episodes: list[TrainableEpisode]
) -> None:
    model, tokenizer = load_checkpoint(base_checkpoint)
    flat = [replace(episode, advantage=0.0) for episode in episodes]
    with pytest.raises(EmptyBatchError, match="spread of rewards .* `babylon windows check`"):
        optimise(model, tokenizer, to_art_groups(flat), EmbeddedTrainConfig())
    with pytest.raises(EmptyBatchError):
        optimise(model, tokenizer, [], EmbeddedTrainConfig())


@pytest.fixture
def network() -> Any:
    from babylon_rl.training.art_import import import_art

    return import_art().TrainableModel(name="babylon-agent", project="tests", base_model="babylon-tiny")


@pytest.mark.anyio
async def test_the_backend_writes_a_checkpoint_and_serves_it(
    base_checkpoint: Path, episodes: list[TrainableEpisode], network: Any, tmp_path: Path
) -> None:
    backend = EmbeddedBackend(tmp_path / "art", base_checkpoint, step=4)
    try:
        await network.register(backend)
        client = network.openai_client()
        question: Any = dict(episodes[0].calls[0].messages[-1])
        before = await client.chat.completions.create(
            model=network.get_inference_name(), messages=[question], seed=1, logprobs=True
        )
        assert before.choices[0].logprobs and before.model == "step4"
        config = EmbeddedTrainConfig(epochs=1, learning_rate=1e-2)
        result = await backend.train(
            network,
            to_art_groups(episodes),
            output=tmp_path / "out",
            config=config,
            manifest={"parent": "v0.0.4"},
        )
        after = await client.chat.completions.create(model="m", messages=[question], seed=1)
        assert after.model == "step5"
        assert await backend._get_step(network) == result.step == 5
    finally:
        await backend.close()
    manifest = read_manifest(tmp_path / "out")
    assert manifest["parent"] == "v0.0.4" and manifest["step"] == 5
    assert manifest["train_config"]["learning_rate"] == 1e-2
    assert result.checkpoint_path == str(tmp_path / "out") and np.isfinite(result.metrics["loss/train"])
    assert EmbeddedEngine.load(tmp_path / "out", "v0.0.5").sample([ChatRequest([question])])
    assert not (tmp_path / "art").exists() or not os.listdir(tmp_path / "art")


@pytest.mark.anyio
async def test_a_failed_training_writes_nothing(
    base_checkpoint: Path, episodes: list[TrainableEpisode], network: Any, tmp_path: Path
) -> None:
    async def train(backend: EmbeddedBackend, given: Sequence[TrainableEpisode]) -> None:
        groups, config = to_art_groups(given), EmbeddedTrainConfig()
        await backend.train(network, groups, output=tmp_path / "out", config=config, manifest={})

    backend = EmbeddedBackend(tmp_path / "art", base_checkpoint, step=0)
    with pytest.raises(EmptyBatchError):
        await train(backend, [replace(episode, advantage=0.0) for episode in episodes])
    assert backend.checkpoint == base_checkpoint and backend.step == 0
    with pytest.raises(CheckpointError, match="there is no such directory"):
        await train(EmbeddedBackend(tmp_path / "art", tmp_path / "lost", step=0), episodes)
    assert not os.listdir(tmp_path)
