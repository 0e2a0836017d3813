"""A judging process that is killed: what it paid for is kept, what it had asked is on the bill."""

import asyncio
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from babylon_rl.database.connection import connect
from babylon_rl_tests.judge_server import KEY, JudgeServer

pytestmark = pytest.mark.long

PROGRAM = """
import asyncio
from contextlib import asynccontextmanager
from babylon_rl.database.connection import open_databases
from babylon_rl.scoring.pipeline import in_order
from babylon_rl.scoring.scorers import open_scorer
from babylon_rl.settings import get_settings
from babylon_rl.windows import windows_of_day
from babylon_rl_tests.scoring.judge.made import make_window

async def windows():
    for window_id in windows_of_day("2026-10-02"):
        yield make_window((40.0, -35.0, 5.0), window_id)

async def main():
    settings = get_settings()
    async with open_scorer(settings, lambda: open_databases(settings, role="babylon_judge")) as scorer:
        async for _, scored in in_order(windows(), scorer.score, 6):
            assert scored.group.status == "scored", scored.group.reason

asyncio.run(main())
"""
AT_ONCE = 4


def value(dsn: str, query: str) -> Any:
    async def read() -> Any:
        connection = await connect(dsn)
        try:
            return await connection.fetchval(query)
        finally:
            await connection.close()

    return asyncio.run(read())


def test_a_kill_loses_no_verdict_and_no_cent(judge: JudgeServer, dsn: str, tmp_path: Path):
    judge.delay = 0.3
    environment = {
        "PATH": "/usr/bin:/bin",
        "DATABASE_URL": dsn,
        "BABYLON_HOME": str(tmp_path / "home"),
        "SCORER": "ruler",
        "JUDGE_BASE_URL": judge.url,
        "JUDGE_MODEL": "openai/test-judge",
        "JUDGE_API_KEY": KEY,
        "JUDGE_INPUT_PRICE": "1",
        "JUDGE_CONCURRENCY": str(AT_ONCE),
        "JUDGE_CANARY_RATE": "0",
    }
    command = [sys.executable, "-c", PROGRAM]
    root = Path(__file__).parents[3]
    with subprocess.Popen(command, env=environment, cwd=root) as process:
        while judge.calls < 10:
            time.sleep(0.02)
        process.kill()
    kept = value(dsn, "SELECT count(*) FROM rl.judge_cache")
    lost = value(dsn, "SELECT count(*) FROM rl.judge_calls WHERE status = 'reserved'")
    assert 0 < kept < 24 and 0 < lost <= AT_ONCE
    assert value(dsn, "SELECT min(cost_usd) FROM rl.judge_calls WHERE status = 'reserved'") > 0
    calls = judge.calls
    subprocess.run(command, env=environment, cwd=root, check=True, timeout=120)
    assert judge.calls - calls == 24 - kept, "only what is missing is asked for again"
    assert value(dsn, "SELECT count(*) FROM rl.judge_cache") == 24
