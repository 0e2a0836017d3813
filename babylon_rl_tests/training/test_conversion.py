"""Recorded tokens through ART's own tokenisation and packing: the same ids, the same log-probabilities."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from babylon_rl.policy.chat import ChatRequest
from babylon_rl.policy.engine import EmbeddedEngine
from babylon_rl.training.conversion import TrainableCall, TrainableEpisode, to_art_groups
from babylon_rl.training.embedded import _pack
from babylon_rl_tests.played import play_day, trainable


@pytest.fixture(scope="module")
def episodes(base_engine: EmbeddedEngine) -> list[TrainableEpisode]:
    return trainable(play_day(base_engine, windows=3, agents=4, seed=5))


def calls_of(episodes: Sequence[TrainableEpisode]) -> list[TrainableCall]:
    return [call for episode in episodes for call in episode.calls]


def prompt_of(engine: EmbeddedEngine, call: TrainableCall) -> list[int]:
    return engine.encode(ChatRequest(call.messages))


def test_groups_are_the_windows(episodes: list[TrainableEpisode]) -> None:
    groups = to_art_groups(episodes)
    assert [len(group.trajectories) for group in groups] == [4, 4, 4]
    assert [group.metadata["window_id"] for group in groups] == list(
        dict.fromkeys(e.window_id for e in episodes)
    )
    trajectories = [trajectory for group in groups for trajectory in group.trajectories]
    for trajectory, episode in zip(trajectories, episodes, strict=True):
        assert trajectory.reward == episode.advantage
        assert 1 + len(trajectory.additional_histories) == len(episode.calls)


def test_tokens_and_logprobs_come_back_identical(
    base_engine: EmbeddedEngine, episodes: list[TrainableEpisode]
) -> None:
    from art.preprocessing.tokenize import tokenize_trajectory_groups

    options = {"allow_training_without_logprobs": False, "scale_rewards": False}
    results = list(
        tokenize_trajectory_groups(
            base_engine.tokenizer,
            to_art_groups(episodes),
            shuffle_group_trajectories=False,
            **options,  # type: ignore[arg-type]
        )
    )
    calls = calls_of(episodes)
    assert len(results) == len(calls) == 48
    for result, call in zip(results, calls, strict=True):
        prompt = prompt_of(base_engine, call)
        assert result.token_ids == prompt + list(call.token_ids)
        assert result.assistant_mask == [0] * len(prompt) + [1] * len(call.token_ids)
        assert all(math.isnan(value) for value in result.logprobs[: len(prompt)])
        assert result.logprobs[len(prompt) :] == list(call.logprobs)


def test_packed_rows_hold_one_call_each_and_mask_exactly_the_sampled_tokens(
    base_engine: EmbeddedEngine, episodes: list[TrainableEpisode]
) -> None:
    packed = _pack(base_engine.tokenizer, to_art_groups(episodes))
    rows: Counter[Any] = Counter()
    for tokens, mask, logprobs, advantages in zip(
        *(packed[name] for name in ("tokens", "assistant_mask", "logprobs", "advantages")), strict=True
    ):
        start, sampled = int(mask.int().argmax()), int(mask.sum())
        assert mask[start : start + sampled].all(), "the sampled tokens are one run"
        assert (tokens[start + sampled :] == base_engine.tokenizer.pad_token_id).all()
        prompt, answer = tuple(tokens[:start].tolist()), tuple(tokens[mask].tolist())
        rows[prompt, answer, tuple(logprobs[mask].tolist()), float(advantages[mask][0]) > 0] += 1
    assert rows == Counter(
        (
            tuple(prompt_of(base_engine, call)),
            tuple(call.token_ids),
            tuple(call.logprobs),
            episode.advantage > 0,
        )
        for episode in episodes
        for call in episode.calls
    )


def test_advantages_are_those_of_the_whole_group(base_engine: EmbeddedEngine) -> None:
    """Members that are not trained count in the baseline: what is trained need not add up to zero."""
    [group] = play_day(base_engine, windows=1, agents=4, seed=9)
    episodes = [
        TrainableEpisode(e.window_id, e.agent_id, advantage, e.calls[:1])
        for e, advantage in zip(trainable([group]), (0.5, 0.5, 2.0, 0.0), strict=True)
    ]
    packed = _pack(base_engine.tokenizer, to_art_groups(episodes))
    mask = packed["assistant_mask"]
    per_row = [float(a[m][0]) for a, m in zip(packed["advantages"], mask, strict=True)]
    assert len(per_row) == 3, "a member without advantage has nothing to teach"
    assert sorted(per_row) == pytest.approx([0.5, 0.5, 2.0], rel=1e-5), (
        "ART scales them to a mean size of one"
    )
    alone = _pack(base_engine.tokenizer, to_art_groups(episodes[:1]))
    assert float(alone["advantages"].max()) == pytest.approx(1.0)


def test_every_episode_weighs_the_same_however_much_it_said(
    base_engine: EmbeddedEngine, episodes: list[TrainableEpisode]
) -> None:
    first, second, *_ = episodes
    brief = TrainableEpisode(second.window_id, second.agent_id, -first.advantage, second.calls[:1])
    packed = _pack(base_engine.tokenizer, to_art_groups([first, brief]))
    totals = {1.0: 0.0, -1.0: 0.0}
    for weights, advantages, mask in zip(
        packed["weights"], packed["advantages"], packed["assistant_mask"], strict=True
    ):
        totals[math.copysign(1, float(advantages[mask][0]))] += float(weights[mask].sum())
    assert totals[1.0] == pytest.approx(totals[-1.0], rel=1e-4)


def test_calls_of_decisions_with_different_advantages_are_trajectories_apart(
    episodes: list[TrainableEpisode],
) -> None:
    first = episodes[0]
    paid = [
        replace(call, advantage=value) for call, value in zip(first.calls, (0.5, -0.1, 0.5), strict=False)
    ]
    rest = list(first.calls[len(paid) :])
    (group,) = to_art_groups([replace(first, calls=[*paid, *rest])])
    found = {t.reward: 1 + len(t.additional_histories) for t in group.trajectories}
    assert found == Counter({0.5: 2, -0.1: 1}) + Counter({first.advantage: len(rest)})
    assert {t.metadata["agent_id"] for t in group.trajectories} == {first.agent_id}
