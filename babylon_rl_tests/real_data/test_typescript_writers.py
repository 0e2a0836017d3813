"""Both TypeScript writers through the pipeline: Node writes rows with npm's `pg`, we read them back.

On our tables and on Prisma's, with a host that lives in New York.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from babylon_rl.orchestration.scoring_steps import score_windows
from babylon_rl.orchestration.window_steps import derive_window, freeze_window
from babylon_rl.records.reader import read_window, refresh_window_rows
from babylon_rl.records.store import ArtifactStore
from babylon_rl.records.trajectory import decode_record, from_records
from babylon_rl.scoring.episodes import build_episodes
from babylon_rl_tests.game_rows import WINDOW
from babylon_rl_tests.skipping import require_tool, skip

pytestmark = pytest.mark.anyio
WRITERS = Path(__file__).parents[1] / "node"


@pytest.fixture(scope="session")
def node_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the writers and npm's `pg`."""
    require_tool("node")
    npm = require_tool("npm")
    folder = tmp_path_factory.mktemp("node")
    for file in ("package.json", "write_rows.mjs"):
        shutil.copy(WRITERS / file, folder)
    command = [npm, "install", "--no-audit", "--no-fund", "--no-package-lock", "--silent"]
    installed = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    if installed.returncode != 0:
        skip(f"npm cannot install pg: {(installed.stderr or installed.stdout).strip()[:200]}")
    return folder


@pytest.fixture
def written(node_folder: Path, dsn: str) -> dict[str, str]:
    """Trajectory ids by case."""
    done = subprocess.run(
        [require_tool("node"), "write_rows.mjs"],
        cwd=node_folder,
        env={**os.environ, "TZ": "America/New_York", **libpq(dsn)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def libpq(dsn: str) -> dict[str, str]:
    """The address in libpq's variables, because `pg` reads a socket's folder from there alone."""
    parts = urlsplit(dsn)
    query = {key: values[0] for key, values in parse_qs(parts.query).items()}
    found = {
        "PGHOST": query.get("host") or parts.hostname or "",
        "PGPORT": query.get("port") or str(parts.port or 5432),
        "PGUSER": query.get("user") or parts.username or "",
        "PGPASSWORD": query.get("password") or parts.password or "",
        "PGDATABASE": parts.path.removeprefix("/"),
    }
    return {"DATABASE_URL": "", **{key: value for key, value in found.items() if value}}


async def read(db, **options):
    await refresh_window_rows(db.game, db.rl)
    return await read_window(db.game, db.rl, WINDOW, **options)


async def test_every_row_is_in_the_window_whatever_the_writer_and_its_host(written, db):
    window = await read(db)
    assert window.quarantined == [] and window.excluded == {}
    assert {t.agent_id: t.trajectory_id for t in window.trajectories} == written
    starts = {t.agent_id: f"{t.start_time:%H:%M:%S}" for t in window.trajectories}
    assert starts["coordinator"] == "13:59:58" and starts["plugin"] == "14:10:00"


async def test_what_javascript_wrote_comes_back_typed(written, db):
    rows = {t.agent_id: t for t in (await read(db)).trajectories}
    hold, post = rows["coordinator"].steps
    assert (hold.action.action_type, hold.action.success, hold.llm_calls) == ("TRADING_DECISION", False, [])
    assert post.action.result == {"postId": "248447081117646848"}

    call = rows["spawner"].steps[3].llm_calls[0]
    assert call.latency_ms == 812.25 + 1 and "🚀" in call.user_prompt and "\ufffd" in call.user_prompt
    assert rows["spawner"].steps[3].provider_accesses[0].data["ticker"] == "$SOL"

    pending, bought = rows["plugin"].steps
    assert (pending.action.action_type, pending.action.attempt_id is not None) == ("pending", True)
    assert (bought.environment_state.agent_pnl, bought.environment_state.portfolio_value) == (None, None)
    assert bought.reward is None and bought.llm_calls[0].messages == [{"role": "user", "content": "Decide."}]
    assert len(bought.action.parameters["state"]["values"]) == 200_000

    (only,) = rows["short"].steps
    assert (only.environment_state.agent_balance, only.environment_state.agent_pnl) == (1000.5, 50)
    assert (only.action.action_type, only.action.parameters, only.step_number) == (
        "trade",
        {"side": "YES"},
        1,
    )
    assert rows["short"].final_pnl is None and rows["benchmark"].steps == []


async def test_both_views_tell_the_same_story(written, db):
    full, lean = await read(db), await read(db, view="lean")
    assert full.fingerprint == lean.fingerprint
    for whole, slim in zip(build_episodes(full, None), build_episodes(lean, None), strict=True):
        assert whole.steps and slim.steps == [] or whole.agent_id == "benchmark"
        for field in ("agent_id", "trajectory_ids", "actions", "invalid_actions", "attributed_pnl"):
            assert getattr(whole, field) == getattr(slim, field)
        assert (whole.start_equity, whole.trainable) == (slim.start_equity, slim.trainable)


async def test_a_held_trade_is_no_failure(written, db):
    episodes = {e.agent_id: e for e in build_episodes(await read(db), None)}
    assert (episodes["coordinator"].actions, episodes["coordinator"].invalid_actions) == (2, 0)
    assert episodes["plugin"].actions == 1, "a pending action is no decision"


async def test_quality_tells_the_writers_apart(written, db):
    await read(db)
    rows = await db.rl.fetch("SELECT agent_id, quality, quality_reasons FROM rl.window_rows")
    found = {row["agent_id"]: (round(row["quality"], 2), row["quality_reasons"]) for row in rows}
    assert found["spawner"] == (1.0, [])
    assert found["coordinator"] == (0.4, ["steps_without_calls", "short_prompts", "no_provider_data"])
    assert found["benchmark"][0] == 0.0 and "no_steps" in found["benchmark"][1]
    assert found["plugin"][0] == pytest.approx((1 + 0.5 + 0 + 1 + 0.5) / 5)


async def test_the_hour_goes_through_to_a_scored_group(written, db, settings, tmp_path):
    store = ArtifactStore(tmp_path)
    await refresh_window_rows(db.game, db.rl)
    frozen = await freeze_window(db, store, WINDOW, settings)
    assert (len(frozen.read.trajectories), frozen.status) == (5, "frozen")
    derived = await derive_window(db, WINDOW, settings)
    assert derived.outcomes is not None and "$SOL" in derived.outcomes.unknown
    [done] = [done async for done in score_windows(db, store, [WINDOW], settings, lambda: None)]  # type: ignore[arg-type,return-value]
    group = done.scored.group
    assert group.agents == 5 and group.status in ("scored", "no_spread")
    assert [m.agent_id for m in group.members] == sorted(written)
    lines = store.lines(frozen.snapshot.uri)
    assert [decode_record(line) for line in lines] == from_records(store.get(frozen.snapshot.uri))
