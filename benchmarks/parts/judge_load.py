"""Many windows: how close to the judge's own delay, how much memory, and what a repetition costs."""

import contextlib
import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import psutil

from babylon_rl.scoring.groups import SCORED
from babylon_rl.scoring.pipeline import in_order
from babylon_rl.scoring.window_scorer import WindowToScore
from parts.judge_setup import judge_settings, opened
from parts.judged_windows import windows
from parts.repository import ROOT

CONCURRENCY = 16
IN_FLIGHT = CONCURRENCY + 8
"""Windows in memory at a time."""


@dataclass
class Load:
    """A number of days of 24 groups each."""

    seconds: float
    cpu_seconds: float
    """Of this process."""
    calls: int
    peaks_mib: list[float]
    """The highest resident memory of this process during each day."""


@contextlib.contextmanager
def judge_process(delay: float) -> Iterator[str]:
    """The judge server in a process of its own; yields its address."""
    command = [sys.executable, "-m", "babylon_rl_tests.judge_server", "--delay", str(delay)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


def calls_of(url: str) -> int:
    """How many requests the server got."""
    with urllib.request.urlopen(url.removesuffix("/v1") + "/stats") as answer:
        return json.load(answer)["calls"]


async def score_days(dsn: str, url: str, *, seed: int, days: int = 1, agents: int = 8) -> Load:
    """Scores days of windows; a single day is made before the clock starts, several are made as needed."""
    settings = judge_settings(url, judge_concurrency=CONCURRENCY)
    process, peaks = psutil.Process(), [0.0] * days

    async def made() -> AsyncIterator[tuple[int, WindowToScore]]:
        for day in range(days):
            for window in windows(seed + day, f"2026-10-{day + 1:02}", agents=agents, steps=10):
                yield day, window

    async with opened(dsn, settings) as scorer:
        # The client's import and first connection are not the scorer's work.
        await scorer.score(next(windows(seed + 1_000_000, "2026-11-01", agents=agents, steps=10)))
        prepared = [entry async for entry in made()] if days == 1 else None
        calls, started, cpu = calls_of(url), time.perf_counter(), time.process_time()
        source = made() if prepared is None else _each(prepared)
        async for (day, _), scored in in_order(source, lambda entry: scorer.score(entry[1]), IN_FLIGHT):
            assert scored.group.status == SCORED, scored.group.reason
            peaks[day] = max(peaks[day], process.memory_info().rss / 2**20)
        seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    return Load(seconds, cpu, calls_of(url) - calls, peaks)


async def _each(prepared: list[tuple[int, WindowToScore]]) -> AsyncIterator[tuple[int, WindowToScore]]:
    for entry in prepared:
        yield entry
