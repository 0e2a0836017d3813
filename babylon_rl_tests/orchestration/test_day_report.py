"""The day's pictures and tables, from scored windows."""

import asyncpg
import pytest

from babylon_rl.orchestration.day_report import report_day


@pytest.mark.anyio
async def test_best_and_worst_episodes_of_the_newest_scoring(connection: asyncpg.Connection):
    for hour in range(4):
        window_id = f"2026-10-02T{hour:02d}:00"
        await connection.execute(
            "INSERT INTO rl.window_state (window_id, group_status, group_sha256, episodes, pnl_mean)"
            " VALUES ($1, 'scored', 'new', 3, $2)",
            window_id,
            float(hour),
        )
        for agent, sha256, reward in (("a", "new", hour), ("b", "new", -hour), ("b", "old", 99)):
            await connection.execute(
                "INSERT INTO rl.scores (window_id, agent_id, scorer, group_sha256, reward, advantage)"
                " VALUES ($1, $2, 'pnl', $3, $4, 0)",
                window_id,
                agent,
                sha256,
                float(reward),
            )
    report = await report_day(connection, "2026-10-02")
    assert [row[2] for row in report.best] == [3, 2, 1, 0, 0]
    assert [row[2] for row in report.worst] == [-3, -2, -1, 0, 0]
    assert len(report.windows) == 4 and "data:image/svg+xml" in report.rewards and "data:image" in report.pnl
    empty = await report_day(connection, "2026-10-03")
    assert empty.best == [] and "no values" in empty.pnl
