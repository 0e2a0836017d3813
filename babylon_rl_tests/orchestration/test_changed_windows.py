"""The tables of changed windows and days of `babylon status`: what Dagster cannot show as stale."""

import io

import asyncpg
import pytest
from rich.console import Console

from babylon_rl.deployment.changed_days import ChangedDay, changed_days
from babylon_rl.orchestration.changes import changed_windows
from babylon_rl.orchestration.views import changed_days_table, changed_table


@pytest.mark.anyio
async def test_scored_windows_that_changed_are_listed_with_the_reason(connection: asyncpg.Connection):
    assert await changed_windows(connection) == []
    for hour, taken, reason in ((1, "old", None), (2, "now", "its outcomes changed"), (3, "now", None)):
        window_id = f"2026-10-02T{hour:02d}:00"
        await connection.execute(
            "INSERT INTO rl.recorded_windows (window_id, rows, agents, fingerprint, taken, taken_rows,"
            " stale_reason, settled) VALUES ($1, 4, 3, 'now', $2, 3, $3::text, $3::text IS NULL)",
            window_id,
            taken,
            reason,
        )
        await connection.execute(
            "INSERT INTO rl.window_state (window_id, group_status) VALUES ($1, 'scored')", window_id
        )
    changed = await changed_windows(connection)
    assert [(w.window_id[-5:], w.stale) for w in changed] == [
        ("01:00", "3 rows when it was scored and 4 now"),
        ("02:00", "its outcomes changed"),
    ]
    console = Console(width=120, file=io.StringIO(), record=True)
    console.print(changed_table(changed))
    assert "its outcomes changed" in console.export_text()


@pytest.mark.anyio
async def test_trained_days_whose_windows_were_scored_anew_are_listed(connection: asyncpg.Connection):
    for day, minutes in (("2026-10-02", 1), ("2026-10-03", -1)):  # scored before and after the training
        await connection.execute(
            "INSERT INTO rl.training_units (unit_key, batch_sha256, day, backend) "
            "VALUES ($1, 'b', $1::text::date, 'embedded')",
            day,
        )
        await connection.execute(
            "INSERT INTO rl.trained_days (day, batch_sha256, unit_key, version) "
            "VALUES ($1::text::date, 'b', $1, 'v0.1.0')",
            day,
        )
        await connection.execute(
            "INSERT INTO rl.window_state (window_id, group_status, group_sha256) VALUES ($1, 'scored', 'g')",
            f"{day}T23:00",
        )
        await connection.execute(
            "INSERT INTO rl.scores (window_id, agent_id, scorer, group_sha256, reward, advantage, scored_at) "
            "VALUES ($1, 'a', 'pnl', 'g', 1, 0, now() - interval '1 minute' * $2::float8)",
            f"{day}T23:00",
            minutes,
        )
    found = await changed_days(connection)
    assert found == [ChangedDay("2026-10-03", "v0.1.0", 1)]
    console = Console(width=120, file=io.StringIO(), record=True)
    console.print(changed_days_table(found))
    assert "2026-10-03" in console.export_text()
