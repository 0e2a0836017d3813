"""Judged windows on a Ray cluster: the same groups, nothing asked twice, also when a node is killed."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from babylon_rl.database.connection import open_databases
from babylon_rl.orchestration.scoring_steps import score_windows
from babylon_rl.settings import Settings, get_settings
from babylon_rl.windows import windows_of_day
from babylon_rl_tests.judge_reading import strict
from babylon_rl_tests.judge_server import KEY, JudgeServer, judge_server
from babylon_rl_tests.kept_windows import AGENTS, keep_window
from babylon_rl_tests.skipping import require_module
from benchmarks.parts.ray_nodes import RayNodes, ray_nodes

pytestmark = [pytest.mark.long, pytest.mark.anyio]

WINDOWS = windows_of_day("2026-10-02")[3:15]


@pytest.fixture(scope="module")
def nodes() -> Iterator[RayNodes]:
    require_module("ray")
    # No address of a database and no key: a worker needs neither.
    with ray_nodes(env={"DATABASE_URL": "", "JUDGE_API_KEY": ""}) as started:
        yield started


@pytest.fixture
def judge() -> Iterator[JudgeServer]:
    with judge_server() as running:
        yield running


@pytest.fixture
def judged(settings: Settings, judge: JudgeServer, monkeypatch: pytest.MonkeyPatch) -> Settings:
    for name, value in {
        "SCORER": "ruler_with_heuristic_check",
        "JUDGE_BASE_URL": judge.url,
        "JUDGE_MODEL": "openai/test-judge",
        "JUDGE_API_KEY": KEY,
        "JUDGE_ORDERS": "2",
        "JUDGE_CONCURRENCY": "3",
        "JUDGE_INPUT_PRICE": "0.15",
        "JUDGE_OUTPUT_PRICE": "0.6",
    }.items():
        monkeypatch.setenv(name, value)
    get_settings.cache_clear()
    return get_settings()


async def scored(settings: Settings, root: Path) -> dict[str, tuple[str, str]]:
    """Scores all windows; status and hash of each group's file."""
    from babylon_rl.records.store import ArtifactStore

    store = ArtifactStore(root)
    async with open_databases(settings) as db:
        return {
            done.scored.group.window_id: (done.scored.group.status, done.file.sha256)
            async for done in score_windows(db, store, WINDOWS, settings, lambda: open_databases(settings))
        }


async def test_groups_are_the_same_and_nothing_is_asked_twice(
    nodes: RayNodes, judged: Settings, judge: JudgeServer, connection: asyncpg.Connection, tmp_path: Path
) -> None:
    for number, window_id in enumerate(WINDOWS):
        await keep_window(connection, tmp_path, window_id, [f"{agent}-{number}" for agent in AGENTS])
    here = await scored(judged, tmp_path)
    assert {status for status, _ in here.values()} == {"scored"} and list(here) == WINDOWS
    asked = judge.calls
    await connection.execute("DELETE FROM rl.judge_cache")

    cluster = judged.model_copy(update={"ray_address": nodes.address})
    assert await scored(cluster, tmp_path) == here
    assert judge.calls == 2 * asked and judge.most_at_once <= 3
    assert await scored(cluster, tmp_path) == here
    assert judge.calls == 2 * asked  # from the cache

    await connection.execute("DELETE FROM rl.judge_cache")
    extra = nodes.add()
    judge.delay, before = 0.3, len(judge.seen)
    running = asyncio.ensure_future(scored(cluster, tmp_path))
    while judge.calls < 2 * asked + 5:  # noqa: ASYNC110 - the server is another thread
        await asyncio.sleep(0.05)
    await asyncio.to_thread(nodes.kill, extra)
    assert await running == here
    assert judge.calls == 3 * asked
    contents = Counter(str(sorted(strict(seen.messages).values())) for seen in judge.seen[before:])
    assert max(contents.values()) <= 2  # one request per order
    unsettled = await connection.fetchval("SELECT count(*) FROM rl.judge_calls WHERE status IS NULL")
    assert unsettled == 0
