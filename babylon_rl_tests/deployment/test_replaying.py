"""Decision replay on recorded days: only held-out prompts, and policies of known skill told apart."""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from babylon_rl.benchmark.replay import NothingToReplayError, Replay
from babylon_rl.database.connection import Databases, connect
from babylon_rl.deployment import registry
from babylon_rl.deployment.replaying import Material, estimate, held_out_decisions, replay
from babylon_rl.deployment.verdicts import all_benchmarks
from babylon_rl.policy.chat import Policy
from babylon_rl.policy.remote import RemotePolicy, RemotePolicyError
from babylon_rl.policy.server import PolicyServer
from babylon_rl.records.reader import refresh_window_rows
from babylon_rl.training.costs import PriceTable
from babylon_rl_tests.benchmark.players import Fixed, Skilled
from babylon_rl_tests.simulation.conftest import simulate
from babylon_rl_tests.test_cli import babylon

pytestmark = pytest.mark.anyio

INCUMBENT = Skilled("v0.0.0", 0.3)


@pytest.fixture(scope="module")
def days(server, template: str) -> Iterator[str]:
    """Two days of trading, with a base model and one candidate registered."""
    name = server.create(template)

    async def make() -> None:
        await simulate(server.dsn(name), INCUMBENT, 2, agents=4)
        rl = await connect(server.dsn(name))
        await refresh_window_rows(rl, rl)
        await registry.ensure_base(rl, base_model="tiny", storage_path="file:///models/base")
        await registry.register(rl, parent_version="v0.0.0", storage_path="file:///models/x")
        await rl.close()

    asyncio.run(make())
    yield server.dsn(name)
    server.drop(name)


@pytest.fixture
async def db(anyio_backend: str, days: str) -> AsyncIterator[Databases]:
    """A connection to the two days, whose changes are undone."""
    connection = await connect(days)
    undo = connection.transaction()
    await undo.start()
    yield Databases(game=connection, rl=connection)
    await undo.rollback()
    await connection.close()


async def material(db: Databases, limit: int = 400) -> Material:
    return await held_out_decisions(db, ["v0.0.1", "v0.0.0"], limit=limit)


async def replayed(db: Databases, candidate: Policy, limit: int = 400) -> Replay:
    return await replay(db, await material(db, limit), candidate, INCUMBENT)


async def test_better_and_worse_policies_are_told_apart(db: Databases) -> None:
    better = await replayed(db, Skilled("v0.0.1", skill=1.0), 768)
    assert better.asymptotic and better.asymptotic.low > 0 and better.difference.mean > 0.01
    worse = await replay(db, await material(db, 768), Skilled("worse", folly=1.0), INCUMBENT, store=False)
    assert worse.asymptotic and worse.asymptotic.high < 0 and worse.difference.mean < -0.01
    assert {better.finding, worse.finding} <= {"undecided", "better", "worse"} and better.finding != "worse"
    assert worse.decisions == better.decisions == 768 == better.candidate.orders and better.blocks == 24


async def test_equal_policies_differ_in_nothing(db: Databases) -> None:
    same = await replayed(db, Skilled("v0.0.1", 0.3))
    assert same.difference.mean == 0 and same.changed == 0 and same.finding == "undecided"


async def test_a_replay_is_stored_and_repeated_from_what_is_stored(db: Databases) -> None:
    await replayed(db, Skilled("v0.0.1", 1.0), 200)
    await replayed(db, Skilled("v0.0.1", 1.0), 200)
    [record] = await all_benchmarks(db.rl)
    assert (record.version, record.incumbent, record.purpose) == ("v0.0.1", "v0.0.0", "replay")
    assert record.verdict is None and "minimum detectable effect" in (record.reason or "")
    assert record.metrics["replay"]["decisions"] == 200
    assert (await registry.get(db.rl, "v0.0.1")).verdict is None, "a replay decides nothing"


async def test_the_sample_follows_from_the_versions(db: Databases) -> None:
    one, again = await material(db, 50), await material(db, 50)
    assert one.key == again.key and len(one.decisions) == 50
    assert len({d.window_id for d in one.decisions}) > 30, "spread over the windows"
    alone = await held_out_decisions(db, ["v0.0.0"], limit=50)
    assert alone.key != one.key


@pytest.mark.parametrize("trained", ["v0.0.0", "v0.0.1"])
async def test_what_was_trained_on_and_72_hours_more_are_left_out(db: Databases, trained: str) -> None:
    await db.rl.execute(
        """INSERT INTO rl.training_batches (batch_sha256, day, uri, status, groups, episodes, calls, config)
           VALUES ('b', '2026-09-28', 'x', 'ready', 1, 1, 1, '{}')"""
    )
    await db.rl.execute(
        """INSERT INTO rl.training_units
             (unit_key, batch_sha256, day, parent_version, config, backend, status)
           VALUES ('u', 'b', '2026-09-28', 'v0.0.0', '{}', 'embedded', 'done')"""
    )
    await db.rl.execute(
        "INSERT INTO rl.trained_windows (window_id, unit_key, version) VALUES ('2026-09-28T20:00', 'u', $1)",
        trained,
    )
    found = await material(db, 2000)
    assert found.trained_until == "2026-09-28T20:00"
    assert min(d.window_id for d in found.decisions) == "2026-10-01T21:00", "72 hours after 21:00"
    await db.rl.execute("UPDATE rl.trained_windows SET window_id = '2026-10-01T00:00'")
    with pytest.raises(NothingToReplayError, match="2026-10-04 01:00 UTC or later"):
        await material(db)


async def test_what_has_not_matured_is_left_out(db: Databases) -> None:
    now = datetime(2026, 10, 1, 3, 10, tzinfo=UTC)
    found = await held_out_decisions(db, ["v0.0.0"], now=now)
    assert {d.window_id for d in found.decisions} == {"2026-10-01T00:00", "2026-10-01T01:00"}
    with pytest.raises(NothingToReplayError):
        await held_out_decisions(db, ["v0.0.0"], now=now - timedelta(hours=2))


async def test_the_cost_is_known_before(db: Databases) -> None:
    cost = estimate(await material(db, 100), PriceTable(serverless_request=0.01), hosted=2)
    assert cost.answers == 200 and cost.dollars == pytest.approx(2.0) and cost.prompt_tokens == 200
    assert "$2.00" in str(cost) and "200 answers" in str(cost)
    assert estimate(await material(db, 100), PriceTable(), hosted=0).dollars == 0


@pytest.mark.parametrize(
    ("content", "outcome"),
    [
        ("HOLD", "holds"),
        ("buy something", "invalid"),
        ("ZINC surge BUY 1", "unpriced"),
        ('{"action": "open_long", "market": "AURUM", "amount": 1000000}', "refused"),
        ('{"action": "open_long", "market": "aurum", "amount": 100}', "orders"),
        ('{"action": "buy_yes", "market": "no such question", "amount": 100}', "unpriced"),
    ],
)
async def test_every_kind_of_answer_is_counted(db: Databases, content: str, outcome: str) -> None:
    found = await replayed(db, Fixed("v0.0.1", content), 40)
    assert getattr(found.candidate, outcome) == 40
    if outcome != "orders":
        assert found.candidate.value_mean == 0


async def test_prompts_beyond_the_context_are_left_out_of_both_sides(db: Databases) -> None:
    sample = await material(db, 60)
    lengths = sorted(len(str(d.messages)) for d in sample.decisions)
    found = await replay(db, sample, Fixed("v0.0.1", "HOLD", context=lengths[40]), INCUMBENT)
    assert 0 < found.unanswerable < 20 and found.decisions == 60 - found.unanswerable
    with pytest.raises(NothingToReplayError):
        await replay(db, sample, Fixed("v0.0.1", "HOLD", context=1), INCUMBENT)


async def test_a_model_behind_an_address_is_replayed(db: Databases) -> None:
    sample = await material(db, 30)
    with PolicyServer(Fixed("served", "HOLD")) as served:
        remote = RemotePolicy("v0.0.1", served.base_url, "babylon-agent", served.api_key)
        assert (await replay(db, sample, remote, INCUMBENT)).candidate.holds == 30
        wrong = RemotePolicy("v0.0.1", served.base_url, "babylon-agent", "wrong key")
        with pytest.raises(RemotePolicyError, match="status 401"):
            await replay(db, sample, wrong, INCUMBENT)


async def test_a_price_path_with_holes_is_priced_by_what_was_recorded(db: Databases) -> None:
    sample = await material(db, 100)
    whole = await replay(db, sample, Skilled("v0.0.1", 1.0), INCUMBENT, store=False)
    await db.game.execute(
        """DELETE FROM "StockPrice" WHERE extract(minute FROM "timestamp") IN (10, 25, 40)"""
    )
    holes = await replay(db, sample, Skilled("v0.0.1", 1.0), INCUMBENT, store=False)
    assert holes.candidate.orders == 100 and holes.candidate.unpriced == 0
    assert holes.difference.mean == pytest.approx(whole.difference.mean, abs=0.02)
    await db.game.execute("""DELETE FROM "StockPrice" WHERE "organizationId" = 'aurum'""")
    gone = await replay(db, sample, Skilled("v0.0.1", 1.0), INCUMBENT, store=False)
    assert gone.candidate.unpriced > 0, "without any price an order has no value"


def test_the_command_says_the_cost_first_and_asks_nothing_without_yes(days: str, tmp_path: Path) -> None:
    environment = {"BABYLON_HOME": str(tmp_path), "DATABASE_URL": days, "PATH": os.environ["PATH"]}
    with PolicyServer(Fixed("served", "HOLD")) as served:
        both = (
            "--candidate",
            "v0.0.1",
            "--candidate-url",
            served.base_url,
            "--incumbent-url",
            served.base_url,
        )
        environment |= {"API_KEY": served.api_key, "WANDB_MODE": "none"}
        asked = babylon(environment, "benchmark", "replay", *both, "--decisions", "50")
        assert asked.returncode == 1
        assert "50 recorded decisions, 100 answers" in asked.stderr and "$0.10" in asked.stderr
        assert "Repeat the command with --yes" in asked.stderr and not asked.stdout
        done = babylon(environment, "benchmark", "replay", *both, "--decisions", "50", "--yes", "--json")
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        assert found["finding"] == "undecided" and found["candidate"]["holds"] == 50
