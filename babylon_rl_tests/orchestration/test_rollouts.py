"""Rollouts in Dagster: the sensor's look and its reason, and the job that takes a model back."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import asyncpg
import dagster as dg
import pytest

from babylon_rl.database.connection import connect
from babylon_rl.definitions import defs
from babylon_rl.deployment import leases
from babylon_rl.deployment.deploy import deploy
from babylon_rl.deployment.registry import ensure_base, register
from babylon_rl.deployment.rollout import rollout_status, start_rollout
from babylon_rl.deployment.watch import LEASE, TTL
from babylon_rl.orchestration.resources import PostgresResource
from babylon_rl.orchestration.rollout_view import rollout_table
from babylon_rl.orchestration.rollouts import deployment_watch
from babylon_rl_tests.deployment.experiments import Market, full_hour, noisy

WINDOWS = 96


@pytest.fixture
def in_rl(dsn: str) -> Callable[[Callable[[asyncpg.Connection], Awaitable[object]]], object]:
    """Runs a function on a connection of its own: Dagster's calls are synchronous."""

    def run(act: Callable[[asyncpg.Connection], Awaitable[object]]) -> object:
        async def opened() -> object:
            connection = await connect(dsn)
            try:
                return await act(connection)
            finally:
                await connection.close()

        return asyncio.run(opened())

    return run


@pytest.fixture
def two(in_rl) -> tuple[str, str]:
    """An active version, and the next."""

    async def make(rl: asyncpg.Connection) -> tuple[str, str]:
        await ensure_base(rl, base_model="tiny", storage_path="file:///models/base")
        first = await register(rl, parent_version="v0.0.0", storage_path="file:///models/1")
        second = await register(rl, parent_version=first.version, storage_path="file:///models/2")
        await deploy(rl, None, first.version, reason="first", verdict_required=False)
        return first.version, second.version

    return in_rl(make)


def tick(instance: dg.DagsterInstance) -> str:
    with dg.build_sensor_context(instance=instance, resources={"postgres": PostgresResource()}) as context:
        skipped = deployment_watch(context)
    assert isinstance(skipped, dg.SkipReason) and skipped.skip_message
    return skipped.skip_message


def rolled_out(version: str, percentage: float = 50.0):
    async def start(rl: asyncpg.Connection) -> None:
        await start_rollout(
            rl,
            None,
            version,
            percentage=percentage,
            origin=full_hour(WINDOWS + 4),
            block_windows=1,
            verdict_required=False,
        )

    return start


def test_without_a_rollout_the_reason_says_who_serves(pg_instance: dg.DagsterInstance, two) -> None:
    assert "v0.0.1 serves everybody; no rollout is running" in tick(pg_instance)


def test_a_candidate_that_fails_is_taken_back_by_the_sensor(
    pg_instance: dg.DagsterInstance, two, in_rl
) -> None:
    in_rl(rolled_out(two[1]))

    async def fail(admin: asyncpg.Connection) -> None:
        market, now = Market(admin), datetime.now(UTC)
        rollout = (await market.assignment()).rollout_id
        for number in range(20):
            for version, variant, status in ((two[0], "active", 200), (two[1], "candidate", 502)):
                await market.call(now, f"agent-{number}", version, variant, rollout=rollout, status=status)

    in_rl(fail)
    reason = tick(pg_instance)
    assert "roll back" in reason and "v0.0.1 serves everybody" in reason
    status = in_rl(rollout_status)
    assert (status.active, status.candidate) == (two[0], None)
    assert "no rollout is running" in tick(pg_instance)


def test_an_undecided_rollout_is_explained_and_shown(pg_instance: dg.DagsterInstance, two, in_rl) -> None:
    in_rl(rolled_out(two[1]))

    async def play(admin: asyncpg.Connection) -> None:
        market = Market(admin)
        await market.play(await market.assignment(), 30, noisy(0.0))

    in_rl(play)
    reason = tick(pg_instance)
    assert f"{two[0]} serves; {two[1]} goes to 50 % of agents and hours" in reason and "hold:" in reason
    table = rollout_table(in_rl(rollout_status).check)
    assert table is not None and table.row_count == 6


def test_another_leader_is_left_alone(pg_instance: dg.DagsterInstance, two, in_rl) -> None:
    in_rl(rolled_out(two[1]))
    assert in_rl(lambda rl: leases.take(rl, LEASE, "gateway-1", TTL)) is not None
    assert "left it: another process leads" in tick(pg_instance)


def rollback(instance: dg.DagsterInstance, **config: str) -> dg.ExecuteInProcessResult:
    return defs.resolve_job_def("rollback_job").execute_in_process(
        instance=instance,
        raise_on_error=False,
        run_config={"ops": {"take_back": {"config": config}}} if config else None,
    )


def test_the_job_takes_a_candidate_back_and_then_the_version_itself(
    pg_instance: dg.DagsterInstance, two, in_rl
) -> None:
    in_rl(rolled_out(two[1], 10.0))
    assert rollback(pg_instance, reason="it trades badly").success
    assert in_rl(rollout_status).active == two[0]
    in_rl(lambda rl: deploy(rl, None, two[1], reason="again", verdict_required=False))
    assert rollback(pg_instance).success
    status = in_rl(rollout_status)
    assert status.active == two[0]


def test_the_job_fails_with_the_remedy_where_nothing_served_before(
    pg_instance: dg.DagsterInstance, two
) -> None:
    failed = rollback(pg_instance, to=two[1])
    assert not failed.success
    (event,) = [event for event in failed.all_events if event.is_step_failure]
    assert two[1] in str(event.step_failure_data.error)
