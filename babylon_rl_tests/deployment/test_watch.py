"""The watch: measured in order, judged at each look, decided under a lease; bursts; schedules."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from babylon_rl.database.connection import connect
from babylon_rl.deployment import leases, rollout_rows
from babylon_rl.deployment.deploy import deploy
from babylon_rl.deployment.leases import LeaseLostError
from babylon_rl.deployment.measuring import read_panel
from babylon_rl.deployment.rollout import rollout_status, start_rollout
from babylon_rl.deployment.watch import LEASE, TTL, Watched, WatchRules, step_down, watch
from babylon_rl_tests.deployment.conftest import MakeModel
from babylon_rl_tests.deployment.experiments import AGENTS, Market, full_hour, noisy

pytestmark = pytest.mark.anyio

RULES = WatchRules()
WINDOWS = 96
START = WINDOWS + 4


@pytest.fixture
async def two(rl: asyncpg.Connection, make: MakeModel) -> tuple[str, str]:
    first = (await make()).version
    await deploy(rl, None, first, reason="first")
    return first, (await make(parent=first)).version


@pytest.fixture
async def gateway(anyio_backend: str, dsn: str) -> AsyncIterator[asyncpg.Connection]:
    """The watch's connection, under the gateway's role."""
    opened = await connect(dsn, role="babylon_gateway")
    yield opened
    await opened.close()


async def look(gateway: asyncpg.Connection, times: int = 1, **changes: object) -> Watched:
    """Looks until something is decided, at most so often."""
    found = Watched(False)
    for _ in range(times):
        found = await watch(gateway, None, WatchRules(**changes), owner="gateway-1")  # type: ignore[arg-type]
        if found.decision != "hold":
            break
    return found


async def test_a_worse_candidate_is_taken_back_by_the_gateway(
    connection: asyncpg.Connection, gateway: asyncpg.Connection, rl: asyncpg.Connection, two: tuple[str, str]
) -> None:
    await start_rollout(rl, None, two[1], percentage=50, origin=full_hour(START), block_windows=1)
    market = Market(connection)
    await market.play(await market.assignment(), WINDOWS, noisy(-15.0))
    found = await look(gateway, 10)
    assert found.decision == "roll_back", found
    assert "fell" in found.reason and "minimum detectable effect" in found.reason
    status = await rollout_status(rl)
    assert (status.active, status.candidate) == (two[0], None)
    (past,) = await rollout_rows.past_rollouts(rl)
    assert (past.state, past.decided_by) == ("rolled_back", "gateway-1")
    check, *earlier = await rollout_rows.latest_checks(rl, past.id, 10)
    assert check.decision == "roll_back" and all(one.decision == "hold" for one in earlier)
    pnl = check.report["metrics"]["pnl"]
    assert pnl["band"]["high"] < 0 and pnl["candidate"] < pnl["incumbent"]


async def test_a_better_candidate_is_promoted_unless_an_operator_wants_to(
    connection: asyncpg.Connection, gateway: asyncpg.Connection, rl: asyncpg.Connection, two: tuple[str, str]
) -> None:
    await start_rollout(rl, None, two[1], percentage=50, origin=full_hour(START), block_windows=1)
    market = Market(connection)
    await market.play(await market.assignment(), WINDOWS, noisy(15.0))
    held = await look(gateway, 4, promote=False)
    assert held.decision == "hold"
    assert (await rollout_status(rl)).candidate == two[1]
    # The figures stand; nothing new has settled, so the operator's word is what is left.
    check = (await rollout_rows.latest_checks(rl, (await rollout_status(rl)).rollout_id or 0))[0]
    assert "an operator promotes" in check.reason


async def test_equal_candidates_are_held_with_the_detectable_effect(
    connection: asyncpg.Connection, gateway: asyncpg.Connection, rl: asyncpg.Connection, two: tuple[str, str]
) -> None:
    await start_rollout(rl, None, two[1], percentage=50, origin=full_hour(START), block_windows=1)
    market = Market(connection)
    await market.play(await market.assignment(), WINDOWS, noisy(0.0))
    assert (await look(gateway, 4)).decision == "hold"
    check = (await rollout_status(rl)).check
    assert check is not None and "undecided" in check.reason and check.report["pairs"] == WINDOWS // 2
    assert 0 < check.report["metrics"]["pnl"]["band"]["detectable"] < 40


async def test_what_the_fallback_served_is_left_out_and_counted(
    connection: asyncpg.Connection, gateway: asyncpg.Connection, rl: asyncpg.Connection, two: tuple[str, str]
) -> None:
    await start_rollout(rl, None, two[1], percentage=50, origin=full_hour(12), block_windows=1)
    market = Market(connection)
    assignment = await market.assignment()
    await market.play(assignment, 8, lambda a, w, c: -1e6 if a == 3 else 1.0, fallback=lambda a, w, c: a == 3)
    await look(gateway)
    panel = await read_panel(gateway, assignment)
    assert panel.left_out == {"fallback": 8}
    import numpy as np

    assert np.nanmin(panel.values["pnl"]) == 1.0
    assert np.nanmax(panel.values["failures"]) == 1.0


@pytest.mark.parametrize(("trusted", "agents"), [(False, 0), (True, len(AGENTS))])
async def test_unverified_callers_do_not_count_unless_nobody_has_a_key(
    connection: asyncpg.Connection,
    gateway: asyncpg.Connection,
    rl: asyncpg.Connection,
    two: tuple[str, str],
    trusted: bool,
    agents: int,
) -> None:
    await start_rollout(rl, None, two[1], percentage=50, origin=full_hour(12), block_windows=1)
    market = Market(connection)
    assignment = await market.assignment()
    await market.play(assignment, 4, lambda *_: 1.0, verified=False)
    await look(gateway, trust_unverified=trusted)
    assert (await read_panel(gateway, assignment)).values["pnl"].shape[0] == agents


async def test_a_window_waits_for_its_orders_and_those_after_it_too(
    connection: asyncpg.Connection, gateway: asyncpg.Connection, rl: asyncpg.Connection, two: tuple[str, str]
) -> None:
    await start_rollout(rl, None, two[1], percentage=50, origin=full_hour(12), block_windows=1)
    market = Market(connection)
    assignment = await market.assignment()
    await market.play(assignment, 2, lambda *_: 1.0)
    await market.play(assignment, 1, lambda *_: 1.0, first=2, matured=False)
    await market.play(assignment, 2, lambda *_: 1.0, first=3)
    assert (await look(gateway)).measured == 2
    assert (await look(gateway)).measured == 0
    await connection.execute("UPDATE rl.order_value SET matured = true")
    assert (await look(gateway)).measured >= 3


async def test_orders_are_valued_by_the_watch_where_the_pipeline_is_down(
    connection: asyncpg.Connection, gateway: asyncpg.Connection, rl: asyncpg.Connection, two: tuple[str, str]
) -> None:
    await start_rollout(rl, None, two[1], percentage=50, origin=full_hour(6), block_windows=1)
    market = Market(connection)
    await market.play(await market.assignment(), 2, lambda *_: 1.0, matured=False, settled=False)
    valued = []

    @asynccontextmanager
    async def pricing():
        async def value(window_id: str) -> None:
            valued.append(window_id)
            await connection.execute(
                "UPDATE rl.order_value SET matured = true WHERE window_id = $1", window_id
            )

        yield value

    assert (await look(gateway)).measured == 0
    found = await watch(gateway, None, RULES, owner="gateway-1", pricing=pricing)
    assert found.measured >= 2 and len(valued) == 2


async def test_a_window_that_never_settles_is_lost_for_everybody(
    connection: asyncpg.Connection, gateway: asyncpg.Connection, rl: asyncpg.Connection, two: tuple[str, str]
) -> None:
    await start_rollout(rl, None, two[1], percentage=50, origin=full_hour(20), block_windows=1)
    market = Market(connection)
    assignment = await market.assignment()
    await market.play(assignment, 1, lambda *_: 1.0, matured=False)
    await market.play(assignment, 1, lambda *_: 1.0, first=1)
    assert (await look(gateway)).measured >= 2
    rows = await rl.fetch("SELECT status FROM rl.rollout_windows ORDER BY window_id LIMIT 2")
    assert [row["status"] for row in rows] == ["lost", "measured"]


async def test_one_leader_decides_and_loses_the_right_with_the_lease(
    gateway: asyncpg.Connection, dsn: str, rl: asyncpg.Connection
) -> None:
    other = await connect(dsn, role="babylon_trainer")
    try:
        ttl = timedelta(seconds=30)
        first, second = await asyncio.gather(
            leases.take(gateway, "x", "one", ttl), leases.take(other, "x", "two", ttl)
        )
        assert (first is None) != (second is None)
        held = first or second
        assert held is not None
        async with rl.transaction():
            await leases.require(rl, held)
        await rl.execute("UPDATE rl.leases SET until = clock_timestamp() - interval '1 second'")
        with pytest.raises(LeaseLostError):
            await leases.require(rl, held)
        taken = await leases.take(other, "x", "three", ttl)
        assert taken is not None and taken.epoch == held.epoch + 1
        with pytest.raises(LeaseLostError):
            await leases.require(rl, held)
        await leases.release(rl, taken)
        assert await leases.take(gateway, "x", "four", ttl) is not None
    finally:
        await other.close()


async def test_two_watches_decide_once(
    connection: asyncpg.Connection,
    gateway: asyncpg.Connection,
    dsn: str,
    rl: asyncpg.Connection,
    two: tuple[str, str],
) -> None:
    status = await start_rollout(rl, None, two[1], strategy="test", agents=["agent-1"])
    market = Market(connection)
    now = datetime.now(UTC)
    for _ in range(12):
        await market.call(now, "agent-1", "v0.0.0", "candidate", rollout=status.rollout_id, fallback=True)
    other = await connect(dsn, role="babylon_gateway")
    try:
        found = await asyncio.gather(
            watch(gateway, None, RULES, owner="one"), watch(other, None, RULES, owner="two")
        )
    finally:
        await other.close()
    assert sorted(one.leader for one in found) == [False, True]
    assert await rl.fetchval("SELECT count(*) FROM rl.rollout_checks WHERE decision = 'roll_back'") == 1
    assert (await rollout_status(rl)).candidate is None


async def test_failures_of_everybody_are_an_outage(
    connection: asyncpg.Connection, gateway: asyncpg.Connection, rl: asyncpg.Connection, two: tuple[str, str]
) -> None:
    status = await start_rollout(rl, None, two[1], percentage=50, experiment=False)
    market = Market(connection)
    now = datetime.now(UTC)
    for variant, version in (("candidate", two[1]), ("active", two[0])):
        for number in range(20):
            await market.call(now, f"agent-{number}", version, variant, rollout=status.rollout_id, status=502)
    assert (await look(gateway)).decision == "hold"


async def test_a_fresh_deployment_that_fails_is_taken_back_but_never_twice(
    connection: asyncpg.Connection, gateway: asyncpg.Connection, rl: asyncpg.Connection, two: tuple[str, str]
) -> None:
    await deploy(rl, None, two[1], reason="new")
    market = Market(connection)
    for _ in range(25):
        await market.call(datetime.now(UTC), "agent-1", "v0.0.0", "active", fallback=True)
    found = await look(gateway)
    assert found.decision == "roll_back" and "25 of the last 25" in found.reason
    assert (await rollout_status(rl)).active == two[0]
    for _ in range(25):
        await market.call(datetime.now(UTC), "agent-1", "v0.0.0", "active", fallback=True)
    assert (await look(gateway)).decision is None
    assert (await rollout_status(rl)).active == two[0], "an outage does not walk through the history"


async def test_an_outage_after_a_deployment_changes_nothing(
    connection: asyncpg.Connection, gateway: asyncpg.Connection, rl: asyncpg.Connection, two: tuple[str, str]
) -> None:
    await deploy(rl, None, two[1], reason="new")
    market = Market(connection)
    for _ in range(30):  # the base does not answer either
        await market.call(datetime.now(UTC), "agent-1", "v0.0.0", "active", fallback=True, status=502)
    assert (await look(gateway)).decision is None


async def test_a_schedule_moves_on_and_ends_in_a_promotion(
    gateway: asyncpg.Connection, connection: asyncpg.Connection, rl: asyncpg.Connection, two: tuple[str, str]
) -> None:
    steps = [(10, 1), (50, 1), (100, None)]
    started = await start_rollout(rl, None, two[1], schedule=steps, experiment=False)
    assert (await look(gateway)).decision == "hold"
    assert (await rollout_status(rl)).percentage == 10.0
    await Market(connection).call(
        datetime.now(UTC), "agent-1", two[1], "candidate", rollout=started.rollout_id
    )
    for share in (50.0, None):
        await connection.execute("UPDATE rl.rollout_stages SET from_time = from_time - interval '2 hours'")
        found = await look(gateway)
        status = await rollout_status(rl)
        assert status.percentage == share
    assert found.decision == "promote" and status.active == two[1]


async def test_a_schedule_does_not_promote_what_nobody_has_met(
    gateway: asyncpg.Connection, connection: asyncpg.Connection, rl: asyncpg.Connection, two: tuple[str, str]
) -> None:
    """Such as a candidate whose checkpoint no gateway could load."""
    status = await start_rollout(rl, None, two[1], schedule=[(50, 1), (100, None)], experiment=False)
    await connection.execute("UPDATE rl.rollout_stages SET from_time = from_time - interval '2 hours'")
    market, now = Market(connection), datetime.now(UTC)
    await market.call(now, "agent-1", "v0.0.0", "candidate", rollout=status.rollout_id, fallback=True)
    await market.call(now, "agent-1", two[1], "candidate", rollout=status.rollout_id, status=502)
    found = await look(gateway)
    assert found.decision == "hold" and f"{two[1]} has answered no agent yet" in found.reason
    await market.call(now, "agent-1", two[1], "candidate", rollout=status.rollout_id)
    assert (await look(gateway)).decision == "promote"


async def test_a_leader_that_ends_steps_down_at_once(gateway: asyncpg.Connection) -> None:
    assert (await look(gateway)).leader
    await step_down(gateway, "another")
    assert await leases.take(gateway, LEASE, "another", TTL) is None, "only its own lease"
    await step_down(gateway, "gateway-1")
    assert await leases.take(gateway, LEASE, "another", TTL) is not None
