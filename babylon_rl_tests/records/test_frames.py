"""Frames for notebooks: one row per thing, typed, with what a person groups by."""

from pathlib import Path

import asyncpg
import pytest

from babylon_rl.records import frames
from babylon_rl.windows import UnknownWindowError
from babylon_rl_tests.kept_windows import AGENTS, WINDOW, keep_window

pytestmark = pytest.mark.anyio


async def test_every_frame_has_its_rows(connection: asyncpg.Connection, tmp_path: Path) -> None:
    _, group = await keep_window(connection, tmp_path)
    windows = await frames.windows_frame(connection)
    assert windows["window_id"].tolist() == [WINDOW] and windows["agents"].tolist() == [4]
    assert windows["group_status"].tolist() == ["scored"] and str(windows["seen_at"].dt.tz) == "UTC"

    scores = await frames.scores_frame(connection)
    assert scores["agent_id"].tolist() == list(AGENTS) and set(scores["is_current"]) == {True}
    assert scores["reward"].tolist() == [member.reward for member in group.members]
    parts = scores.filter(like="component_").sum(axis=1)
    assert parts.tolist() == pytest.approx(scores["reward"].tolist())

    orders = await frames.orders_frame(connection, WINDOW, WINDOW)
    assert set(orders["horizon"]) >= {"1h", "24h"} and set(orders["agent_id"]) == set(AGENTS)

    span = (connection, connection, WINDOW, WINDOW)
    trajectories = await frames.trajectories_frame(*span)
    assert trajectories[["steps", "llm_calls"]].drop_duplicates().to_numpy().tolist() == [[2, 2]]
    steps = await frames.steps_frame(*span)
    assert steps.groupby("action_type").size().to_dict() == {"HOLD": 4, "OPEN_PERP_POSITION": 4}
    assert str(steps["time"].dt.tz) == "UTC" and steps["balance"].tolist() == [1000] * 8
    calls = await frames.calls_frame(*span)
    assert len(calls) == 8 and set(calls["trainable"]) == {True} and set(calls["model"]) == {"babylon-tiny"}


async def test_nothing_recorded_is_an_empty_frame(connection: asyncpg.Connection) -> None:
    for frame in (frames.windows_frame, frames.scores_frame, frames.orders_frame):
        found = await frame(connection)
        assert len(found) == 0 and "window_id" in found.columns
    assert len(await frames.steps_frame(connection, connection, WINDOW, WINDOW)) == 0
    with pytest.raises(UnknownWindowError):
        await frames.steps_frame(connection, connection, "yesterday", WINDOW)
