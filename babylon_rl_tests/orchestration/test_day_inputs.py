"""A day is trained on windows that have their verdicts, whoever launched it; `force` says otherwise."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import asyncpg
import dagster as dg
import pytest

from babylon_rl.database.connection import connect
from babylon_rl.orchestration.assets.training_batch import training_batch
from babylon_rl.orchestration.day_inputs import UnresolvedDayError, day_inputs
from babylon_rl.orchestration.resources import (
    ArtifactStoreResource,
    ArtResource,
    PostgresResource,
    WandbResource,
)
from babylon_rl.records.reader import refresh_window_rows
from babylon_rl.settings import Settings
from babylon_rl.windows import day_of, window_id_at, windows_of_day
from babylon_rl_tests.orchestration.recorded import record_window

DAY = "2026-10-02"
WINDOWS = windows_of_day(DAY)
AGENTS = ["agent-a", "agent-b", "agent-c"]
NOW = datetime(2026, 10, 3, 3, tzinfo=UTC)
_STATE = "INSERT INTO rl.window_state (window_id, group_status) VALUES ($1, $2)"


@pytest.fixture
def recorded(record: Callable[..., None], dsn: str) -> None:
    """Two windows with rows, known to the pipeline, without a verdict."""
    record(AGENTS, WINDOWS[3], WINDOWS[5])

    async def feed() -> None:
        connection = await connect(dsn)
        await refresh_window_rows(connection, connection)
        await connection.close()

    asyncio.run(feed())


def materialize(day: str = DAY, **config: object) -> tuple[dg.ExecuteInProcessResult, dict[str, object]]:
    with dg.instance_for_test() as instance:
        result = dg.materialize(
            [training_batch],
            instance=instance,
            resources={
                "postgres": PostgresResource(),
                "art": ArtResource(),
                "wandb": WandbResource(mode="none"),
                "store": ArtifactStoreResource(),
            },
            partition_key=day,
            run_config={"ops": {"training_batch": {"config": config}}},
            raise_on_error=False,
        )
        made = result.asset_materializations_for_node("training_batch") if result.success else []
        return result, {name: entry.value for event in made for name, entry in event.metadata.items()}


def test_a_day_with_unresolved_windows_is_refused_once_and_named(recorded: None, settings: Settings):
    result, _ = materialize()
    assert not result.success
    (failure,) = [e for e in result.all_events if e.event_type == dg.DagsterEventType.STEP_FAILURE]
    said = str(failure.step_failure_data.user_failure_data)
    assert f"{DAY}: 2 windows with rows have no verdict yet: {WINDOWS[3]} (not scored)" in said
    assert "babylon backfill" in said and "force" in said


def test_force_in_run_config_trains_what_there_is_and_says_what_is_missing(
    recorded: None, settings: Settings
):
    result, metadata = materialize(force=True)
    assert result.success
    assert metadata["windows/unresolved"] == 2 and metadata["status"] == "empty"
    assert WINDOWS[5] in str(metadata["windows that are not final"])


def test_a_day_without_any_row_needs_no_force(settings: Settings):
    result, metadata = materialize()
    assert result.success
    assert (metadata["status"], metadata["windows/unresolved"]) == ("empty", 0)


@pytest.mark.anyio
async def test_what_holds_a_day_and_what_does_not(connection: asyncpg.Connection, settings: Settings):
    for window_id in WINDOWS[:4]:
        await record_window(connection, window_id, AGENTS)
    await refresh_window_rows(connection, connection)
    for window_id, status in zip(WINDOWS, ("scored", "immature", "unjudged"), strict=False):
        await connection.execute(_STATE, window_id, status)

    async def held(now: datetime) -> list[str]:
        return [f.window_id for f in (await day_inputs(connection, DAY, settings, now)).unresolved]

    assert await held(NOW) == WINDOWS[1:4], "immature, unjudged, and never scored"
    assert await held(NOW + timedelta(days=3)) == [WINDOWS[1], WINDOWS[3]], "no judge for days: given up"
    with pytest.raises(UnresolvedDayError, match="3 windows with rows"):
        (await day_inputs(connection, DAY, settings, NOW)).require(DAY)
    await connection.execute("UPDATE rl.recorded_windows SET stale_reason = 'an order was settled'")
    stale = (await day_inputs(connection, DAY, settings, NOW)).stale
    assert [f.window_id for f in stale] == WINDOWS[:3], "told, and no reason to wait"
    tomorrow = day_of(window_id_at(NOW + timedelta(days=1)))
    assert not (await day_inputs(connection, tomorrow, settings, NOW)).unresolved
    assert not (await day_inputs(connection, "2026-09-30", settings, NOW)).unresolved, "before the first"
    await connection.execute(
        "INSERT INTO rl.trained_days (day, batch_sha256, unit_key, version) "
        "VALUES ('2026-10-02', 'b', 'u', 'v0.1.0')"
    )
    assert not (await day_inputs(connection, DAY, settings, NOW)).unresolved, "it has its batch"
