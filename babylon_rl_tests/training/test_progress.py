"""Progress: tokens per second, time left, a line now and then; and batches cut the same way each time."""

import logging

import pytest

from babylon_rl.policy.engine import EmbeddedEngine
from babylon_rl.training.chunks import cut, submitted_bytes
from babylon_rl.training.conversion import TrainableEpisode, to_art_groups
from babylon_rl.training.errors import EmptyBatchError
from babylon_rl.training.options import CutRules
from babylon_rl.training.progress import Pace, ProgressMeter, watching
from babylon_rl_tests.played import play_day, trainable


@pytest.fixture(scope="module")
def episodes(base_engine: EmbeddedEngine) -> list[TrainableEpisode]:
    return trainable(play_day(base_engine, windows=4, agents=4, seed=2))


def test_pace_and_time_left(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    now, told, passed = [0.0], [], []
    meter = ProgressMeter("2026-10-01", lambda *step: passed.append(step), clock=lambda: now[0])
    with watching(lambda name, pace: told.append((name, pace))):
        for done in (1, 2, 3):
            now[0] = 4.0 * done
            meter(done, 8, {"loss/train": -0.25, "data/step_trainer_tokens": 100.0})
    assert told[-1] == ("2026-10-01", Pace(3, 8, 25.0, 20.0, -0.25))
    assert str(told[-1][1]) == "step 3 of 8, loss -0.2500, 25 tokens/s, 20 s left"
    assert [step[:2] for step in passed] == [(1, 8), (2, 8), (3, 8)]
    assert caplog.text.count("2026-10-01: step") == 1, "one line in ten seconds"
    meter(4, 8, {})
    assert len(told) == 3, "nobody watches any more"


def test_the_next_chunk_starts_anew() -> None:
    now = [0.0]
    meter = ProgressMeter("x", clock=lambda: now[0])
    now[0] = 10.0
    meter(2, 2, {"data/step_trainer_tokens": 10.0})
    now[0] = 100.0
    meter(1, 2, {"data/step_trainer_tokens": 10.0})
    now[0] = 101.0
    meter(2, 2, {"data/step_trainer_tokens": 10.0})
    assert meter.last is not None and meter.last.seconds_left == 0
    assert meter.last.tokens_per_second == pytest.approx(20.0, rel=0.6)


def test_chunks_keep_windows_whole_and_in_order(episodes: list[TrainableEpisode]) -> None:
    [whole] = cut(episodes, CutRules())
    assert (whole.groups, whole.trajectories) == (4, 16) and whole.tokens > 0
    parts = cut(episodes, CutRules(windows=3))
    assert [part.groups for part in parts] == [3, 1] and [part.of for part in parts] == [2, 2]
    assert [e for part in parts for e in part.episodes] == episodes
    assert [part.sha256 for part in parts] == [part.sha256 for part in cut(episodes, CutRules(windows=3))]
    assert len({part.sha256 for part in parts}) == 2


def test_chunks_fit_their_limit(episodes: list[TrainableEpisode]) -> None:
    import json

    sizes = [sum(map(submitted_bytes, episodes[i : i + 4])) for i in range(0, 16, 4)]
    parts = cut(episodes, CutRules(max_bytes=max(sizes) * 2))
    assert [part.groups for part in parts] == [2, 2]
    for part in parts:
        groups = [group.model_dump(mode="json") for group in to_art_groups(part.episodes)]
        sent = len(json.dumps(groups, separators=(",", ":")))
        assert 0.8 * sum(map(submitted_bytes, part.episodes)) < sent <= max(sizes) * 2


def test_a_window_that_is_too_large_is_split_into_groups(
    episodes: list[TrainableEpisode], caplog: pytest.LogCaptureFixture
) -> None:
    one = episodes[:4]
    parts = cut(one, CutRules(max_bytes=1024))
    assert [part.trajectories for part in parts] == [2, 2], "a group needs two members"
    assert {part.episodes[0].window_id for part in parts} == {one[0].window_id}
    assert "is larger than a chunk: split into 2" in caplog.text


def test_an_empty_batch_is_an_error() -> None:
    with pytest.raises(EmptyBatchError, match="holds no episode"):
        cut([], CutRules())
