"""The circuit breaker and the rate limiter under a clock of the test's own."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from babylon_rl.serving.breaker import CONSECUTIVE, FIRST_PAUSE, LONGEST_PAUSE, WINDOW_CALLS, Breaker
from babylon_rl.serving.callers import MOST_BUCKETS, RateLimiter
from babylon_rl.serving.errors import GatewayError


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def fail(breaker: Breaker, times: int) -> None:
    for _ in range(times):
        assert breaker.allow()
        breaker.fail()


def test_failures_in_a_row_open_it_and_a_probe_closes_it(clock: Clock) -> None:
    breaker = Breaker(clock)
    fail(breaker, CONSECUTIVE - 1)
    assert breaker.state == "closed"
    fail(breaker, 1)
    assert breaker.state == "open" and not breaker.allow() and breaker.wait == FIRST_PAUSE
    clock.now += FIRST_PAUSE
    assert breaker.state == "half_open" and breaker.allow() and not breaker.allow(), "one probe at a time"
    breaker.succeed()
    assert breaker.state == "closed" and breaker.allow() and breaker.wait == 0


def test_a_success_in_between_keeps_it_closed_unless_half_fail(clock: Clock) -> None:
    breaker = Breaker(clock)
    for _ in range(WINDOW_CALLS // 2 - 1):
        fail(breaker, 1)
        breaker.succeed()
    assert breaker.state == "closed"
    fail(breaker, 2)
    assert breaker.state == "open"


def test_old_failures_are_forgotten(clock: Clock) -> None:
    breaker = Breaker(clock)
    for _ in range(100):
        fail(breaker, 1)
        breaker.succeed()
        breaker.succeed()
        clock.now += 3.0
    assert breaker.state == "closed"


def test_failed_probes_double_the_pause(clock: Clock) -> None:
    breaker = Breaker(clock)
    fail(breaker, CONSECUTIVE)
    pauses = []
    for _ in range(8):
        clock.now += breaker.wait
        fail(breaker, 1)
        pauses.append(breaker.wait)
    assert pauses[:3] == [4.0, 8.0, 16.0] and pauses[-1] == LONGEST_PAUSE


def test_calls_from_before_it_opened_change_nothing(clock: Clock) -> None:
    breaker = Breaker(clock)
    fail(breaker, CONSECUTIVE)
    breaker.succeed()
    breaker.fail()
    assert breaker.state == "open" and breaker.wait == FIRST_PAUSE


def test_a_cancelled_probe_makes_room_for_another(clock: Clock) -> None:
    breaker = Breaker(clock)
    fail(breaker, CONSECUTIVE)
    clock.now += FIRST_PAUSE
    assert breaker.allow()
    breaker.cancel()
    assert breaker.allow()


@given(st.lists(st.sampled_from(["ask", "succeed", "fail", "cancel", "wait"]), max_size=200))
@settings(deadline=None)
def test_whatever_happens_it_lets_calls_through_again(events: list[str]) -> None:
    clock = Clock()
    breaker, running = Breaker(clock), 0
    for name in events:
        if name == "ask":
            running += breaker.allow()
        elif name == "wait":
            clock.now += 1.0
        elif running:
            running -= 1
            getattr(breaker, name)()
        assert (breaker.state == "closed") == (breaker.wait == 0.0 and breaker.state != "half_open")
    for _ in range(running):
        breaker.cancel()
    clock.now += LONGEST_PAUSE
    assert breaker.allow()


def test_a_bucket_refills(clock: Clock) -> None:
    limiter = RateLimiter(60.0, clock)
    for _ in range(10):
        limiter.take("a")
    with pytest.raises(GatewayError) as refused:
        limiter.take("a")
    assert refused.value.status == 429 and refused.value.retry_after == 1
    clock.now += 1.0
    limiter.take("a")
    with pytest.raises(GatewayError):
        limiter.take("a")


def test_buckets_do_not_pile_up(clock: Clock) -> None:
    limiter = RateLimiter(60.0, clock)
    for number in range(3 * MOST_BUCKETS):
        limiter.take(f"agent-{number}")
        clock.now += 0.001
    assert len(limiter._buckets) <= MOST_BUCKETS + 1
    slow = RateLimiter(0.001, clock)
    for number in range(2 * MOST_BUCKETS):
        slow.take(f"agent-{number}")
    assert len(slow._buckets) <= MOST_BUCKETS + 1


def test_no_limit(clock: Clock) -> None:
    limiter = RateLimiter(0.0, clock)
    for _ in range(10_000):
        limiter.take("a")
