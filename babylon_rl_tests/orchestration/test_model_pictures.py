"""What the UI and the page of verdicts show of learning."""

import re
from collections.abc import AsyncIterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import asyncpg
import pytest

from babylon_rl.benchmark.gate import decide
from babylon_rl.benchmark.statistics import Interval
from babylon_rl.database.connection import Databases, connect
from babylon_rl.deployment import registry
from babylon_rl.deployment.verdicts import all_benchmarks, record_benchmark
from babylon_rl.orchestration.charts import as_markdown
from babylon_rl.orchestration.model_pictures import (
    importance_ratios,
    learning_curve,
    recorded_rewards,
    reward_against_pnl,
    steps_of,
    token_shares,
)
from babylon_rl.orchestration.verdict_page import verdict_page
from babylon_rl.orchestration.verdict_views import COLUMNS, verdict_rows, verdicts_table

pytestmark = pytest.mark.anyio

STEPS = [
    {
        "off_policy/ratio_mean": 1.0 + i / 10,
        "off_policy/ratio_max": 900.0,
        "loss/train": 0.1,
        "off_policy/clipped_share": 0.01 * i,
        "off_policy/effective_sample_size": 5000.0,
    }
    for i in range(5)
]


@pytest.fixture
async def rl(anyio_backend: str, dsn: str) -> AsyncIterator[asyncpg.Connection]:
    """Three judged checkpoints, a vault and a replay."""
    opened = await connect(dsn)
    await registry.ensure_base(opened, base_model="tiny", storage_path="file:///models/base")
    for number, mean in enumerate((-0.02, 0.01, 0.03), start=1):
        manifest = {"files": {}, "steps": STEPS}
        model = await registry.register(opened, parent_version="v0.0.0", storage_path="x", manifest=manifest)
        interval = Interval(mean, mean - 0.02, mean + 0.02, 1024, 0.05 / number, "betting", 0.1)
        verdict = decide(interval, invalid_rate=0.0, incumbent_invalid_rate=0.0, incumbent="v0.0.0")
        standing = {"return_mean": mean, "return_low": mean - 0.01, "return_high": mean + 0.01}
        metrics = {
            "verdict": verdict.to_dict(),
            "standings": {model.version: standing, "v0.0.0": {**standing, "return_mean": 0.0}},
            "explanation": f"the paragraph of {model.version} <b>",
            "candidate_number": number,
        }
        await record_benchmark(
            opened,
            version=model.version,
            incumbent="v0.0.0",
            purpose="gate",
            seed_key=f"key {number}",
            windows=1024,
            metrics=metrics,
            verdict=verdict.decision,
            reason=verdict.reason,
        )
    gain = {"gain": asdict(Interval(0.02, 0.01, 0.03, 1024, 0.05, "betting", 0.1))}
    await record_benchmark(
        opened, version="v0.0.3", incumbent="v0.0.0", purpose="vault", seed_key="v", windows=9, metrics=gain
    )
    yield opened
    await opened.close()


async def test_every_verdict_is_in_the_table(rl: asyncpg.Connection) -> None:
    rows = verdict_rows(await all_benchmarks(rl))
    assert [(row["version"], row["purpose"], row["verdict"]) for row in rows] == [
        ("v0.0.3", "vault", None),
        ("v0.0.3", "gate", "promoted"),
        ("v0.0.2", "gate", "inconclusive"),
        ("v0.0.1", "gate", "inconclusive"),
    ]
    assert [row["candidate"] for row in rows] == [None, 3, 2, 1] and rows[0]["low"] == 0.01
    assert rows[1]["alpha"] == pytest.approx(0.05 / 3) and rows[1]["detectable"] > 0.02
    assert len(verdicts_table(await all_benchmarks(rl)).columns) == len(COLUMNS)
    assert len(await all_benchmarks(rl, "v0.0.2")) == 1 and len(await all_benchmarks(rl, limit=2)) == 2


async def test_the_learning_curve_has_a_point_per_judged_checkpoint(rl: asyncpg.Connection) -> None:
    svg = learning_curve(await all_benchmarks(rl))
    assert svg is not None and svg.count("<circle") == 9 and svg.count("<polygon") == 3
    assert svg.index("v0.0.1") < svg.index("v0.0.3")
    assert learning_curve([]) is None and "no values" in as_markdown(learning_curve([]), "Learning curve")


async def test_ratios_are_drawn_where_a_backend_reports_them(rl: asyncpg.Connection) -> None:
    model = await registry.get(rl, "v0.0.1")
    svg = importance_ratios(steps_of(model))
    assert svg is not None and svg.count("<polyline") == 1, "the mean alone; a maximum would hide it"
    shares = token_shares(steps_of(model))
    assert shares is not None and shares.count("<polyline") == 1
    assert token_shares([]) is None and importance_ratios([{"loss/train": 1.0}]) is None
    assert steps_of(await registry.get(rl, "v0.0.0")) == []


async def test_reward_against_pnl(rl: asyncpg.Connection) -> None:
    assert reward_against_pnl([(1.0, 0.5), (None, 1.0), (2.0, -0.5)]) is not None
    assert reward_against_pnl([(None, 1.0)]) is None
    assert await recorded_rewards(rl) == []
    scored = """INSERT INTO rl.scores (window_id, agent_id, scorer, group_sha256, reward, advantage,
                       components, scored_at) VALUES ('2026-10-01T10:00', $1, 'pnl', $2, $3, 0, '{}', $4)"""
    moments = [datetime(2026, 10, day, tzinfo=UTC) for day in (2, 3)]
    await rl.execute(scored, "a", "old", 9.0, moments[0])
    await rl.execute(scored, "a", "new", 0.1, moments[1])
    await rl.execute(scored, "b", "new", 0.2, moments[1])
    await rl.executemany(
        """INSERT INTO rl.order_value (order_id, horizon, agent_id, window_id, kind, instrument, side, size,
                                       opened_at, value, matured, liquidated)
           VALUES ($1, '1h', $2, '2026-10-01T10:00', 'perp', 'X', 'long', 1, now(), $3, $4, false)""",
        [("o1", "a", 5.0, True), ("o2", "a", 7.0, True), ("o3", "b", -3.0, True), ("o4", "b", 99.0, False)],
    )
    assert await recorded_rewards(rl) == [(12.0, 0.1), (-3.0, 0.2)], "the newest score, matured orders"
    assert await recorded_rewards(rl, "2026-10-02") == []


async def test_the_page_of_verdicts_needs_nothing_but_itself(rl: asyncpg.Connection, tmp_path: Path) -> None:
    html = await verdict_page(Databases(game=rl, rl=rl))
    assert html.count("<svg") == 3 and "nothing to draw yet" in html, "no episode was scored"
    assert "the paragraph of v0.0.2 &lt;b&gt;" in html and "Importance ratios of v0.0.3" in html
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)|<script|<link|<img", html)
