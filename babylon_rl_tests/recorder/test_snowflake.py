"""Snowflake ids: layout, order, clocks."""

import threading
from datetime import UTC, datetime

import pytest

from babylon_rl.recorder.snowflake import EPOCH_MS, Snowflakes, moment_of


def test_the_layout_is_the_game_s() -> None:
    moment = datetime(2025, 11, 16, 14, 0, 3, 907000, tzinfo=UTC)
    ids = Snowflakes(worker_id=5, clock_ms=lambda: int(moment.timestamp() * 1000))
    first, second = int(ids()), int(ids())
    assert moment_of(str(first)) == moment
    assert (first >> 12) & 1023 == 5
    assert second == first + 1
    assert moment_of("248447074197045248").date().isoformat() == "2025-11-16"  # an id that the game made


def test_ids_rise_when_the_clock_goes_back_or_a_millisecond_is_full() -> None:
    times = iter([EPOCH_MS + 1000, EPOCH_MS + 10] + [EPOCH_MS + 1000] * 10_000)
    ids = Snowflakes(clock_ms=lambda: next(times))
    made = [int(ids()) for _ in range(10_000)]
    assert made == sorted(set(made))


def test_threads_never_share_an_id() -> None:
    ids = Snowflakes()
    made: list[str] = []
    threads = [threading.Thread(target=lambda: made.extend(ids() for _ in range(5000))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(made)) == 20_000


@pytest.mark.parametrize("worker", [-1, 1024])
def test_a_worker_number_that_does_not_fit_is_refused(worker: int) -> None:
    with pytest.raises(ValueError, match="worker_id"):
        Snowflakes(worker)
